"""What a run gets from outside, and the gateway that each of its stages gets it through.

Made once for a run, with the caches that answer. Everything here is circumstance and in no
key; what came of it is told by the network lock.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from builder import events, gateway, network, process
from builder.caches import Endpoints, apt
from builder.errors import CommandError, HostError
from builder.sources.bootstrap import host_mirrors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.caches.isos import IsoGot
    from builder.fetch import Fetcher
    from builder.fetch.breaker import Breakers
    from builder.network import NetworkLock, Traffic
    from builder.pipeline import Pipeline, Stage
    from builder.reporter import Reporter

# Where a guest finds the caches; the ports are those their programs are known by.
GUEST_PORTS = {"apt": 3142, "pypi": 3141, "wheels": 3144, "models": 3145}


@dataclass(frozen=True)
class Supplies:
    """The caches of a run, and what its stages may reach through them.

    ``var`` is the project's ``cache/var``; ``houses`` names, by stage and role, the wheelhouses
    that have all that the role installs. ``fresh`` is what was fetched for them, as the gateway
    has it.
    """

    pipeline: Pipeline
    var: Path
    endpoints: Endpoints
    reporter: Reporter
    offline: bool = False
    houses: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    fresh: dict[str, float] = field(default_factory=dict)

    @cached_property
    def archives(self) -> frozenset[gateway.Address]:
        """Where the packages come from that the pipeline names, or this host's own apt."""
        source = self.pipeline.source
        try:
            if source.kind == "bootstrap":
                settings = source.settings
                lines = settings["mirrors"] or host_mirrors(
                    settings["suite"], settings["components"]
                )
            else:
                mirror = source.settings.get("mirror")  # of an installer
                lines = [mirror] if mirror else _host_archives()
        except (HostError, CommandError):
            lines = ()  # the stages then name their hosts
        return gateway.archives_in(lines)

    @contextlib.contextmanager
    def served(
        self,
        stage: Stage | None,
        journal: Path,
        *,
        archives: frozenset[gateway.Address] | None = None,
    ) -> Iterator[Endpoints]:
        """Serve one stage, or the making of the source (None), for the length of the block.

        ``archives`` may be reached instead of those of the pipeline, for which the host's apt has
        to be asked.
        """
        with gateway.opened(self._gateway(stage, archives), journal) as urls:
            yield Endpoints(urls)

    def index(self, seen: Endpoints) -> str | None:
        """Return where vaultbuild itself gets wheels: through the gateway, so that it is noted.

        A team's index is asked as it stands in the settings, which may have a password.
        """
        return seen.pypi if "pypi" in self._own else self.endpoints.pypi

    @property
    def stocks(self) -> dict[str, gateway.Stock]:
        """Where the caches of this project keep their files."""
        return gateway.stocks(self.var, self._own)

    @property
    def _own(self) -> frozenset[str]:
        settings = self.pipeline.caches
        return frozenset(
            name for name in self.endpoints.urls if not (settings.get(name) or {}).get("url")
        )

    def _gateway(
        self, stage: Stage | None, archives: frozenset[gateway.Address] | None
    ) -> gateway.Gateway:
        settings = self.pipeline.caches
        rules = gateway.Rules(
            mode="open" if stage and stage.network == "open" else "caches",
            archives=self.archives if archives is None else archives,
            hosts=frozenset(stage.hosts if stage else ()),
            teams=self._teams(),
            offline=self.offline,
        )
        urls = self.endpoints.urls
        return gateway.Gateway(
            urls={name: url for name, url in urls.items() if name in GUEST_PORTS},
            rules=rules,
            var=self.var,
            own=self._own,
            mirrors=settings.get("apt", {}).get("mirrors") or {},
            alone=self._apt_alone,
            breakers=None if self.offline else self._breakers,
            told=self.reporter.note,
            fresh=self.fresh,
        )

    @cached_property
    def fetcher(self) -> Fetcher:
        """What fetches past the caches that are servers; every retry is told."""
        from builder.fetch import Fetcher  # late: HTTP clients take 0.2 s to import

        return Fetcher(breakers=self._breakers, told=self.reporter.note)

    @cached_property
    def _breakers(self) -> Breakers:
        from builder.fetch.breaker import Breakers  # late: 50 ms, for runs that build

        return Breakers.under(self.var)

    def _apt_alone(self, wanted: str) -> gateway.Address | None:
        """Return the apt cache that never asks upstream: it has what the other one fetched."""
        url = self.endpoints.stale.get("apt")
        if url is None:
            return None
        # What upstream's error did to the file that is wanted.
        apt.mend(self.var / "apt/packages", wanted)
        return gateway.address_of_setting(url)

    def _teams(self) -> frozenset[gateway.Address]:
        """Return where the caches are that are a team's: their pages link to themselves."""
        urls = (settings.get("url") for settings in self.pipeline.caches.values())
        return frozenset(gateway.address_of_setting(url) for url in urls if url)

    def mode(self, stage: Stage | None) -> str:
        """Return what a lock says of what could be reached."""
        return stage.reach if stage else "caches"

    def environment(self, stage: str, role: str, seen: Endpoints) -> dict[str, str]:
        """Return what a role's tasks are told of its wheelhouses, for pip and for uv."""
        houses = self.houses.get((stage, role))
        if not houses or "wheels" not in seen.urls:
            return {}
        links = [f"{seen.urls['wheels'].rstrip('/')}/{house}/" for house in houses]
        return {
            "PIP_FIND_LINKS": " ".join(links), "PIP_NO_INDEX": "1",
            "UV_FIND_LINKS": ",".join(links), "UV_NO_INDEX": "1",
        }  # fmt: skip

    def note_image(self, image: IsoGot, journal: Path) -> None:
        """Write down the image that a source was made from: it came past the gateway."""
        origin = "stale" if image.stale else "upstream" if image.received else "cache"
        gateway.Journal(journal).write(
            "handed", cache="isos", url=image.url, sha256=image.sha256, bytes=image.bytes,
            kind="file", origin=origin, seconds=round(image.seconds, 4),
        )  # fmt: skip
        if image.trouble:
            self.reporter.warning(f"{image.url}: used without asking upstream: {image.trouble}")

    def settle(
        self, stage: Stage | None, logs: Path, before: NetworkLock | None = None
    ) -> tuple[NetworkLock, dict[str, Any]]:
        """Return the lock of a run that is done, and what its record says of the network."""
        journal = network.read_journal(logs / network.JOURNAL)
        told = logs / events.FILE
        lock = network.lock_of(
            journal,
            mode=self.mode(stage),
            offline=self.offline,
            events=events.read(told) if told.exists() else (),
            before=before,
        )
        traffic = gateway.Tally(self.var / "index/traffic.json").add(journal)
        return lock, described(lock, traffic)


def described(lock: NetworkLock, traffic: Traffic) -> dict[str, Any]:
    """Return what a record says of the network; the lock lies beside it."""
    from dataclasses import asdict  # late, for one call a stage

    return {
        "mode": lock.mode,
        "offline": lock.offline,
        "handed": len(lock.handed),
        "stale": sum(1 for one in lock.handed if one.origin == "stale"),
        "tunnels": [one.address for one in lock.tunnels],
        "traffic": asdict(traffic),
    }


def _host_archives() -> list[str]:
    """Return the archives that this host's own apt uses."""
    found = process.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"]).stdout
    return found.split()
