"""Short-lived folders with short names, for sockets and for disks that nobody keeps.

A Unix socket's path ends at 107 characters, less than many a project's. A killed run leaves its
folder behind; the next one that needs a folder takes it away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "vaultbuild-"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder of this run's own, below the host's folder for temporary files."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove what runs left that were killed; folders of other users are not ours to remove."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        if abandoned(folder.name.removeprefix(_PREFIX)) and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)


def abandoned(name: str) -> bool:
    """Tell whether the process is gone whose number starts ``name``, as in ``4711-x7f``."""
    owner = name.partition("-")[0]
    return owner.isdigit() and not Path("/proc", owner).exists()
