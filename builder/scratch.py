"""Short-lived folders with short names, for sockets and for disks that nobody keeps.

A Unix socket's path ends at 107 characters, less than many a project's. A killed run leaves its
folder behind; the next one that needs a folder takes it away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from builder import files

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "vaultbuild-"
_YOUNG_SECONDS = 60


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder of this run's own, below the host's folder for temporary files."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    with owned(folder):
        yield folder


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a folder for as long as the block runs, then remove it.

    It is held by a lock, which goes with its holder: the number of a process, which its name tells,
    means nothing in another container that shares the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep() -> None:
    """Remove what runs left that were killed; folders of other users are not ours to remove."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid():
                remove_abandoned(folder, folder.name.removeprefix(_PREFIX))


def remove_abandoned(folder: Path, name: str) -> None:
    """Remove a folder that nobody holds; ``name`` begins with its maker's number: ``4711-x7f``."""
    if not _may_be_abandoned(folder, name):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def is_abandoned(folder: Path, name: str) -> bool:
    """Whether :func:`remove_abandoned` would remove a folder."""
    return _may_be_abandoned(folder, name) and not files.is_locked(folder)


def _may_be_abandoned(folder: Path, name: str) -> bool:
    """Whether a folder is ours, and so old that its maker would hold it by now."""
    maker = name.partition("-")[0]
    return maker.isdigit() and not (Path("/proc", maker).exists() and _young(folder))


def _young(folder: Path) -> bool:
    return time.time() - folder.stat().st_mtime < _YOUNG_SECONDS
