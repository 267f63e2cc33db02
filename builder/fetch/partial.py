"""A download that is not finished: its bytes beside the target, its lock, and what it is a part of.

``.NAME.partial`` holds the bytes and is itself what is locked, so that two processes that want the
same file fetch it once, and a killed one leaves nothing else behind. A server that gave the file a
name for its version (a strong ETag, or a time of last modification) has it noted in
``.NAME.partial.json``, so that a later run goes on with that version or begins anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from builder import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Version:
    """Which version of which file the bytes belong to, as a server named it."""

    source: str = ""  # a digest of the URL, which may hold a token
    etag: str | None = None
    modified: str | None = None
    total: int | None = None
    boot: str = ""

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str], total: int | None) -> Version:
        """Read an answer's headers; only names that stand for exactly these bytes are kept."""
        source = hashlib.sha256(url.encode()).hexdigest()
        etag = headers.get("etag")
        strong = etag if etag and not etag.startswith("W/") else None
        modified = headers.get("last-modified")
        settled = modified if _settled(modified, headers.get("date")) else None
        return cls(source, strong, settled, total, _boot())

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` says: give the rest of this version, or all of another."""
        return self.etag or self.modified

    def continues(self, url: str) -> bool:
        """Whether a server can be asked for the rest of just this version.

        Not after the host went down in between: then the end of the file may never have been
        written, and only a digest would tell.
        """
        same = self.source == hashlib.sha256(url.encode()).hexdigest()
        return same and self.validator is not None and self.boot == _boot()


class Partial:
    """The bytes of a download that are there. Made by :func:`locked`, which holds the lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._note = path.with_name(path.name + ".json")
        self._digest = hashlib.sha256()
        self.size = 0
        self.version = self._noted()
        self._read()

    @property
    def sha256(self) -> str:
        """The digest of all bytes that are there."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        rest = memoryview(data)
        while rest:
            written = os.write(self._descriptor, rest)
            # Counted as they are written: a disk that is full in the middle leaves the right sum.
            self._digest.update(rest[:written])
            self.size += written
            rest = rest[written:]

    def belongs_to(self, version: Version) -> None:
        """Note which version the bytes are of."""
        if version != self.version:
            self.version = version
            files.write_json(self._note, asdict(version), durable=False)

    def restart(self) -> None:
        """Forget all bytes."""
        self._note.unlink(missing_ok=True)
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._digest, self.size, self.version = hashlib.sha256(), 0, Version()

    def discard(self) -> None:
        """Remove the file. Whoever waits for its lock makes a new one."""
        self.restart()
        self.path.unlink(missing_ok=True)

    def become(self, target: Path) -> None:
        """Put the bytes, which are complete, at ``target``; they survive a power cut there."""
        os.fsync(self._descriptor)
        self._note.unlink(missing_ok=True)
        self.path.replace(target)
        files.sync(target.parent)

    def _read(self) -> None:
        while block := os.read(self._descriptor, _BLOCK):
            self._digest.update(block)
            self.size += len(block)

    def _noted(self) -> Version:
        try:
            document = json.loads(self._note.read_text(encoding="utf-8"))
            return replace(Version(), **document)
        except (OSError, ValueError, TypeError):
            return Version()


@contextlib.contextmanager
def locked(target: Path, *, waiting: Callable[[], None]) -> Iterator[tuple[Partial, bool]]:
    """Hold what is there of ``target``, alone; yield it, and whether somebody else had it before.

    ``waiting`` is called once, before waiting for another process. A file without bytes is removed
    at the end.
    """
    path = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, waited = _opened(path, waiting)
    try:
        partial = Partial(path, descriptor)
        try:
            yield partial, waited
        finally:
            if partial.size == 0 and _is_at(descriptor, path):
                partial.discard()
    finally:
        os.close(descriptor)


def _opened(path: Path, waiting: Callable[[], None]) -> tuple[int, bool]:
    """Open and lock a file that may be renamed or removed while we wait for its lock."""
    waited = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    waiting()
                waited = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):
                return descriptor, waited
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _settled(modified: str | None, date: str | None) -> bool:
    """Whether a time of modification names one version: not in the second in which it was told."""
    try:
        return bool(
            modified
            and date
            and (parsedate_to_datetime(date) - parsedate_to_datetime(modified)).total_seconds() >= 1
        )
    except (TypeError, ValueError):
        return False


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
