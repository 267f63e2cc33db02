"""Who will be asked over the network, whether they answer, how fast, and with which credentials.

Each is asked once, all at the same time, and nobody is waited for longer than ten seconds. What
does not answer is a warning: the caches may have what a build wants. Secrets stay out of findings.

An archive or an index is asked for a document that a build will want. Of a host that a stage names
nobody knows what will be wanted of it: whatever it answers, it was reached.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from builder.doctor.finding import Finding
from builder.errors import HostError, VaultbuildError
from builder.fetch.urls import proxy_for, redacted
from builder.needs import needs_of
from builder.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.doctor.finding import Case
    from builder.fetch import Fetcher
    from builder.fetch.breaker import Breakers

_T = TypeVar("_T")
_SECONDS = 10
_AT_ONCE = 8
_ARCHITECTURE = "amd64"
_SLOW = 100_000  # bytes in a second: the 4 GB of a whole build would take half a day
_LARGE = 50_000  # bytes: fewer tell nothing of the speed
_GRAIN = 0.05  # seconds
_ARCHIVES = "apt_repository"
_REFUSED, _GONE, _PROXY = {401, 403}, {404, 410}, 407
_PROXY_MAY = 400
_OFFLINE = "with --offline a build takes what it needs from the caches alone"
_NETWORK = f"is the network up? {_OFFLINE}"
_PROXY_CURE = "the proxy wants a password: see http_proxy"


@dataclass(frozen=True, slots=True)
class Server:
    """Somebody who will be asked: for what, and the URL of a small document.

    ``otherwise`` is another one, asked for where there is no such document. ``login`` is the cure
    where somebody is refused.
    """

    id: str
    title: str
    url: str
    proxy: str | None = None
    otherwise: str | None = None
    login: str | None = None


def servers(case: Case) -> Iterator[Finding]:
    """Say whether mirrors, indexes and hosts answer, and how fast."""
    archives = list(_archives(case))
    wanted = [*_mirrors(case), *archives, *_index(case), *_images(case)]
    asked = {urlsplit(server.url).hostname for server in archives}
    looks = [partial(_asked, server) for server in wanted]
    looks += [partial(_reached, name) for name in _hosts(case) if name not in asked]
    with scratch() as folder, ThreadPoolExecutor(_AT_ONCE) as pool:
        from builder.fetch.breaker import Breakers  # late: HTTP clients take long to load

        breakers = Breakers(folder)  # of its own: nothing is changed
        yield from pool.map(lambda look: look(breakers), looks)


def _asked(server: Server, breakers: Breakers) -> Finding:
    fetcher = _fetcher(breakers, server.proxy)
    try:
        return _measured(server, fetcher)
    except VaultbuildError as error:
        if server.otherwise and _status(error) in _GONE:
            return _asked(replace(server, url=server.otherwise, otherwise=None), breakers)
        return _failed(server, error)
    finally:
        fetcher.close()


def _measured(server: Server, fetcher: Fetcher) -> Finding:
    first, _ = _timed(lambda: fetcher.head(server.url))
    way, _ = _timed(lambda: fetcher.head(server.url))  # there and back, connected already
    whole, answer = _timed(lambda: fetcher.read(server.url))
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


def _reached(name: str, breakers: Breakers) -> Finding:
    """Say whether a host answers at all; some have no HTTPS, and packages come without it too."""
    id_, title = f"host-{name}", f"host {name}"
    failed: list[str] = []
    cures: list[str] = []
    for url in (f"https://{name}/", f"http://{name}/"):
        fetcher = _fetcher(breakers)
        try:
            seconds, status = _timed(partial(fetcher.status, url))
        except VaultbuildError as error:
            first = error.message.splitlines()[0]
            failed.append(f"{url}: {first.partition(': ')[2] or first}")
            cures.append(_silent(error))
            continue
        finally:
            fetcher.close()
        told = "; ".join([*failed, f"{url} answered {status} in {seconds:.2f} s"])
        # Through TLS only the host itself can answer.
        if url.startswith("http:") and status >= _PROXY_MAY and proxy_for(url, os.environ):
            told += ", or the proxy before it did"
            cure = _PROXY_CURE if status == _PROXY else f"does the proxy let {name} through?"
            return Finding(id_, title, "warn", told, cure)
        return Finding(id_, title, "ok", told)
    return Finding(id_, title, "warn", "; ".join(failed), cures[0])


def _timed(ask: Callable[[], _T]) -> tuple[float, _T]:
    began = time.monotonic()
    answer = ask()
    return time.monotonic() - began, answer


def _failed(server: Server, error: VaultbuildError) -> Finding:
    first = error.message.splitlines()[0]
    return Finding(server.id, server.title, "warn", first, _cure(server, error))


def _cure(server: Server, error: VaultbuildError) -> str:
    status = _status(error)
    if status in _REFUSED:
        with_login = urlsplit(server.url).username is not None
        refused = "the credentials in the URL are refused" if with_login else (
            "it, or the proxy before it, refuses this host: are credentials wanted in the URL?"
        )  # fmt: skip
        return server.login or refused
    if status in _GONE:
        return "it answers, and has no such file: is the address right in stages/?"
    if status == _PROXY:
        return _PROXY_CURE
    if status is not None:
        return f"it, or the proxy before it, is in trouble: try again later; {_OFFLINE}"
    return _silent(error)


def _silent(error: VaultbuildError) -> str:
    """Return the cure where nobody answered; a certificate that nobody believes has its own."""
    return f"{error.hint} ({_OFFLINE})" if error.hint else _NETWORK


def _status(error: VaultbuildError) -> int | None:
    """Return what HTTP calls a failure; None where nobody answered."""
    from builder.fetch import PermanentError, TransientError  # late, as above

    return error.status if isinstance(error, (PermanentError, TransientError)) else None


def _fetcher(breakers: Breakers, proxy: str | None = None) -> Fetcher:
    from builder.fetch import Fetcher, Policy  # late, as above

    policy = Policy(
        attempts=1, total_seconds=_SECONDS, connect_seconds=_SECONDS / 2, read_seconds=_SECONDS
    )
    environment = dict(os.environ)
    if proxy:
        environment["http_proxy"] = proxy
    return Fetcher(breakers=breakers, policy=policy, environment=environment)


def _mirrors(case: Case) -> Iterator[Server]:
    """Yield each suite that the source is made from."""
    from builder.sources.bootstrap import host_mirrors  # late, as above
    from builder.upstream.archive import read_source

    source = case.pipeline.source
    if source.kind != "bootstrap":
        return
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
                f"mirror-{suite}", f"mirror of {suite}", f"{origin.suite}/InRelease", _proxy(case)
            )


def _archives(case: Case) -> Iterator[Server]:
    """Yield each suite of the archives that roles add, by the address that they give to apt."""
    from builder.upstream.archive import RELEASES, read_source  # late, as above

    told: dict[str, Server] = {}
    for use in (use for stage in case.pipeline.stages for use in stage.roles):
        if use.role != _ARCHIVES:
            continue
        values = {**case.pipeline.roles[use.role].defaults, **use.variables}
        name, suites = values[f"{_ARCHIVES}_name"], values[f"{_ARCHIVES}_suites"]
        for uri, suite in product(values[f"{_ARCHIVES}_uris"], suites):
            origin = read_source(f"deb {uri} {suite}", _ARCHITECTURE)
            if origin and origin.suite.startswith(("http://", "https://")):
                signed, plain = (f"{origin.suite}/{file}" for file in RELEASES)
                parts = urlsplit(origin.suite)
                id_, title = f"archive-{parts.hostname}{parts.path}", f"archive {name}"
                told.setdefault(id_, Server(id_, title, signed, _proxy(case), plain))
    yield from told.values()


def _proxy(case: Case) -> str | None:
    """Return the way that requests of apt take, where their addresses have no TLS."""
    from builder.caches.apt import upstream_proxy  # late, as above

    return case.pipeline.caches.get("apt", {}).get("url") or upstream_proxy()


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


def _hosts(case: Case) -> Iterator[str]:
    """Yield the hosts that stages name, but for patterns."""
    names = {name for stage in case.pipeline.stages for name in stage.hosts}
    yield from (name for name in sorted(names) if not name.startswith("*"))


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
