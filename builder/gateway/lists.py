"""What an archive's lists say of its packages, as far as the apt cache has the lists.

apt-cacher-ng keeps what a mirror gives, also what a mirror in the midst of its sync gives: then
every guest gets the wrong bytes from there, and none can do anything about it. The lists came the
same way and name the digest of each package.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import re
import threading
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_UNPACKERS = {
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
}
_FIELDS = re.compile(rb"^(Package|Filename|SHA256): *(\S+)", re.MULTILINE)
_BY_HASH = "/by-hash/SHA256/"


class _Read(NamedTuple):
    """A list as it was when it was read."""

    look: tuple[int, int]
    digests: Mapping[str, str]


class Lists:
    """The lists in apt-cacher-ng's folder, each read when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, _Read] = {}
        self._lock = threading.Lock()

    def digests(self, place: Path) -> frozenset[str]:
        """Return what lists say of the file of a package; nothing where none has it.

        They are several where an archive had other bytes under that name before.
        """
        host, _, path = place.relative_to(self._folder).as_posix().partition("/")
        with self._lock:
            told = (
                self._of(file).get(posixpath.relpath(path, root))
                for file, root in _lists_below(self._folder / host)
            )
            return frozenset(digest for digest in told if digest)

    def _of(self, file: Path) -> Mapping[str, str]:
        try:
            found = file.stat()
            look = (found.st_size, found.st_mtime_ns)
            known = self._known.get(file)
            if known is None or known.look != look:
                known = self._known[file] = _Read(look, read(file.read_bytes()))
        except OSError:
            return {}
        return known.digests


def read(content: bytes) -> dict[str, str]:
    """Return the digests of packages by their files; of what is no list, nothing."""
    for magic, unpack in _UNPACKERS.items():
        if content.startswith(magic):
            try:
                content = unpack(content)
            except (OSError, EOFError, lzma.LZMAError, zlib.error):
                return {}  # it is only just coming, or damaged, which others see
    found: dict[str, str] = {}
    file = ""
    for name, value in _FIELDS.findall(content):
        if name == b"Filename":
            file = posixpath.normpath(value.decode(errors="replace"))
        elif name == b"SHA256" and file:
            found[file] = value.decode(errors="replace").lower()
        else:
            file = ""
    return found


def _lists_below(host: Path) -> Iterator[tuple[Path, str]]:
    """Yield each list of packages of a host, and the folder that its files are relative to."""
    for parent, folders, names in os.walk(host):
        folders[:] = [name for name in folders if name != "pool"]
        path = os.path.relpath(parent, host)
        if _BY_HASH in f"/{path}/":
            wanted = names if "/binary-" in f"/{path}" or "/dists/" not in f"/{path}" else []
        else:
            wanted = [name for name in names if name.startswith("Packages")]
        for name in wanted:
            if not name.endswith(".head"):
                yield host / path / name, _root(path)


def _root(path: str) -> str:
    """Return the folder of an archive: above ``dists``, or that of a flat archive's list."""
    above, dists, _ = f"/{path}/".partition("/dists/")
    folder = above if dists else f"/{path}/".partition(_BY_HASH)[0]
    return folder.strip("/") or "."
