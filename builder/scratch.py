"""Short-lived folders: short names for sockets and disks that nobody keeps, and work in progress.

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
_STAGING = ".staging-"
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


@contextlib.contextmanager
def staging(place: Path) -> Iterator[Path]:
    """Yield a fresh folder in ``place``, for what is then moved to its own place there.

    It is removed in the end, unless it was moved. A killed run leaves it for :func:`sweep_staging`.
    """
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_STAGING}{os.getpid()}-", dir=place))
    folder.chmod(0o755)
    with owned(folder):
        yield folder


def trash(place: Path, name: str) -> Path:
    """Return where in ``place`` something is put that is about to go; it is swept if need be."""
    return place / f"{_STAGING}{os.getpid()}-{name}"


def staging_folders(place: Path) -> list[Path]:
    """Return the folders of work in progress in ``place``, and of work that did not end well."""
    return sorted(place.glob(f"{_STAGING}*"))


def sweep_staging(place: Path) -> None:
    """Remove the staging folders in ``place`` that nobody holds."""
    for folder in staging_folders(place):
        with contextlib.suppress(OSError):
            remove_staging(folder)


def remove_staging(folder: Path) -> None:
    """Remove a staging folder that nobody holds."""
    remove_abandoned(folder, folder.name.removeprefix(_STAGING))


def is_staging_abandoned(folder: Path) -> bool:
    """Whether :func:`remove_staging` would remove a folder."""
    return is_abandoned(folder, folder.name.removeprefix(_STAGING))


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
