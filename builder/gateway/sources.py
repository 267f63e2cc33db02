"""Which places may answer a request, in their order: the cache, mirrors, the cache by itself.

A cache that cannot reach its upstream answers with a 5xx. It is asked again after a pause; then for
another mirror's copy of the same thing, where the project names mirrors; then it must do without
upstream. An upstream that failed too often is left out for a while, also by parallel runs.
"""

from __future__ import annotations

import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from builder.fetch.transient import NotNowError, TransientError
from builder.gateway.outside import basic
from builder.gateway.rules import Address, address_of, address_of_setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.fetch.breaker import Breakers


@dataclass(frozen=True, slots=True)
class Source:
    """One place that may answer a request: where it is, and what is asked there.

    ``upstream`` is the endpoint that the answer depends on beside the cache, for the breaker.
    """

    address: Address
    target: str
    host: str | None = None
    upstream: str | None = None
    stale: bool = False
    tls: bool = False
    login: str | None = None
    """The value of ``Authorization`` for a team's cache; no guest knows it."""


class Sources(Protocol):
    """Who knows the places that may answer."""

    def of(self, url: str) -> Iterator[Source]:
        """Yield them, the best first; each only when those before it failed."""

    def worked(self, source: Source) -> None:
        """A source answered."""

    def failed(self, source: Source, why: str) -> None:
        """A source did not answer, or only that it cannot."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """How often one source is asked, and the longest pauses between, in seconds."""

    attempts: int = 2
    first: float = 0.5
    most: float = 8

    def take(self, sleep: Callable[[float], None] = time.sleep) -> Iterator[int]:
        """Yield the numbers of the attempts, after a pause each, but for the first."""
        for number in range(self.attempts):
            if number:
                longest = min(self.most, self.first * 2 ** (number - 1))
                # Anything up to the longest: runs that failed together must not come together.
                sleep(random.uniform(0, longest))  # noqa: S311 - no secret
            yield number


@dataclass(frozen=True, slots=True)
class IndexSources:
    """A cache that is asked for paths, at its own URL."""

    url: str
    own: bool
    pauses: Pauses = field(default_factory=Pauses)

    def of(self, url: str) -> Iterator[Source]:
        """Yield the cache, as often as it is worth asking."""
        address = address_of_setting(self.url)
        # A server of our own makes links from the name that the guest knows it by.
        user, _, host = ("", "", None) if self.own else urlsplit(self.url).netloc.rpartition("@")
        login = basic(unquote(user)) if user else None
        tls = self.url.startswith("https:")
        for _ in self.pauses.take():
            yield Source(address, url, host=host, tls=tls, login=login)

    def worked(self, source: Source) -> None:
        """Nothing depends on it."""

    def failed(self, source: Source, why: str) -> None:
        """Likewise."""


@dataclass(frozen=True, slots=True)
class AptSources:
    """The apt cache, which is asked for whole URLs and fetches them from mirrors.

    ``mirrors``: the beginning of URLs → what else they may begin with. ``alone`` returns where the
    cache answers without its upstream, after making sure that it can for a URL.
    """

    address: Address
    mirrors: Mapping[str, Sequence[str]]
    breakers: Breakers | None
    alone: Callable[[str], Address | None]
    told: Callable[[str], None]
    pauses: Pauses = field(default_factory=Pauses)

    def of(self, url: str) -> Iterator[Source]:
        """Yield the cache for each mirror, then the cache by itself.

        Where there is no such cache, and no upstream is worth asking, the cache is asked all the
        same: it may have the thing.
        """
        asked = False
        for number, each in enumerate(alternatives(url, self.mirrors)):
            upstream = _endpoint(each)
            if self._refuses(upstream):
                continue
            asked = True
            if number:
                self.told(f"{_endpoint(url)} does not answer: going on with {upstream}")
            for _ in self.pauses.take():
                yield Source(self.address, each, upstream=upstream)
                if self._refuses(upstream):
                    break
        if alone := self.alone(url):
            self.told(f"{_endpoint(url)} does not answer: going on with what the cache has")
            yield Source(alone, url, stale=True)
        elif not asked:
            yield Source(self.address, url)

    def worked(self, source: Source) -> None:
        """Remember that its upstream is there."""
        if self.breakers and source.upstream:
            # Another process may be about to find out, and is not disturbed.
            with suppress(NotNowError), self.breakers.of(source.upstream).calling():
                pass

    def failed(self, source: Source, why: str) -> None:
        """Remember that its upstream is not."""
        if self.breakers and source.upstream:
            with suppress(TransientError), self.breakers.of(source.upstream).calling():
                raise TransientError(f"{source.upstream}: {why}", outage=True)

    def _refuses(self, upstream: str) -> bool:
        return self.breakers is not None and self.breakers.of(upstream).refuses


def alternatives(url: str, mirrors: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a URL and those of its copies, by the longest beginning that has any."""
    known = [start for start in mirrors if _begins(url, start)]
    if not known:
        return [url]
    start = max(known, key=len)
    rest = url[len(start.rstrip("/")) :]
    return list(dict.fromkeys([url, *(other.rstrip("/") + rest for other in mirrors[start])]))


def _begins(url: str, start: str) -> bool:
    return url == start or url.startswith(start.rstrip("/") + "/")


def _endpoint(url: str) -> str:
    address = address_of(url)
    return f"http://{address}" if address else url
