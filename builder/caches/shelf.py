"""What caches of whole files have in common: files by digest, read through before they are used.

A file that is there proves nothing: disks forget, people edit, and a length stays right when a bit
flips. So the bytes are digested each time a build is about to use them. What is not what its digest
says goes to quarantine, as evidence, with one line that tells both digests, and is fetched again.

Whoever needs a file holds its lock while looking for it and while fetching it: of two runs that
need it at once, one fetches and the other finds it there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from builder import files
from builder.caches import kept
from builder.digest import digest_file
from builder.errors import VaultbuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from builder.fetch import Got

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Done = TypeVar("_Done")

TTL = 72 * 3600.0
"""Seconds after which upstream is asked again, where a setting does not say otherwise."""

STAMP = "checked.json"
"""Where a :class:`Stamp` lies beside an artefact."""

_SCHEMA = 1
_LATELY = 24 * 3600.0
_AT_ONCE = 4


class NotCachedError(VaultbuildError):
    """Something is not in a cache, and the network is not to be used."""


def not_cached(what: str, missing: Iterable[str], *, cache: str) -> NotCachedError:
    """Return the error that names what is ``missing``, line by line."""
    lines = "".join(f"\n       {line}" for line in missing)
    return NotCachedError(
        f"offline, and {what} not in the {cache} cache:{lines}",
        hint=f"with the network on: vaultbuild cache warm {cache}, and --variant as in this run",
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of a cache, with the bytes that its digest says.

    ``fetched`` tells that somebody was asked for it now, ``received`` how many bytes came, and
    ``spoiled`` that it was there with other bytes.
    """

    path: Path
    sha256: str
    bytes: int
    received: int = 0
    seconds: float = 0.0
    spoiled: bool = False
    fetched: bool = False


@dataclass(frozen=True, slots=True)
class Shelf:
    """The files of one cache. ``var`` is the project's ``cache/var``."""

    cache: str
    var: Path

    @property
    def folder(self) -> Path:
        """Where the files of this cache are."""
        return self.var / self.cache

    def lock_file(self, digest: str) -> Path:
        """Return the file that is locked while somebody works on an artefact."""
        return self.var / "locks" / f"{self.cache}-{digest}.lock"

    @contextlib.contextmanager
    def locked(self, digest: str, what: str) -> Iterator[None]:
        """Have an artefact for oneself."""

        def waiting(holder: str) -> None:
            _log.info("%s: waiting for another run that fetches it (%s)", what, holder)

        with files.lock(self.lock_file(digest), waiting=waiting):
            yield

    def obtain(self, path: Path, sha256: str, fetch: Callable[[Path], Got] | None) -> Kept | None:
        """Return the file at ``path``, fetched where it is not there or not what it must be.

        None where it would have to be fetched and ``fetch`` is None.
        """
        with self.locked(sha256, path.name):
            there = path.is_file()
            if there and self.verified(path, sha256):
                return Kept(path, sha256, path.stat().st_size)
            if fetch is None:
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            got = fetch(path)
            self.note(path, sha256)
            return Kept(
                path=path,
                sha256=sha256,
                bytes=got.bytes,
                received=got.received,
                seconds=got.seconds,
                spoiled=there,
                fetched=True,
            )

    def verified(self, path: Path, sha256: str) -> bool:
        """Read a file through; what has another digest goes to quarantine."""
        found = digest_file(path)
        if found == sha256:
            self.note(path, sha256)
            return True
        self.quarantine(path, f"its SHA-256 is {found}, wanted {sha256}")
        return False

    def note(self, path: Path, sha256: str) -> None:
        """Tell the file server that a file was just read through, so that it need not.

        Reading gigabytes twice would make a guest wait for longer than its patience.
        """
        note = {"look": _look(path), "time": time.time()}
        files.write_json(_note(self.folder, sha256), note, durable=False)

    def quarantine(self, path: Path, reason: str) -> Path:
        """Move a file, or the one that a link leads to, out of the way; return where it is now."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        place = self.var / "quarantine"
        place.mkdir(parents=True, exist_ok=True)
        prefix = f"{stamp}-{self.cache}-{path.name}-"
        moved = Path(tempfile.mkdtemp(prefix=prefix, dir=place)) / path.name
        shown = path.relative_to(self.var)
        _log.warning("%s is not what it was: %s; moved to %s", shown, reason, moved)
        path.resolve().rename(moved)
        if path.is_symlink():
            path.unlink()
        files.write_text(moved.with_name("why"), f"{shown}: {reason}\n", durable=False)
        return moved


def was_read(folder: Path, path: Path, sha256: str) -> bool:
    """Whether a file of the cache in ``folder`` was read through lately, and looks the same since.

    That is enough for who serves it to guests: each build reads what it needs before it starts one.
    """
    try:
        note = json.loads(_note(folder, sha256).read_text(encoding="utf-8"))
        age = time.time() - float(note["time"])
        return bool(note["look"] == _look(path)) and 0 <= age < _LATELY
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _note(folder: Path, sha256: str) -> Path:
    return folder / ".read" / f"{sha256}.json"


def _look(path: Path) -> list[int]:
    """Return what tells a file from what it was: any edit moves its ctime, which nobody can set."""
    now = path.stat()
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]


# --- when upstream was last asked -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stamp:
    """What upstream said about an artefact, and when. ``checked`` is in seconds since 1970.

    ``trouble`` is what came of the last question, where that was not a yes.
    """

    url: str
    checked: float | None = None
    etag: str | None = None
    modified: str | None = None
    trouble: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def fresh(self, ttl: float, now: float) -> bool:
        """Whether it was asked, and said yes, within the last ``ttl`` seconds.

        A time to come is none: somebody set the clock back.
        """
        return self.checked is not None and 0 <= now - self.checked < ttl

    def write(self, path: Path) -> None:
        """Keep the stamp."""
        files.write_json(path, {"schema": _SCHEMA, **asdict(self)}, durable=False)

    @classmethod
    def read(cls, path: Path) -> Stamp | None:
        """Return the stamp in ``path``; one that cannot be read is none."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document.pop("schema") != _SCHEMA:
                return None
            return cls(**document)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def growing(progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """Return what a fetcher tells the size of one file to, when ``progress`` adds up many.

    It hears what came since; less than nothing when a download began again.
    """
    if progress is None:
        return None
    known = 0

    def told(size: int) -> None:
        nonlocal known
        progress(size - known)
        known = size

    return told


def side_by_side(
    work: Callable[[_Item, Callable[[int], None]], _Done],
    items: Sequence[_Item],
    progress: Callable[[int], None] | None,
) -> list[_Done]:
    """Do ``work`` for each item, several at once; return what came of them in their order.

    ``work`` is also given what its download tells the bytes to that came: in place of ``progress``,
    for it ends the download when another one failed. The first error is raised when all have ended.
    """
    failed = threading.Event()

    def told(count: int) -> None:
        if failed.is_set():
            raise CancelledError  # at its next block; it goes on from there another time
        if progress:
            progress(count)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        begun = [pool.submit(work, item, told) for item in items]
        try:
            done, _ = wait(begun, return_when=FIRST_EXCEPTION)
            for one in done:
                one.result()
            return [one.result() for one in begun]
        except BaseException:
            failed.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# --- what there is, and what may go ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item(kept.Item):
    """One artefact. ``digest`` names it, ``checked`` is when upstream last confirmed it.

    ``partial_bytes`` are those of a download that is not finished; ``bytes`` has them too.
    """

    digest: str = ""
    checked: float | None = None
    partial_bytes: int = 0


def stale(items: Iterable[Item], *, ttl: float, now: float) -> list[Item]:
    """Return what upstream did not confirm within its time to live."""
    return [item for item in items if not Stamp("", item.checked).fresh(ttl, now)]


def drop(store: Shelf, item: kept.Item, digests: Sequence[str]) -> bool:
    """Remove an artefact unless somebody works on it, or did since; say whether it is gone.

    ``digests`` are those of its files, under whose locks others work on them.
    """
    locks = [store.lock_file(digest) for digest in digests]
    with contextlib.ExitStack() as stack:
        if not all(stack.enter_context(files.try_lock(lock)) for lock in locks):
            return False
        if any(last_used(lock) > item.used for lock in locks):
            return False
        notes = [str(_note(store.folder, digest)) for digest in digests]
        for place in (item.place, *item.parts, *notes):
            path = store.var / place
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return True


def last_used(*paths: Path) -> float:
    """Return when an artefact was last used: locking it leaves its time on the lock's file."""
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


def partial_bytes(folder: Path) -> int:
    """Return what the beginnings of downloads take in ``folder``."""
    found = 0
    for path in folder.glob(".*.partial*"):
        with contextlib.suppress(OSError):
            found += path.stat().st_size
    return found


def is_whole(path: Path) -> bool:
    """Whether a file of a cache is an artefact, not a stamp or the beginning of one."""
    return path.is_file() and not path.name.startswith(".") and path.name != STAMP


def relative_link(link: Path, target: Path) -> None:
    """Make ``link`` lead to ``target`` in one step, so that the whole cache can be moved."""
    link.parent.mkdir(parents=True, exist_ok=True)
    wanted = os.path.relpath(target, link.parent)
    if link.is_symlink() and os.readlink(link) == wanted:  # noqa: PTH115 - text, not a path
        return
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(wanted)
    aside.replace(link)
