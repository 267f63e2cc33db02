"""What lies on this host's disk in a cache: whether it was there before, and is what it was.

Only of caches of our own. Those of a team are asked, and believed as far as digests go.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import unquote, urlsplit

from builder.caches import apt
from builder.digest import digest_file, short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.gateway.ledger import Ledger

Kind = Literal["file", "index"]
# What moves at its address. By-hash files are named by what they hold.
_INDEX = re.compile(
    r"/dists/(?!.*/by-hash/)|/\+simple/|/$|/InRelease$|/Release(\.gpg)?$|/Packages[^/]*$"
)
_BY_HASH = re.compile(r"/by-hash/SHA256/([0-9a-f]{64})$")
# devpi names a file's folders by the start of its digest.
_DEVPI = re.compile(r"/\+f/([0-9a-f]{3})/([0-9a-f]{13})/")


def kind_of(url: str) -> Kind:
    """Say whether what is at an address may be another thing tomorrow."""
    return "index" if _INDEX.search(url) else "file"


def digest_in(url: str) -> str | None:
    """Return the SHA-256, or its first digits, that an address itself names."""
    if found := _BY_HASH.search(url):
        return found[1]
    found = _DEVPI.search(url)
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
    """Looks after one cache's stock: says what was there, and takes away what is damaged."""

    cache: str
    stock: Stock
    ledger: Ledger
    quarantine: Path
    told: Callable[[str], None]

    def state(self, url: str) -> State | None:
        """Return how the file of an address looks; None when the cache does not have it."""
        place = self.stock.place(url)
        try:
            found = place.stat() if place else None
        except OSError:
            return None
        return State(found.st_size, found.st_mtime_ns) if found else None

    def inspect(self, url: str) -> None:
        """Read a file that never changes before it is handed out; take it away if it did.

        A file that is not as long as it was is being fetched right now, or the cache sees itself
        that it is broken.
        """
        place, known = self.stock.place(url), self.ledger.known(self.cache, url)
        wanted = known.sha256 if known else digest_in(url)
        if place is None or wanted is None or not place.is_file():
            return
        if known and place.stat().st_size != known.bytes:
            return
        found = digest_file(place)
        if not found.startswith(wanted):
            self._take_away(place, wanted, found)

    def _take_away(self, place: Path, wanted: str, found: str) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        folder = self.quarantine / f"{stamp}-{self.cache}-{short(found)}"
        folder.mkdir(parents=True, exist_ok=True)
        for each in self._with_companions(place):
            shutil.move(each, folder / each.name)
        self.told(
            f"{place.name} in the {self.cache} cache is damaged (SHA-256 {short(found)}, not"
            f" {short(wanted)}): moved to {folder}, fetched again"
        )

    @staticmethod
    def _with_companions(place: Path) -> Iterator[Path]:
        yield place
        head = place.with_name(place.name + ".head")
        if head.exists():
            yield head
