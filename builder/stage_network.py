"""The network of one stage while it is built: its gateway, what its guest is told, its lock."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder import events, network
from builder.checkpoints import Network
from builder.engines import Forward
from builder.provision import Caches
from builder.supplies import GUEST_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.caches import Endpoints
    from builder.network import NetworkLock
    from builder.pipeline import Stage
    from builder.reporter import Reporter
    from builder.supplies import Supplies


@dataclass(frozen=True, slots=True)
class Seen:
    """The caches as they are at the gateway, and as the guest finds them."""

    here: Endpoints
    there: Endpoints
    guest_host: str
    supplies: Supplies
    stage: str

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """What an engine has to let the guest reach."""
        return tuple(
            Forward(name, address.host, address.port, GUEST_PORTS[name])
            for name, address in self.here.addresses.items()
        )

    @property
    def caches(self) -> Caches:
        """What all tasks of the stage are told."""
        return Caches(
            apt_proxy=self.there.apt,
            pip_index=self.there.pypi,
            models=self.there.urls.get("models"),
            direct=f"localhost,127.0.0.1,::1,{self.guest_host}",
            offline=self.supplies.offline,
        )

    def environment(self, role: str) -> dict[str, str]:
        """Return what the tasks of one role are told beside that."""
        return self.supplies.environment(self.stage, role, self.there)


@dataclass(frozen=True, slots=True)
class StageNetwork:
    """One run of one stage; ``guest_host`` is where its guest finds the caches."""

    supplies: Supplies
    stage: Stage
    logs: Path
    guest_host: str

    @property
    def journal(self) -> Path:
        """What the gateway writes down."""
        return self.logs / network.JOURNAL

    @contextlib.contextmanager
    def served(self) -> Iterator[Seen]:
        """Serve the stage from the caches for the length of the block."""
        with self.supplies.served(self.stage, self.journal) as here:
            there = here.seen_at(self.guest_host, GUEST_PORTS)
            yield Seen(here, there, self.guest_host, self.supplies, self.stage.name)

    @property
    def facts(self) -> Network:
        """What the locks of checkpoints are made from, in the program that makes them."""
        told = self.logs / events.FILE
        mode = self.supplies.mode(self.stage)
        return Network(str(self.journal), str(told), mode, self.supplies.offline)

    def settle(
        self, folder: Path, before: NetworkLock | None, reporter: Reporter
    ) -> dict[str, Any]:
        """Write the lock to ``folder``; return what the record says of the network."""
        lock, told = self.supplies.settle(self.stage, self.logs, before)
        network.write(folder / network.LOCK, lock)
        for refused in lock.refused:
            who = f"role {refused.role}" if refused.role else self.stage.name
            reporter.warning(f"{who} asked for {refused.address}, which it may not reach")
        return told
