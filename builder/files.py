"""Write so that nobody ever sees half of it, and lock so that nobody is surprised.

"Write aside, then rename" survives a killed process but not a power cut: a journalled file system
may commit the rename before the data. So data, folder and parent folder are synced, in this order.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Put ``text`` at ``path`` in one step: readers see the old file or the new one.

    ``durable`` false leaves out the syncs; use it for what may be lost, such as a cache.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    if durable:
        sync(path.parent)


def write_json(path: Path, document: Any, *, durable: bool = True) -> None:
    """Write a document as readable JSON; see :func:`write_text`."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n", durable=durable)


def sync_tree(folder: Path) -> None:
    """Force everything below ``folder`` to the disk, files before the folders that name them."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                sync(path)
        sync(Path(root))


def commit(staged: Path, place: Path) -> bool:
    """Move the folder ``staged`` to ``place`` in one durable rename.

    Returns False, and leaves ``staged`` alone, when somebody else was there first. Both folders
    must be on one file system.
    """
    sync_tree(staged)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(place)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    sync(place.parent)
    return True


@contextlib.contextmanager
def lock(
    path: Path, *, waiting: Callable[[str], None] | None = None, shared: bool = False
) -> Iterator[int]:
    """Hold a lock; yield its descriptor, to be kept open by programs that need it too.

    ``shared`` keeps out only those who want it for themselves.

    ``waiting`` is called once, with what the holder wrote about itself, before waiting for it. The
    file is never removed: removing a lock file lets two holders in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting(os.pread(descriptor, 4096, 0).decode(errors="replace").strip())
            fcntl.flock(descriptor, kind)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        # Closing, not unlocking: a program that was handed the descriptor goes on holding the lock.
        os.close(descriptor)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a lock for oneself if nobody has it; yield whether it is held. Waits for nobody.

    Writes nothing into the file, whose time tells when somebody last worked under the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _taken(descriptor)
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock, alone or shared. Makes no file where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _taken(descriptor)
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
