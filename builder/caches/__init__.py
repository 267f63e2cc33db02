"""What builds download comes through caches, which vaultbuild starts, shares and stops.

::

    with caches.running(pipeline.caches, pipeline.project) as endpoints:
        ...  # endpoints.apt is a proxy, endpoints.pypi an index

A setting with a URL names a cache of the team: it is used as it is and nothing is started.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.caches import kept
from builder.caches.apt import Apt
from builder.caches.folders import Folder
from builder.caches.kept import Holds
from builder.caches.pypi import Pypi
from builder.caches.service import Cache, Service
from builder.caches.state import Places
from builder.errors import Problem, ProjectError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    Settings = Mapping[str, Mapping[str, Any]]

__all__ = [
    "CACHES", "NAMES", "Address", "Endpoints", "Holds", "Status", "down", "holds", "prune",
    "running", "status", "up",
]  # fmt: skip

CACHES: tuple[Cache, ...] = (Apt(), Pypi(), Folder("wheels"), Folder("isos"), Folder("models"))
NAMES = tuple(cache.name for cache in CACHES)
# What every build may ask for; the others are for pipelines that have something in them.
_ALWAYS = ("apt", "pypi")
_SLOW = ("pypi",)
# A second server over the files of the first, which answers whatever upstream does.
_STALE = {"apt": Apt("apt-offline")}
_STALE_FOLDER = "apt/offline"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The URLs of the caches that run, by name. Never part of a key.

    That of ``apt`` is a proxy, of ``pypi`` an index, of the others the root of a file server.
    ``stale`` are servers that answer from what is kept, and never ask upstream: for when upstream
    is in trouble. They are for this host; guests do not see them.
    """

    urls: Mapping[str, str]
    stale: Mapping[str, str] = field(default_factory=dict)

    @property
    def apt(self) -> str | None:
        """The proxy for packages."""
        return self.urls.get("apt")

    @property
    def pypi(self) -> str | None:
        """The index of Python packages."""
        return self.urls.get("pypi")

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
    """One cache as ``vaultbuild cache status`` shows it; its URL is redacted."""

    name: str
    state: str  # "running", "stopped", "remote" (somebody else's) or "unreachable" (likewise)
    url: str | None
    process: int | None = None
    stays: bool = False
    used: bool = False
    offline: bool = False


@contextlib.contextmanager
def running(
    settings: Settings,
    project: Path,
    *,
    names: Collection[str] | None = None,
    offline: bool = False,
    keep: bool = False,
) -> Iterator[Endpoints]:
    """Have the caches answer for the length of the block: ``names``, or what every build needs.

    Servers that already run are shared. At the end those that nobody else uses are stopped, unless
    ``keep`` or ``vaultbuild cache up`` told them to stay. With ``offline`` the servers never ask
    upstream; a cache of the team is used as it is.
    """
    chosen = _ALWAYS if names is None else names
    services = _services(settings, project, chosen, offline=offline)
    stale = {} if offline else _stale_services(services)
    urls = {name: url for name, url in _remote(settings).items() if name in chosen}
    everything = [*services.values(), *stale.values()]
    with contextlib.ExitStack() as stack:
        for service in everything:
            stack.enter_context(service.lease())
        # All are started before the first is waited for: the slowest decides, not the sum. That
        # is devpi-server, which gets ready while the others are started.
        for service in sorted(everything, key=lambda each: each.name not in _SLOW):
            service.begin()
        urls |= {name: service.ready() for name, service in services.items()}
        spare = {name: service.ready() for name, service in stale.items()}
        if keep:
            for service in everything:
                service.places.stay.touch()
        yield Endpoints({name: urls[name] for name in NAMES if name in urls}, spare)


def up(
    settings: Settings,
    project: Path,
    names: Collection[str] | None = None,
    *,
    offline: bool = False,
) -> list[Status]:
    """Start the caches and let them stay."""
    with running(settings, project, names=names, offline=offline, keep=True):
        return status(settings, project, names)


def down(settings: Settings, project: Path, names: Collection[str] | None = None) -> list[Status]:
    """Stop the caches. One that a run uses is stopped when that run ends."""
    services = _services(settings, project, NAMES if names is None else names)
    for service in [*services.values(), *_stale_services(services).values()]:
        service.places.stay.unlink(missing_ok=True)
        service.retire()
    return status(settings, project, names)


def status(settings: Settings, project: Path, names: Collection[str] | None = None) -> list[Status]:
    """Say which caches run."""
    wanted = NAMES if names is None else names
    remote = _remote(settings)
    own = _services(settings, project, wanted)
    return [
        _status(own[cache.name]) if cache.name in own else _remote_status(cache, remote[cache.name])
        for cache in CACHES
        if cache.name in wanted
    ]


def holds(project: Path, names: Collection[str] | None = None) -> dict[str, Holds]:
    """Say what the caches keep below ``cache/var``: files, bytes, and the oldest use."""
    return {
        cache.name: kept.holds(cache.items(_places(cache, project)))
        for cache in CACHES
        if names is None or cache.name in names
    }


def prune(
    project: Path, names: Collection[str], rules: kept.Rules, *, dry_run: bool = False
) -> tuple[kept.Choice, ...]:
    """Remove what is not needed of some caches; say of each file whether it stays, and why.

    A cache that a run uses keeps everything, and no run begins to use one meanwhile.
    """
    services = _services({}, project, names)
    with contextlib.ExitStack() as stack:
        items: list[kept.Item] = []
        for name, service in services.items():
            held = not all(
                stack.enter_context(each.unused())
                for each in (service, *_stale_services({name: service}).values())
            )
            items += (
                kept.held(item) if held else item for item in service.cache.items(service.places)
            )
        choices = kept.decide(items, rules)
        if dry_run:
            return choices
        return kept.carry_out(
            choices, lambda item: services[item.cache].cache.drop(services[item.cache].places, item)
        )


def _status(service: Service) -> Status:
    for server in (service, *_stale_services({service.name: service}).values()):
        if state := server.state:
            return Status(
                service.name,
                "running",
                server.cache.url(state.terms),
                process=state.pid,
                stays=server.places.stay.exists(),
                used=server.used,
                offline=state.offline,
            )
    return Status(service.name, "stopped", None)


def _remote_status(cache: Cache, url: str) -> Status:
    from builder.fetch.urls import redacted  # late: `plan` shows no addresses

    state = "remote" if cache.answers(url) else "unreachable"
    return Status(cache.name, state, redacted(url))


# --- what there is to start -----------------------------------------------------------------------


def _services(
    settings: Settings, project: Path, names: Iterable[str], *, offline: bool = False
) -> dict[str, Service]:
    """Return a service for each cache that is vaultbuild's own."""
    own = [cache for cache in CACHES if cache.name in names and cache.name not in _remote(settings)]
    if any(cache.fetches for cache in own) and not (project.resolve() / "cache/etc").is_dir():
        raise ProjectError(
            [Problem(Path("cache/etc"), "the configuration of the caches is missing")]
        )
    services = {cache.name: _service(cache, project, settings, offline=offline) for cache in own}
    # What answers without upstream is a server of its own there, which disturbs no other run.
    return services | (_stale_services(services) if offline else {})


def _service(cache: Cache, project: Path, settings: Settings, *, offline: bool) -> Service:
    setting = settings.get(cache.name, {})
    return Service(
        cache,
        _places(cache, project),
        port=setting.get("port"),
        listen=setting.get("listen"),
        offline=offline and cache.name not in _STALE,
    )


def _stale_services(services: Mapping[str, Service]) -> dict[str, Service]:
    """Return the servers that answer in the stead of others when upstream is in trouble."""
    return {
        name: Service(
            cache,
            Places(cache.name, service.places.etc, service.places.var, _STALE_FOLDER),
            offline=True,
        )
        for name, cache in _STALE.items()
        if (service := services.get(name))
    }


def _places(cache: Cache, project: Path) -> Places:
    folder = project.resolve() / "cache"
    return Places(cache.name, folder / "etc", folder / "var")


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
