"""Everything that a pipeline's builds will ask for, into the caches: ``vaultbuild cache warm``.

::

    network locks (of the images here, or of a release) ─► packages, indexes   builder.warm
    lock files that roles are given ─────────────────────► wheels, models      builder.provide
    the source ──────────────────────────────────────────► its image           caches.isos

It may be stopped at any time and goes on where it was; two at once fetch once. What is there is
read through, so a cache that was damaged is whole again afterwards.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder import caches, files, gateway, network
from builder.caches import isos
from builder.caches.shelf import TTL
from builder.errors import HostError
from builder.needs import needs_of
from builder.provide import BudgetError, Means, Provided, provide
from builder.supplies import Supplies
from builder.warm import SERVED, Found, Limits, Want, Warmer, out_of_reach, summary, wants_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from builder.caches import Endpoints
    from builder.caches.isos import IsoGot
    from builder.needs import Needs
    from builder.network import NetworkLock
    from builder.project import Project
    from builder.reporter import Reporter

RESERVE = 2 << 30
"""Bytes that stay free on the disk: the store must not suffer from what is only likely."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be warm: which caches, what locks name, and how many bytes may come at most."""

    names: frozenset[str]
    locks: tuple[NetworkLock, ...]
    budget: int | None = None


@dataclass(slots=True)
class Warmed:
    """What came of it."""

    found: list[Found] = field(default_factory=list)
    provided: Provided = field(default_factory=Provided)
    image: IsoGot | None = None
    beyond: tuple[str, ...] = ()
    """What no cache can have; a build without a network has to do without."""
    left: list[str] = field(default_factory=list)
    """What was not fetched because of the budget."""

    @property
    def failed(self) -> list[Found]:
        """What should be there and is not."""
        houses = (
            Found(Want("wheels", path, 0, "file", None), "failed", why=why)
            for path, why in self.provided.failed.items()
        )
        return [*(one for one in self.found if one.state in {"gone", "failed"}), *houses]

    @property
    def received(self) -> int:
        """How many bytes came over the network."""
        return (
            sum(one.received for one in self.found)
            + sum(house.received for house in self.provided.wheels)
            + sum(model.received for model in self.provided.models)
            + (self.image.received if self.image else 0)
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as ``cache warm --json`` tells it; what was there already is only counted."""
        return {
            "schema": 1,
            **summary(self.found),
            "received": self.received,
            "changed": [one.to_json() for one in self.found if one.state != "present"],
            "wheels": [_told_of_house(each) for each in self.provided.wheels],
            "models": [_told_of_model(each) for each in self.provided.models],
            "image": {"url": self.image.url, "received": self.image.received}
            if self.image
            else None,
            "beyond": list(self.beyond),
            "left": self.left,
        }


class Spending:
    """Counts bytes that come, and says stop when it is enough. Many threads may tell it."""

    def __init__(self, budget: int | None, progress: Callable[[int], None]) -> None:
        self._left = budget
        self._progress = progress
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        """Count bytes; raise :class:`BudgetError` when there were too many."""
        self._progress(count)
        with self._lock:
            if self._left is None:
                return
            self._left -= count
            if self._left < 0:
                raise BudgetError("the budget is used up; what came so far is kept")

    def spared(self, count: int) -> None:
        """Show bytes that were there: they are done, and cost nothing."""
        self._progress(count)

    @property
    def left(self) -> int | None:
        """How many bytes may still come."""
        return None if self._left is None else max(0, self._left)


def prefetch(
    project: Project,
    order: Order,
    reporter: Reporter,
    logs: Path,
    progress: Callable[[int], None],
) -> Warmed:
    """Have everything in the caches that can be had; ``progress`` hears how many bytes came."""
    pipeline, spending = project.pipeline, Spending(order.budget, progress)
    needs = _chosen(needs_of(pipeline, project.packages_below), order.names)
    wants = [want for want in wants_of(order.locks) if want.cache in order.names]
    done = Warmed(beyond=out_of_reach(order.locks))
    with (
        files.lock(project.var / "run/warm.lock", waiting=_waiting(reporter)),
        caches.running(pipeline.caches, project.folder, names=_asked(needs, wants)) as endpoints,
    ):
        supplies = Supplies(pipeline, project.var, endpoints, reporter)
        known = (gateway.address_of(want.url) for want in wants if want.cache == "apt")
        archives = frozenset(address for address in known if address)
        with supplies.served(None, logs / network.JOURNAL, archives=archives) as seen:
            if wants:
                done.found = _served(project, wants, seen, supplies, spending)
            means = Means(
                project.folder, supplies.index(seen), pipeline.caches, reporter.note,
                progress=spending,
            )  # fmt: skip
            with _within_budget(done, "wheels and models"):
                provide(needs, means, done.provided)
        gateway.Tally(project.var / "index/traffic.json").add(
            network.read_journal(logs / network.JOURNAL)
        )
        if needs.image:
            with _within_budget(done, needs.image.url):
                done.image = _image(needs, project, means)
    if any(one.why == "the disk is full" for one in done.found):
        raise HostError(
            f"less than {RESERVE >> 30} GiB are free at {project.var}: what is there stays",
            hint="vaultbuild cache prune --dry-run says what can go; then run it again",
        )
    return done


def wanted_bytes(order: Order) -> int:
    """Return how large everything is that locks name, there or not."""
    return sum(want.bytes for want in wants_of(order.locks) if want.cache in order.names)


def _served(
    project: Project, wants: list[Want], seen: Endpoints, supplies: Supplies, spending: Spending
) -> list[Found]:
    """Ask the caches that fetch by themselves, through a gateway that knows all the archives."""

    def heard(found: Found) -> None:
        if found.state == "present":
            spending.spared(found.want.bytes)
        # What is left of the budget was asked before; an index may be larger than it was.
        with contextlib.suppress(BudgetError):
            spending(found.received)

    limits = Limits(spending.left, lambda: shutil.disk_usage(project.var).free, RESERVE)
    return Warmer(seen.urls, supplies.stocks, limits, heard).warm(wants)


def _asked(needs: Needs, wants: Collection[Want]) -> set[str]:
    """Return which caches have to run: those of files are filled without, wheels from an index."""
    return {want.cache for want in wants} | ({"pypi"} if needs.wheels else set())


def _chosen(needs: Needs, names: Collection[str]) -> Needs:
    from builder.needs import Needs as Chosen  # late only for its name

    return Chosen(
        wheels=needs.wheels if "wheels" in names else (),
        models=needs.models if "models" in names else (),
        image=needs.image if "isos" in names else None,
    )


def _image(needs: Needs, project: Project, means: Means) -> IsoGot | None:
    from builder.fetch import Fetcher
    from builder.fetch.breaker import Breakers  # late: HTTP clients take 0.2 s

    if needs.image is None:
        return None
    settings = means.settings.get("isos") or {}
    return isos.ensure(
        needs.image.url,
        needs.image.sha256,
        project=project.folder,
        fetcher=Fetcher(breakers=Breakers.under(means.var), told=means.told),
        cache_url=settings.get("url"),
        ttl=settings.get("ttl", TTL),
        progress=means.progress,
    )


@contextlib.contextmanager
def _within_budget(done: Warmed, what: str) -> Iterator[None]:
    try:
        yield
    except BudgetError:
        done.left.append(what)


def _waiting(reporter: Reporter) -> Callable[[str], None]:
    return lambda who: reporter.note(f"another run warms the caches ({who}): waiting for it")


def _told_of_house(house: Any) -> dict[str, Any]:
    missing = [str(each) for each in house.missing]
    told = {"lock": house.sha256, "wheels": len(house.wheels), "bytes": house.bytes}
    return {**told, "received": house.received, "missing": missing}


def _told_of_model(model: Any) -> dict[str, Any]:
    told = {"repo": model.repo, "commit": model.commit, "bytes": model.bytes}
    return {**told, "received": model.received, "stale": model.stale, "moved": model.moved}


__all__ = ["RESERVE", "SERVED", "Order", "Warmed", "prefetch", "wanted_bytes"]
