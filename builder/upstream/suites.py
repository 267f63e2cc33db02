"""What archives offer at this moment: each file of theirs is asked for once in a run.

The list of a suite is small and says whether anything moved; only where it did is a list of
packages fetched, which may have 10 MB. A list is what the suite says, or it does not count: a
mirror that is just being renewed has a new list of the suite and an old one of packages.
"""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from builder.errors import VaultbuildError
from builder.upstream import archive

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.upstream.archive import Listed, Package, Release

_T = TypeVar("_T")
_MOST_BYTES = 256 << 20


class Answer(Protocol):
    """What a server said."""

    @property
    def body(self) -> bytes:
        """The document."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What is said about it; names in small letters or read without regard to case."""


class Reads(Protocol):
    """Fetches small documents; raises :class:`VaultbuildError` when they cannot be had."""

    def read(self, url: str, *, limit: int = ..., headers: Mapping[str, str] = ...) -> Answer:
        """Return the document at ``url``."""

    def head(self, url: str) -> Answer:
        """Return what is said about the document at ``url``."""


@dataclass(frozen=True, slots=True)
class Current:
    """A suite as it is now; ``sha256`` is that of its own file."""

    url: str
    sha256: str
    release: Release


class Suites:
    """Archives, asked through ``reads``."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._releases: dict[str, Current | VaultbuildError] = {}
        self._lists: dict[str, tuple[Package, ...] | VaultbuildError] = {}

    def release(self, url: str) -> Current:
        """Return what the InRelease or Release file at ``url`` says."""
        return _once(self._releases, url, lambda: self._release(url))

    def packages(self, current: Current, folder: str) -> tuple[Package, ...]:
        """Return what a list of a suite offers; ``folder`` is ``main/binary-amd64``."""
        forms = current.release.packages_in(folder)
        if not forms:
            raise VaultbuildError(f"{current.url} has no list {folder or 'of packages'} any more")
        listed = forms[0]
        return _once(self._lists, listed.sha256, lambda: self._packages(current, listed))

    def _release(self, url: str) -> Current:
        body = self._reads.read(url).body
        try:
            release = archive.read_release(body.decode(errors="replace"))
        except archive.ArchiveError as error:
            raise VaultbuildError(f"{url} is no list of a suite: {error}") from error
        return Current(url, hashlib.sha256(body).hexdigest(), release)

    def _packages(self, current: Current, listed: Listed) -> tuple[Package, ...]:
        suite = posixpath.dirname(current.url)
        plain = f"{suite}/{listed.path}"
        url = archive.by_hash(suite, listed) if current.release.by_hash else plain
        body = self._reads.read(url, limit=_MOST_BYTES).body
        if hashlib.sha256(body).hexdigest() != listed.sha256:
            raise VaultbuildError(
                f"{url} is not what {current.url} says",
                hint="the mirror may be just being renewed: try again in some minutes",
            )
        try:
            return tuple(archive.read_packages(archive.unpack(body)))
        except archive.ArchiveError as error:
            raise VaultbuildError(f"{url} is no list of packages: {error}") from error


def _once(known: dict[str, _T | VaultbuildError], name: str, make: Callable[[], _T]) -> _T:
    """Remember what was said, and also that nothing could be had."""
    if name not in known:
        try:
            known[name] = make()
        except VaultbuildError as error:
            known[name] = error
    found = known[name]
    if isinstance(found, VaultbuildError):
        raise found
    return found
