"""Content digests, and the memory that spares reading what did not change.

A digest says what a thing holds, never where or when it lies: no path, no time, no owner. Reading
20,000 files to learn that nothing changed takes most of a second, so :class:`StatCache` remembers
what each file held when it had this size, these times and this inode, as git's index does, and
:class:`Facts` remembers facts that were derived from digested things.

Both live under ``cache/var/index``, may be deleted at any time, and hold nothing that is not
recomputed when they are gone, torn or written by another version.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import marshal
import os
import stat
import tempfile
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from builder.errors import Problem, ProjectError
from builder.files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

SHORT: Final = 12
"""How many digits of a key people are shown."""

# Raise it when the meaning of what is remembered changes; the old memory is dropped then.
_MEMORY_SCHEMA: Final = 2

# A file edited twice within one tick of its file system's clock looks untouched the second time.
# The coarsest clock still met is FAT's, with two seconds; ext4 and xfs tick every 4 to 10 ms.
_GRAIN_NS: Final = 2_000_000_000

# What editors, Python, its linters and git leave beside the files that somebody wrote.
_LITTER_FOLDERS: Final = frozenset(
    {"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
)
_LITTER_SUFFIXES: Final = (".pyc", "~")
_SWAP_SUFFIXES: Final = (".swp", ".swo", ".swx")


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of what the file holds; constant memory, whatever its size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(document: Any) -> bytes:
    """Return the one JSON form of a document: sorted keys, no spaces, ASCII alone."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def digest_document(document: Any) -> str:
    """Return the SHA-256 of a document's canonical form."""
    return digest_bytes(canonical(document))


def short(key: str) -> str:
    """Return as much of a key as people are shown."""
    return key[:SHORT]


def is_litter(name: str) -> bool:
    """Tell editor swap files, byte code and ``.git`` from what somebody made on purpose."""
    if name in _LITTER_FOLDERS or name.endswith(_LITTER_SUFFIXES):
        return True
    if name[0] == "." and (name[1:2] == "#" or name.endswith(_SWAP_SUFFIXES)):
        return True
    return name[0] == "#" and name[-1] == "#"


def file_signature(path: Path) -> str:
    """Return what changes when the program at ``path`` is replaced, without reading it."""
    real = os.path.realpath(path)
    found = os.stat(real)  # noqa: PTH116 - realpath gave a string; a Path adds nothing here
    return f"{real} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


class StatCache:
    """What the project's files hold, reading only those that may have changed.

    Paths are strings relative to ``root``, so that a moved project keeps its cache. What a file
    holds is told as ``file:<sha256>``, ``exec:<sha256>`` or ``link:<target>``.

    Two memories: one of whole folders, each with a digest of all that ``stat`` says about its
    files, which is all that a plan of an unchanged project needs; and one of single files, which
    is loaded only when a folder's digest differs.

    A file is remembered only when its times are older than the moment before it was read, by
    more than the clock's grain: a later edit then cannot leave the same times behind. (git looks
    at such entries again when it loads its index; not remembering them is the same rule, made
    when the facts are known.)
    """

    def __init__(self, root: Path, file: Path, *, grain_ns: int = _GRAIN_NS) -> None:
        self.root = root
        self._file = file
        self._folders_file = file.with_name(f"{file.name}.folders")
        self._grain_ns = grain_ns
        self._folders: dict[str, Any] = _load(self._folders_file)
        self._seen: set[str] = set()
        self._changed = False

    @cached_property
    def _files(self) -> dict[str, Any]:
        return _load(self._file)

    @cached_property
    def _moment(self) -> int:
        return _file_clock(self._file)

    def entry(self, path: str) -> str:
        """Tell what one file holds; where it is a link, what the file behind the link holds."""
        now = os.stat(f"{self.root}/{path}")  # noqa: PTH116 - a Path costs more than the stat
        if value := self._find(path, [(path, now)]).get(path):
            return value
        raise FileNotFoundError(path)

    def tree(self, folder: str) -> dict[str, str]:
        """Tell what every file below ``folder`` holds, sorted by path; links are not followed.

        Empty folders do not count, as in git.
        """
        return self._find(f"{folder}/", list(self._walk(folder)))

    def save(self) -> None:
        """Remember for the next run; quietly does without where nothing can be written."""
        if not self._changed:
            return
        # What this run did not look at may be another variant's: it stays while it exists.
        for memory in (self._folders, self._files):
            for path in memory.keys() - self._seen:
                if not os.path.lexists(f"{self.root}/{path}"):
                    del memory[path]
        _save(self._folders_file, self._folders)
        _save(self._file, self._files)
        self._changed = False

    def _walk(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        folders = [folder]
        while folders:
            above = folders.pop()
            # From a descriptor the kernel need not walk the path for each file: half the time.
            descriptor = _open_folder(self.root / above)
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        name = entry.name
                        # Asked first, cheaply: it spares most of 20,000 calls.
                        if (name[0] in "._#" or name[-1] in "c~") and is_litter(name):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(f"{above}/{name}")
                            continue
                        try:
                            now = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue  # gone since its folder was listed: as if never there
                        yield f"{above}/{name}", now
            finally:
                os.close(descriptor)

    def _find(self, name: str, files: Sequence[tuple[str, os.stat_result]]) -> dict[str, str]:
        """Tell what files hold, from the memory of folders if they all look as they did."""
        self._seen.add(name)
        looks = _looks(files)
        remembered = self._folders.get(name)
        if remembered is not None and remembered[0] == looks:
            return dict(remembered[1])
        found = dict(sorted(self._look(files).items()))
        if found.keys() <= self._files.keys():
            self._folders[name] = [looks, found]
            self._changed = True
        elif self._folders.pop(name, None) is not None:
            self._changed = True
        return found

    def _look(self, files: Iterable[tuple[str, os.stat_result]]) -> dict[str, str]:
        found: dict[str, str] = {}
        for path, now in files:
            known = self._files.get(path)
            if known is not None and known[0] == _signature(now):
                found[path] = known[1]
                continue
            with contextlib.suppress(FileNotFoundError):
                found[path] = self._read(path, now)
        self._seen.update(found)
        return found

    def _read(self, path: str, now: os.stat_result) -> str:
        youngest = self._moment - self._grain_ns
        value = _value(self.root / path, now.st_mode)
        if max(now.st_mtime_ns, now.st_ctime_ns) < youngest:
            self._files[path] = [_signature(now), value]
            self._changed = True
        elif self._files.pop(path, None) is not None:
            self._changed = True
        return value


class Facts:
    """Derived facts by name, each valid for one digest of what it was derived from.

    The last one of each name is kept: enough to find an unchanged project unchanged.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Any] = _load(file)
        self._changed = False

    def remember(self, name: str, inputs: str, derive: Callable[[], _T]) -> _T:
        """Return the fact ``name`` for these inputs, deriving it only when it is not known.

        The fact must survive JSON: text, numbers, lists, dicts with text for keys.
        """
        known = self._known.get(name)
        if known is not None and known[0] == inputs:
            remembered: _T = known[1]
            return remembered
        value = derive()
        self._known[name] = [inputs, value]
        self._changed = True
        return value

    def save(self) -> None:
        """Remember for the next run; quietly does without where nothing can be written."""
        if self._changed:
            _save(self._file, self._known)
        self._changed = False


def _signature(found: os.stat_result) -> list[int]:
    """Return what tells a file from what it was: any edit moves its ctime, which nobody can set."""
    times = found.st_mtime_ns, found.st_ctime_ns
    return [found.st_size, *times, found.st_ino, found.st_mode]


def _looks(files: Iterable[tuple[str, os.stat_result]]) -> str:
    """Digest what ``stat`` said about files. Another order or another Python may give another."""
    told: list[str | int] = []
    for path, now in files:
        # As _signature, written out: a call and a list for each of 20,000 files cost 15 ms.
        told += path, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, now.st_mode
    # The only dump in the standard library that is fast on many small numbers; never loaded.
    return digest_bytes(marshal.dumps(told, 2))


def _open_folder(place: Path) -> int:
    try:
        return os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError as error:
        raise _unreadable(place) from error


def _unreadable(place: Path) -> ProjectError:
    return ProjectError([Problem(place, "cannot be read", hint=f"chmod u+rX {place}")])


def _value(place: Path, mode: int) -> str:
    """Read what ``place`` holds, in the form that documents carry."""
    if stat.S_ISLNK(mode):
        return f"link:{place.readlink()}"
    if not stat.S_ISREG(mode):
        raise ProjectError([Problem(place, "is neither a file, a folder nor a link")])
    try:
        digest = digest_file(place)
    except PermissionError as error:
        raise _unreadable(place) from error
    return f"{'exec' if mode & stat.S_IXUSR else 'file'}:{digest}"


def _file_clock(beside: Path) -> int:
    """Return the moment by the clock that stamps files, which on a network is not this host's."""
    now = time.time_ns()
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=beside.parent) as file:
            return min(now, os.fstat(file.fileno()).st_mtime_ns)
    except OSError:
        return now


def _load(file: Path) -> dict[str, Any]:
    """Read a memory; one that is absent, torn, altered or of another schema is empty."""
    try:
        head, _, body = file.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if head != _seal(body):
        _log.debug("%s is not whole or of another version: starting it anew", file)
        return {}
    content: dict[str, Any] = json.loads(body)
    return content


def _save(file: Path, content: dict[str, Any]) -> None:
    body = json.dumps(content, separators=(",", ":")).encode("ascii")
    try:
        write_text(file, f"{_seal(body).decode()}\n{body.decode()}", durable=False)
    except OSError as error:
        _log.debug("%s cannot be written (%s): the next run reads every file again", file, error)


def _seal(body: bytes) -> bytes:
    """Return the first line of a memory: its schema and digest, or it is not believed."""
    return f"vaultbuild index {_MEMORY_SCHEMA} {digest_bytes(body)}".encode()
