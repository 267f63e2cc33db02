"""What builds download comes through caches, which vaultbuild starts, shares and stops.

::

    with caches.running(pipeline.caches, pipeline.project) as endpoints:
        ...  # endpoints.apt is a proxy, endpoints.pypi an index

A setting with a URL names a cache of the team: it is used as it is and nothing is started.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.caches.apt import Apt
from builder.caches.pypi import Pypi
from builder.caches.service import Cache, Service
from builder.caches.state import Places
from builder.errors import Problem, ProjectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Settings = Mapping[str, Mapping[str, Any]]

__all__ = ["CACHES", "Address", "Endpoints", "Status", "down", "running", "status", "up"]

CACHES: tuple[Cache, ...] = (Apt(), Pypi())


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The URLs of the caches by name: ``apt`` is a proxy, ``pypi`` an index. In no key."""

    urls: Mapping[str, str]

    @property
    def apt(self) -> str:
        """The proxy of packages."""
        return self.urls["apt"]

    @property
    def pypi(self) -> str:
        """The index of Python packages."""
        return self.urls["pypi"]

    @property
    def addresses(self) -> dict[str, Address]:
        """Where the servers listen, by name: what an engine must let a guest reach."""
        return {name: _address(url) for name, url in self.urls.items()}

    def seen_at(self, host: str, ports: Mapping[str, int] | None = None) -> Endpoints:
        """Return the URLs for a guest to whom the servers appear at ``host``."""
        moved = ports or {}
        return Endpoints(
            {name: _moved(url, host, moved.get(name)) for name, url in self.urls.items()}
        )


@dataclass(frozen=True, slots=True)
class Status:
    """One cache as ``vaultbuild cache status`` shows it."""

    name: str
    state: str  # "running", "stopped", "remote" (somebody else's) or "unreachable" (likewise)
    url: str | None
    process: int | None = None
    stays: bool = False
    used: bool = False


@contextlib.contextmanager
def running(settings: Settings, project: Path, *, keep: bool = False) -> Iterator[Endpoints]:
    """Have the caches answer for the length of the block.

    Servers that already run are shared. At the end those that nobody else uses are stopped, unless
    ``keep`` or ``vaultbuild cache up`` told them to stay.
    """
    services = _services(settings, project)
    urls = _remote(settings)
    with contextlib.ExitStack() as stack:
        for service in services:
            stack.enter_context(service.lease())
        # All are started before the first is waited for: the slowest decides, not the sum.
        for service in services:
            service.begin()
        urls |= {service.name: service.ready() for service in services}
        if keep:
            for service in services:
                service.places.stay.touch()
        yield Endpoints(urls)


def up(settings: Settings, project: Path) -> list[Status]:
    """Start the caches and let them stay."""
    with running(settings, project, keep=True):
        return status(settings, project)


def down(settings: Settings, project: Path) -> list[Status]:
    """Stop the caches. One that a run uses is stopped when that run ends."""
    for service in _services(settings, project):
        service.places.stay.unlink(missing_ok=True)
        service.retire()
    return status(settings, project)


def status(settings: Settings, project: Path) -> list[Status]:
    """Say which caches run."""
    remote = _remote(settings)
    own = {service.name: service for service in _services(settings, project)}
    return [
        _status(own[cache.name]) if cache.name in own else _remote_status(cache, remote[cache.name])
        for cache in CACHES
    ]


def _status(service: Service) -> Status:
    state = service.state
    if state is None:
        return Status(service.name, "stopped", None)
    return Status(
        service.name,
        "running",
        service.cache.url(state.port),
        process=state.pid,
        stays=service.places.stay.exists(),
        used=service.used,
    )


def _remote_status(cache: Cache, url: str) -> Status:
    return Status(cache.name, "remote" if cache.answers(url) else "unreachable", url)


def _services(settings: Settings, project: Path) -> list[Service]:
    """Return a service for each cache that is vaultbuild's own."""
    own = [cache for cache in CACHES if not settings.get(cache.name, {}).get("url")]
    etc, var = project.resolve() / "cache/etc", project.resolve() / "cache/var"
    if own and not etc.is_dir():
        raise ProjectError(
            [Problem(Path("cache/etc"), "the configuration of the caches is missing")]
        )
    return [
        Service(
            cache,
            Places(cache.name, etc, var),
            port=settings.get(cache.name, {}).get("port"),
        )
        for cache in own
    ]


def _remote(settings: Settings) -> dict[str, str]:
    urls = {cache.name: settings.get(cache.name, {}).get("url") for cache in CACHES}
    return {name: url for name, url in urls.items() if url}


def _address(url: str) -> Address:
    from urllib.parse import urlsplit  # late: `plan` needs no addresses

    parts = urlsplit(url)
    default = 443 if parts.scheme == "https" else 80
    return Address(parts.hostname or "", parts.port or default)


def _moved(url: str, host: str, port: int | None) -> str:
    from urllib.parse import urlsplit  # late: `plan` needs no addresses

    parts = urlsplit(url)
    return parts._replace(netloc=f"{host}:{port or _address(url).port}").geturl()
