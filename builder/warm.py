"""Fetch into the caches what builds will ask for, before they do and while the network is there.

What that is, network locks tell: of the images in the store, or of a release. Each thing goes
through the caches as a guest's request would, so that the caches have it afterwards, and has to be
what the lock says. Where an archive's index moved meanwhile, the packages that took the place of
those in the lock are fetched too: a build would ask for them.

Nothing is fetched twice: what a cache of this host has is read there and compared. So a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import http.client
import posixpath
import socket
import threading
import urllib.parse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from builder.digest import digest_file
from builder.gateway import Pauses
from builder.upstream import archive

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.gateway.stock import Stock
    from builder.network import NetworkLock

State = Literal["present", "fetched", "moved", "gone", "failed", "left"]
SERVED: Final = ("apt", "pypi")
"""The caches that fetch by themselves when they are asked; the others are filled by vaultbuild."""
_BLOCK = 1 << 18
_SECONDS = 300
_AT_ONCE = 4
_PAUSES = Pauses(attempts=3)
_NOT_THERE = {404, 410}
# What apt fetches of a folder of indexes; it takes the first that there is.
_LISTS = ("Packages.xz", "Packages.gz"), ("Translation-en.xz", "Translation-en.bz2")


@dataclass(frozen=True, slots=True)
class Want:
    """One thing to be in a cache. ``sha256`` is None where nobody knows what it will be."""

    cache: str
    url: str
    bytes: int
    kind: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a want.

    ``moved``: it is there, but not what the lock says; ``gone``: upstream has it no more; ``left``:
    it was not asked for, because of a limit. ``received`` counts the bytes that came.
    """

    want: Want
    state: State
    received: int = 0
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as ``cache warm --json`` tells it."""
        told = {"cache": self.want.cache, "url": self.want.url, "state": self.state}
        return {**told, "received": self.received, **({"why": self.why} if self.why else {})}


def wants_of(locks: Iterable[NetworkLock]) -> tuple[Want, ...]:
    """Return what locks name, each once, indexes first: a package's server is told by its index."""
    found: dict[tuple[str, str], Want] = {}
    for one in (one for lock in locks for one in lock.handed):
        if one.cache in SERVED:
            # Of an index that was handed out more than once, the last is the one that was used.
            found[one.cache, one.url] = Want(one.cache, one.url, one.bytes, one.kind, one.sha256)
    return tuple(sorted(found.values(), key=lambda want: want.kind != "index"))


def out_of_reach(locks: Iterable[NetworkLock]) -> tuple[str, ...]:
    """Return what no cache can have: what roles fetched past the caches."""
    found = list(locks)
    direct = (one.url for lock in found for one in lock.handed if one.cache == "direct")
    tunnels = (one.address for lock in found for one in lock.tunnels)
    return tuple(dict.fromkeys((*direct, *tunnels)))


class Limits:
    """How much may be fetched: a budget of bytes, and room on the disk."""

    def __init__(self, budget: int | None, room: Callable[[], int], reserve: int) -> None:
        self._left = budget
        self._room = room
        self._reserve = reserve
        self._lock = threading.Lock()

    def take(self, count: int) -> str | None:
        """Take ``count`` bytes of the budget; return why they may not be had."""
        with self._lock:
            if self._room() - count < self._reserve:
                return "the disk is full"
            if self._left is None:
                return None
            if count > self._left:
                return "the budget is used up"
            self._left -= count
            return None

    def give_back(self, count: int) -> None:
        """Take back what was not needed after all."""
        with self._lock:
            if self._left is not None:
                self._left += count


class Warmer:
    """Asks the caches, as a guest would, at the ports of a gateway."""

    def __init__(
        self,
        urls: Mapping[str, str],
        stocks: Mapping[str, Stock],
        limits: Limits,
        progress: Callable[[Found], None],
        pauses: Pauses = _PAUSES,
    ) -> None:
        """``urls`` are the gateway's, ``stocks`` the folders of the caches of this host."""
        self._urls = urls
        self._stocks = stocks
        self._limits = limits
        self._progress = progress
        self._pauses = pauses
        self._links: set[http.client.HTTPConnection] = set()
        self._stopped = False

    def warm(self, wants: Sequence[Want]) -> list[Found]:
        """Have everything in the caches that can be had; return what came of each want."""
        indexes = [want for want in wants if want.kind == "index"]
        found, texts = [], {}
        for want in indexes:
            told, body = self._one(want, keep=archive.is_release(want.url))
            found.append(told)
            if body is not None:
                texts[want.url] = body.decode(errors="replace")
        rest = [want for want in wants if want.kind != "index"]
        moved = {told.want.url for told in found if told.state == "moved"}
        releases = {url: text for url, text in texts.items() if url in moved}
        successors = self._successors(rest, releases)
        found += successors
        # Lists first: where they are, the gateway sees a package that a mirror gives wrongly.
        lists = [want for want in rest if "/by-hash/" in want.url]
        others = [want for want in rest if "/by-hash/" not in want.url]
        done = self._all(lists) + self._all(others)
        return found + [_excused(one, successors, moved) for one in done]

    def _all(self, wants: Sequence[Want]) -> list[Found]:
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                return [told for told, _ in pool.map(self._one, wants)]
            except BaseException:
                # Ctrl-C: what is on its way would be waited for, hours where it is large.
                self._stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _stop(self) -> None:
        self._stopped = True
        for link in list(self._links):
            with contextlib.suppress(OSError):
                if link.sock:
                    link.sock.shutdown(socket.SHUT_RDWR)

    def _one(self, want: Want, *, keep: bool = False) -> tuple[Found, bytes | None]:
        found, body = self._tried(want, keep=keep)
        self._progress(found)
        return found, body

    def _tried(self, want: Want, *, keep: bool) -> tuple[Found, bytes | None]:
        if want.kind == "file" and (place := self._present(want)):
            return Found(want, "present"), place.read_bytes() if keep else None
        if why := self._limits.take(want.bytes):
            return Found(want, "left", why=why), None
        found, body = self._asked(want, keep=keep)
        if not found.received:
            self._limits.give_back(want.bytes)
        return found, body

    def _asked(self, want: Want, *, keep: bool) -> tuple[Found, bytes | None]:
        before = self._look(want)
        try:
            status, sha256, count, body = self._got(want, keep=keep)
        except (OSError, http.client.HTTPException) as error:
            return Found(want, "failed", why=str(error) or type(error).__name__), None
        if status in _NOT_THERE:
            return Found(want, "gone", why=f"upstream says {status}"), None
        if status != 200:  # noqa: PLR2004 - the one status that means here it is
            return Found(want, "failed", why=f"the cache says {status}"), None
        # Of an index that the cache has, upstream was only asked whether it is the same.
        unchanged = before is not None and before == self._look(want)
        if want.sha256 not in {None, sha256}:
            return Found(want, "moved", received=0 if unchanged else count), body
        return Found(want, "present") if unchanged else Found(want, "fetched", count), body

    def _got(self, want: Want, *, keep: bool) -> tuple[int, str, int, bytes | None]:
        """Fetch a thing, as often as it breaks: guests ask again, too."""
        error: OSError | http.client.HTTPException | None = None
        for _ in self._pauses.take():
            if self._stopped:
                break
            try:
                return self._get(want, keep=keep)
            except (OSError, http.client.HTTPException) as broken:
                error = broken
        raise error or OSError("stopped")

    def _place(self, want: Want) -> Path | None:
        stock = self._stocks.get(want.cache)
        return stock.place(_path(want)) if stock else None

    def _present(self, want: Want) -> Path | None:
        """Return the file of a thing that a cache of this host has, as it must be."""
        place = self._place(want)
        if place is None or want.sha256 is None or not place.is_file():
            return None
        same = place.stat().st_size == want.bytes and digest_file(place) == want.sha256
        return place if same else None

    def _look(self, want: Want) -> tuple[int, int] | None:
        place = self._place(want)
        try:
            found = place.stat() if place else None
        except OSError:
            return None
        return (found.st_size, found.st_mtime_ns) if found else None

    def _get(self, want: Want, *, keep: bool) -> tuple[int, str, int, bytes | None]:
        """Fetch a thing through the gateway; return its status, digest, size, and bytes to keep."""
        address = urllib.parse.urlsplit(self._urls[want.cache]).netloc
        link = http.client.HTTPConnection(address, timeout=_SECONDS)
        digest, count, kept = hashlib.sha256(), 0, bytearray()
        self._links.add(link)
        try:
            link.request("GET", _path(want), headers={"Connection": "close"})
            answer = link.getresponse()
            while block := answer.read(_BLOCK):
                digest.update(block)
                count += len(block)
                if keep:
                    kept += block
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
            return answer.status, digest.hexdigest(), count, bytes(kept) if keep else None
        finally:
            self._links.discard(link)
            link.close()

    def _successors(self, wants: Sequence[Want], releases: Mapping[str, str]) -> list[Found]:
        """Have what a build would ask for instead of some wants, now that indexes moved."""
        found: list[Found] = []
        packages: list[tuple[str, archive.Package]] = []
        for want in (want for url, text in releases.items() for want in _lists(url, text, wants)):
            told, body = self._one(want, keep=True)
            found.append(told)
            if body is not None and "/binary-" in want.url:
                root = want.url.partition("/dists/")[0]
                packages += [(root, one) for one in archive.read_packages(archive.unpack(body))]
        return found + self._all(list(_newer(wants, packages)))


def _excused(found: Found, successors: Sequence[Found], moved: Collection[str]) -> Found:
    """Say of a thing that is gone that it moved, where what took its place is there."""
    if found.state != "gone":
        return found
    url = found.want.url
    name = archive.package_file(url)
    there = (
        archive.package_file(one.want.url)
        for one in successors
        if one.state in {"fetched", "present"}
    )
    replaced = name and any(other and other[0] == name[0] for other in there)
    renewed = "/by-hash/" in url and any(
        url.startswith(posixpath.dirname(each) + "/") for each in moved
    )
    if replaced or renewed:
        return replace(found, state="moved", why="the archive was renewed")
    return found


def _path(want: Want) -> str:
    return want.url if "://" in want.url else f"/{want.url}"


def _lists(url: str, text: str, wants: Sequence[Want]) -> Iterator[Want]:
    """Yield the lists that an archive's moved index names, in the folders that were used before."""
    suite = posixpath.dirname(url)
    try:
        release = archive.read_release(text)
    except archive.ArchiveError:
        return
    known = {want.url for want in wants}
    folders = dict.fromkeys(
        posixpath.dirname(want.url.removeprefix(f"{suite}/").partition("/by-hash/")[0] + "/")
        for want in wants
        if want.url.startswith(f"{suite}/")
    )
    for folder in folders:
        for names in _LISTS:
            paths = (posixpath.join(folder, name) for name in names)
            listed = next((release.files[path] for path in paths if path in release.files), None)
            if listed and (address := archive.by_hash(suite, listed)) not in known:
                yield Want("apt", address, listed.bytes, "file", listed.sha256)


def _newer(
    wants: Sequence[Want], packages: Sequence[tuple[str, archive.Package]]
) -> Iterator[Want]:
    """Yield the packages that took the place of those in ``wants``."""
    known = {want.url for want in wants}
    names = {found[0] for want in wants if (found := archive.package_file(want.url))}
    best: dict[str, tuple[str, archive.Package]] = {}
    for root, package in packages:
        old = best.get(package.name)
        if old is None or archive.compare_versions(package.version, old[1].version) > 0:
            best[package.name] = (root, package)
    for name in sorted(names & best.keys()):
        root, package = best[name]
        url = f"{root}/{package.file}"
        if url not in known:
            yield Want("apt", url, package.bytes, "file", package.sha256)


def summary(found: Sequence[Found]) -> dict[str, Any]:
    """Return how many things are in which state, and the bytes that came."""
    states = [one.state for one in found]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return {"counts": counts, "received": sum(one.received for one in found)}
