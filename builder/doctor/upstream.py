"""Who will be asked over the network, whether they answer, how fast, and with which credentials.

Each is asked once, all at the same time, and nobody is waited for longer than ten seconds. What
does not answer is a warning: the caches may have what a build wants. Secrets stay out of findings.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.doctor.finding import Finding
from builder.errors import HostError, VaultbuildError
from builder.fetch.urls import redacted
from builder.needs import needs_of
from builder.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.doctor.finding import Case
    from builder.fetch import Answer, Fetcher
    from builder.fetch.breaker import Breakers

_SECONDS = 10
_AT_ONCE = 8
_ARCHITECTURE = "amd64"
_SLOW = 100_000  # bytes in a second: the 4 GB of a whole build would take half a day
_LARGE = 50_000  # bytes: fewer tell nothing of the speed
_GRAIN = 0.05  # seconds
_REFUSED = ("401", "403")


@dataclass(frozen=True, slots=True)
class Server:
    """Somebody who will be asked: for what, and the URL of a small document."""

    id: str
    title: str
    url: str
    proxy: str | None = None
    cure: str = (
        "is the network up? with --offline a build takes what it needs from the caches alone"
    )
    login: str = "the credentials in the URL are refused"


def servers(case: Case) -> Iterator[Finding]:
    """Say whether mirrors, indexes and hosts answer, and how fast."""
    wanted = [*_mirrors(case), *_index(case), *_images(case), *_hosts(case)]
    with scratch() as folder, ThreadPoolExecutor(_AT_ONCE) as pool:
        from builder.fetch.breaker import Breakers  # late: HTTP clients take long to load

        breakers = Breakers(folder)  # of its own: nothing is changed
        yield from pool.map(lambda server: _asked(server, breakers), wanted)


def _asked(server: Server, breakers: Breakers) -> Finding:
    fetcher = _fetcher(server, breakers)
    try:
        first, _ = _timed(lambda: fetcher.head(server.url))
        way, _ = _timed(lambda: fetcher.head(server.url))  # there and back, connected already
        whole, answer = _timed(lambda: fetcher.read(server.url))
    except VaultbuildError as error:
        return _failed(server, error)
    finally:
        fetcher.close()
    told = f"{redacted(server.url)} answered in {first:.2f} s"
    carrying = whole - way
    if len(answer.body) < _LARGE or carrying < _GRAIN:
        return Finding(server.id, server.title, "ok", told)  # too little to tell a speed
    rate = len(answer.body) / carrying
    told += f", {rate / 1e6:.2f} MB/s"
    if rate < _SLOW:
        cure = "another mirror: caches.apt.mirrors in stages/pipeline.yml"
        return Finding(server.id, server.title, "warn", told, cure)
    return Finding(server.id, server.title, "ok", told)


def _timed(ask: Callable[[], Answer]) -> tuple[float, Answer]:
    began = time.monotonic()
    answer = ask()
    return time.monotonic() - began, answer


def _failed(server: Server, error: VaultbuildError) -> Finding:
    first = error.message.splitlines()[0]
    refused = any(status in first for status in _REFUSED)
    return Finding(server.id, server.title, "warn", first, server.login if refused else server.cure)


def _fetcher(server: Server, breakers: Breakers) -> Fetcher:
    from builder.fetch import Fetcher, Policy  # late, as above

    policy = Policy(
        attempts=1, total_seconds=_SECONDS, connect_seconds=_SECONDS / 2, read_seconds=_SECONDS
    )
    environment = dict(os.environ)
    if server.proxy:
        environment["http_proxy"] = server.proxy
    return Fetcher(breakers=breakers, policy=policy, environment=environment)


def _mirrors(case: Case) -> Iterator[Server]:
    """Yield each suite that the source is made from."""
    from builder.caches.apt import upstream_proxy  # late, as above
    from builder.sources.bootstrap import host_mirrors
    from builder.upstream.archive import read_source

    source = case.pipeline.source
    if source.kind != "bootstrap":
        return
    proxy = case.pipeline.caches.get("apt", {}).get("url") or upstream_proxy()
    try:
        lines = source.settings.get("mirrors") or host_mirrors(
            source.settings["suite"], source.settings["components"]
        )
    except HostError:
        return  # a build says so, and what to set
    for line in lines:
        if origin := read_source(line, _ARCHITECTURE):
            suite = origin.suite.rpartition("/")[2]
            yield Server(
                f"mirror-{suite}", f"mirror of {suite}", f"{origin.suite}/InRelease", proxy
            )


def _index(case: Case) -> Iterator[Server]:
    """Yield the index of Python packages, where lock files need one."""
    from builder.caches.pypi import pip_settings  # late, as above

    if not needs_of(case.pipeline).wheels:
        return
    url = case.pipeline.caches.get("pypi", {}).get("url") or pip_settings().get("index-url")
    if url:
        login = "credentials are refused: pip config set global.index-url has them"
        yield Server("index", "Python index", f"{url.rstrip('/')}/pip/", login=login)


def _images(case: Case) -> Iterator[Server]:
    """Yield where the source's image is, by the list of checksums beside it."""
    image = needs_of(case.pipeline).image
    if image and image.url.startswith(("http://", "https://")):
        beside = image.url.rpartition("/")[0]
        yield Server("image", "image of the source", f"{beside}/SHA256SUMS")


def _hosts(case: Case) -> Iterator[Server]:
    """Yield the hosts that stages name, but for patterns."""
    names = {name for stage in case.pipeline.stages for name in stage.hosts}
    for name in sorted(names):
        if not name.startswith("*"):
            yield Server(f"host-{name}", f"host {name}", f"https://{name}/")


def hub(case: Case) -> Iterator[Finding]:
    """Say whether the hub of models gives this host each model that lock files name."""
    needs = needs_of(case.pipeline).models
    if not needs:
        return
    from builder.caches.hub import Hub  # late: 0.4 s
    from builder.caches.models_lock import parse_lock
    from builder.fetch.transient import Policy

    upstream = case.pipeline.caches.get("models", {}).get("upstream")
    asked = Hub(upstream, policy=Policy(attempts=1, total_seconds=_SECONDS))
    title = "hub of models"
    for need in needs:
        content = (case.pipeline.project / need.path).read_bytes()
        for model in parse_lock(need.path, content).models:
            id_ = f"hub-{model.repo}"
            try:
                asked.describe(model.repo, model.commit, model.files[0].path)
            except VaultbuildError as error:
                cure = error.hint or "is the network up? --offline uses what the cache has"
                yield Finding(id_, title, "warn", error.message.splitlines()[0], cure)
            else:
                yield Finding(
                    id_, title, "ok", f"{model} may be had from {redacted(asked.endpoint)}"
                )
