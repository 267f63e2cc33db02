"""Have ready, before anything runs, what roles will ask the caches of files for.

A wheelhouse for each lock file, and the models of each lock of models: fetched where they are not
there, read through where they are. A role that installs from a lock then needs no index at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.errors import Interrupted, VaultbuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from builder.caches.models import ModelGot
    from builder.caches.wheels import House
    from builder.needs import FileNeed, Needs
    from builder.network import Entry

_OWN = {"apt", "pypi"}
_THERE = 200


@dataclass(frozen=True, slots=True)
class Means:
    """With what something is fetched: an index, the caches' settings, and who hears of it.

    ``progress`` hears how many bytes came since it last did.
    """

    project: Path
    index: str | None
    settings: Mapping[str, Mapping[str, Any]]
    told: Callable[[str], None]
    offline: bool = False
    progress: Callable[[int], None] | None = None
    snapshots: Mapping[str, Path] = field(default_factory=dict)
    """By stage, the copy of its files that it is built from; else the project's are read."""

    def file(self, need: FileNeed) -> Path:
        """Return the lock file of a need."""
        return self.snapshots.get(need.stage, self.project) / need.path

    @property
    def var(self) -> Path:
        """The project's ``cache/var``."""
        return self.project / "cache/var"


@dataclass(slots=True)
class Provided:
    """What is ready: by stage and role, the digests of its lock files; and what was had for it."""

    houses: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    wheels: list[House] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Lock files whose wheels could not be had, and why."""
    models: list[ModelGot] = field(default_factory=list)

    def fresh(self, journal: Iterable[Entry]) -> dict[str, float]:
        """Return what came from upstream for it, by digest, and how long that took.

        ``journal`` is that of the gateway through which the index was asked; the hub of models is
        not asked through one.
        """
        found = {
            each.sha256: each.seconds
            for each in journal
            if each.what == "handed" and each.kind == "file" and each.origin == "upstream"
        }
        return found | {sha256: took for model in self.models for sha256, took in model.fetched}


class BudgetError(VaultbuildError):
    """As many bytes came as were allowed."""


def names_for(needs: Needs) -> set[str]:
    """Return which caches a run has to have, for what its stages need."""
    return _OWN | ({"wheels"} if needs.wheels else set()) | ({"models"} if needs.models else set())


def provide(needs: Needs, means: Means, done: Provided | None = None) -> Provided:
    """Have everything ready; return what is. ``done`` has it, too, when not all comes.

    What wheels cannot be had is told, and the role uses the index. Raises what the caches raise
    when a model cannot be had: nothing else could give it to the role.
    """
    done = Provided() if done is None else done
    known: dict[tuple[str, str], list[str | None]] = {}
    for need in needs.wheels:
        known.setdefault((need.stage, need.role), []).append(_lives_in(need, means, done))
    for role, houses in known.items():
        # Where one lock has no whole house, the role needs the index.
        done.houses |= {role: tuple(each for each in houses if each)} if all(houses) else {}
    for need in needs.models:
        done.models += _models(need, means)
    return done


def _lives_in(need: FileNeed, means: Means, done: Provided) -> str | None:
    """Return the digest of a lock file whose wheels are all there; None where they are not."""
    if team := (means.settings.get("wheels") or {}).get("url"):
        from builder.caches.http import ask  # late, as above
        from builder.digest import digest_bytes

        digest = digest_bytes(means.file(need).read_bytes())
        return digest if ask(f"{team.rstrip('/')}/{digest}/").status == _THERE else None
    house = _house(need, means, done)
    if house is None:
        return None
    done.wheels.append(house)
    return house.sha256 if house.complete else None


def _house(need: FileNeed, means: Means, done: Provided) -> House | None:
    from builder.caches import wheels  # late: brings packaging, which a plan does without

    if need.target is None:
        return None  # nobody knows the guest's Python yet
    try:
        house = wheels.ensure(
            means.file(need),
            need.target,
            index_url=means.index,
            fetcher=None if means.offline else _fetcher(means),
            folder=means.var,
            offline=means.offline,
            progress=means.progress,
        )
    except (Interrupted, BudgetError):
        raise  # they say what to do, not what a cache has
    except VaultbuildError as error:
        done.failed[str(need.path)] = why = error.message.splitlines()[0]
        means.told(f"{need.path}: its wheels cannot be had: {why}")
        return None
    for missing in house.missing:
        means.told(f"{need.path}: {missing}")
    return house


def _models(need: FileNeed, means: Means) -> tuple[ModelGot, ...]:
    from builder.caches import models, models_lock  # late, as above
    from builder.caches.hub import Hub
    from builder.caches.shelf import TTL

    path = means.file(need)
    settings = means.settings.get("models") or {}
    if settings.get("url"):
        return ()  # the team's cache has them
    hub = None
    if not means.offline:
        hub = Hub(settings.get("upstream"), breakers=_breakers(means), told=means.told)
    found = models.ensure(
        models_lock.parse_lock(need.path, path.read_bytes()),
        folder=means.var,
        hub=hub,
        fetcher=None if means.offline else _fetcher(means),
        offline=means.offline,
        ttl=settings.get("ttl", TTL),
        progress=means.progress,
    )
    for each in found:
        if each.moved:
            means.told(f"{each.repo}: {each.revision} is at {each.moved[:12]} by now")
        if each.trouble:
            means.told(f"{each.repo}: not confirmed by its hub: {each.trouble}")
    return found


def _breakers(means: Means) -> Any:
    from builder.fetch.breaker import Breakers  # late: only what fetches

    return Breakers.under(means.var)


def _fetcher(means: Means) -> Any:
    from builder.fetch import Fetcher  # late: HTTP clients take 0.2 s to import

    return Fetcher(breakers=_breakers(means), told=means.told)
