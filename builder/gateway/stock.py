"""What lies on this host's disk in a cache: whether it was there before, and is what it was.

Only of caches of our own. Those of a team are asked, and believed as far as digests go.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import unquote, urlsplit

from builder.caches import apt
from builder.digest import digest_file, short
from builder.fetch.urls import redacted
from builder.gateway.ledger import Known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.gateway.ledger import Ledger
    from builder.gateway.lists import Lists

Kind = Literal["file", "index"]
# What moves at its address. By-hash files are named by what they hold.
_INDEX = re.compile(
    r"/dists/(?!.*/by-hash/)|/\+simple/|/$|/InRelease$|/Release(\.gpg)?$|/Packages[^/]*$"
)
_BY_HASH = re.compile(r"/by-hash/SHA256/([0-9a-f]{64})$")
# devpi names a file's folders by the start of its digest.
_DEVPI = re.compile(r"/\+f/([0-9a-f]{3})/([0-9a-f]{13})/")
_RELEASE = re.compile(r"^(?P<suite>.*/)InRelease$")
_ARCHIVES = (".deb", ".udeb", ".ddeb")
_HEAD = ".head"


def kind_of(url: str) -> Kind:
    """Say whether what is at an address may be another thing tomorrow."""
    return "index" if _INDEX.search(url) else "file"


def digest_in(url: str) -> str | None:
    """Return the SHA-256, or its first digits, that an address itself names."""
    if found := _BY_HASH.search(url):
        return found[1]
    found = _DEVPI.search(unquote(url))  # pip quotes the plus
    return found[1] + found[2] if found else None


@dataclass(frozen=True, slots=True)
class State:
    """A file as it was: an index that upstream renewed has another."""

    size: int
    changed: int


class Stock(Protocol):
    """Where a cache keeps what it has."""

    def place(self, url: str) -> Path | None:
        """Return the file that holds an address's bytes, which need not be there."""


@dataclass(frozen=True, slots=True)
class AptStock:
    """apt-cacher-ng's folder: ``packages/HOST/PATH``, and what the mirror said in ``.head``."""

    folder: Path

    def place(self, url: str) -> Path | None:
        """Return the file of a URL."""
        return apt.place(self.folder, url)


@dataclass(frozen=True, slots=True)
class PypiStock:
    """devpi-server's folder: ``+files/USER/INDEX/+f/…``, as in the URL."""

    folder: Path

    def place(self, url: str) -> Path | None:
        """Return the file of a path; pages are in a database."""
        path = unquote(urlsplit(url).path).lstrip("/")
        if "+f/" not in path or ".." in path.split("/"):
            return None
        return self.folder / path


@dataclass(frozen=True, slots=True)
class Storekeeper:
    """Looks after one cache's stock: says what was there, and takes away what is damaged.

    ``asks`` is false in a run that is offline: what would only be fetched again to be sure, stays.
    """

    cache: str
    stock: Stock
    ledger: Ledger
    quarantine: Path
    told: Callable[[str], None]
    lists: Lists | None = None
    asks: bool = True
    _given: dict[str, tuple[str, Known]] = field(default_factory=dict)
    _doubted: dict[str, str] = field(default_factory=dict)

    def state(self, url: str) -> State | None:
        """Return how the file of an address looks; None when the cache does not have it."""
        place = self.stock.place(url)
        try:
            found = place.stat() if place else None
        except OSError:
            return None
        return State(found.st_size, found.st_mtime_ns) if found else None

    def inspect(self, url: str) -> None:
        """Read a file before it is handed out; take it away if it is not what it was.

        A file that is not whole is being fetched right now, or the cache sees itself that it is
        broken.
        """
        place = self.stock.place(url)
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            if place is None or not place.is_file() or not _whole(place):
                return
            if _RELEASE.search(url):
                self._inspect_release(url, place)
            elif kind_of(url) == "file":
                self._inspect_file(url, place)

    def denies(self, url: str, sha256: str) -> str | None:
        """Return the digest that an address must have, where it is not this one."""
        if named := digest_in(url):
            return None if sha256.startswith(named) else named
        known = self.ledger.known(self.cache, url)
        if known and known.sha256 == sha256:
            return None
        listed = self._listed(url)
        return None if not listed or sha256 in listed else min(listed)

    def handed(self, url: str, sha256: str, count: int, modified: str | None) -> None:
        """Remember what a guest was given.

        Of an archive's release only when it was good for something: when the guest then asks for
        what it names. ``modified`` is when the archive says that it was made.
        """
        if redacted(url) != url:
            return  # it has a secret
        if found := _RELEASE.search(url):
            mark, what = f"{url} {modified}", Known(sha256, count)
            if self._doubted.get(url) == sha256:
                self.ledger.learn(self.cache, mark, *what)  # upstream gave the same once more
            else:
                self._given[found["suite"]] = mark, what
            return
        if kind_of(url) == "file":
            self.ledger.learn(self.cache, url, sha256, count)
        if not url.endswith(("/Release", "/Release.gpg")):
            for suite in [suite for suite in self._given if url.startswith(suite)]:
                mark, what = self._given.pop(suite)
                self.ledger.learn(self.cache, mark, *what)

    def _listed(self, url: str) -> frozenset[str]:
        place = self.stock.place(url)
        if self.lists is None or place is None or not url.endswith(_ARCHIVES):
            return frozenset()
        return self.lists.digests(place)

    def _inspect_file(self, url: str, place: Path) -> None:
        known = self.ledger.known(self.cache, url)
        if known and place.stat().st_size != known.bytes:
            return
        if not (known or digest_in(url) or self._listed(url)):
            return  # nobody knows what it should be
        if known is None and self.lists and not _head(place):
            return  # apt-cacher-ng is only beginning with it
        found = digest_file(place)
        wanted = self.denies(url, found)
        if wanted is None and known and found != known.sha256 and not self._listed(url):
            wanted = known.sha256
        if wanted:
            self._take_away(place, wanted, found)

    def _inspect_release(self, url: str, place: Path) -> None:
        """Have a release fetched as a whole that was of no use to anybody yet.

        Left alone, apt-cacher-ng asks for its last byte only, and keeps what it has.
        """
        found = digest_file(place)
        known = self.ledger.known(self.cache, f"{url} {_head(place).get('last-modified')}")
        if known and known.sha256 == found:
            return
        if known:
            self._take_away(place, known.sha256, found)
        elif self.asks and self._doubted.get(url) != found:
            self._doubted[url] = found
            for each in _with_companions(place):
                each.replace(_doubted(each))

    def restore(self, url: str) -> None:
        """Put back a release that was to be fetched as a whole, where upstream does not answer."""
        place = self.stock.place(url)
        if place is None or place.exists():
            return
        for each in (place, place.with_name(place.name + _HEAD)):
            with contextlib.suppress(FileNotFoundError):
                _doubted(each).replace(each)

    def _take_away(self, place: Path, wanted: str, found: str) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        folder = self.quarantine / f"{stamp}-{self.cache}-{short(found)}"
        folder.mkdir(parents=True, exist_ok=True)
        for each in _with_companions(place):
            shutil.move(each, folder / each.name)
        self.told(
            f"{place.name} in the {self.cache} cache is damaged (SHA-256 {short(found)}, not"
            f" {short(wanted)}): moved to {folder}, fetched again"
        )


def _doubted(place: Path) -> Path:
    return place.with_name(f".{place.name}.doubted")


def _with_companions(place: Path) -> Iterator[Path]:
    yield place
    head = place.with_name(place.name + _HEAD)
    if head.exists():
        yield head


def _head(place: Path) -> dict[str, str]:
    """Return what apt-cacher-ng wrote down of a file, by names in small letters."""
    try:
        lines = place.with_name(place.name + _HEAD).read_text(encoding="latin-1").splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}


def _whole(place: Path) -> bool:
    length = _head(place).get("content-length", "")
    return not length.isdigit() or place.stat().st_size >= int(length)
