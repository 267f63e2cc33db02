"""How long a plan will take, how much of it is left, and what took longer than it used to.

Values in, values out: :mod:`builder.history` knows what parts took before.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.history import CHECKS, SOURCE, STAGE, Part, Usual, role_part

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from builder.plan import Plan, Step

# A run is slow when it needs half as much again, and a person would notice.
_SLOW_RATIO = 1.5
_SLOW_SECONDS = 20
_SLOW_RUNS = 3


@dataclass(frozen=True, slots=True)
class Expected:
    """What something is expected to take. ``whole`` is false when parts of it are unknown."""

    seconds: float | None
    whole: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the parts of a plan took before; ``parts`` are those that will run, by stage."""

    parts: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    known: Mapping[Part, Usual] = field(default_factory=dict)

    def step(self, stage: str) -> Expected:
        """Return what a stage is expected to take: 0 when nothing runs, None when unknown."""
        return self._sum(self.parts.get(stage, ()))

    def total(self) -> Expected:
        """Return what all of it is expected to take."""
        return self._sum([part for parts in self.parts.values() for part in parts])

    def role(self, stage: str, role: str) -> float | None:
        """Return what a role is expected to take; None when it does not run or is unknown."""
        name = role_part(role)
        found = (part for part in self.parts.get(stage, ()) if part.part == name)
        known = self.known.get(next(found, Part("", "", "", "")))
        return known.seconds if known else None

    def _sum(self, parts: Sequence[Part]) -> Expected:
        known = [self.known[part].seconds for part in parts if part in self.known]
        nothing_known = bool(parts) and not known
        return Expected(None if nothing_known else sum(known), len(known) == len(parts))


def planned_parts(
    plan: Plan, engine: str, *, source: bool, checked: Container[str]
) -> dict[str, tuple[Part, ...]]:
    """Return by stage the parts that will run.

    ``source``: the root disk must be made. ``checked``: stages that have checks to be asked.
    """
    found: dict[str, tuple[Part, ...]] = {}
    for number, step in enumerate(plan.steps):
        makes = source and not number and step.action == "build"
        own = [Part(plan.variant, step.stage, engine, name) for name in _names(step, checked)]
        root = [Part(plan.variant, SOURCE, engine, SOURCE)] if makes else []
        if parts := (*root, *own):
            found[step.stage] = parts
    return found


def _names(step: Step, checked: Container[str]) -> Iterator[str]:
    if step.action != "reuse":
        yield STAGE
        yield from (role_part(role.role) for role in step.roles if role.action == "run")
    if step.verify and step.stage in checked:
        yield CHECKS


def plan_document(plan: Plan, estimate: Estimate) -> dict[str, Any]:
    """Return the document of ``plan --json``, with what is expected of each step and role."""
    document = plan.to_json()
    for step in document["steps"]:
        step["estimate"] = _rounded(estimate.step(step["stage"]).seconds)
        for role in step["roles"]:
            if role["action"] == "run":
                role["estimate"] = _rounded(estimate.role(step["stage"], role["role"]))
    return {**document, "estimate": _rounded(estimate.total().seconds)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


# --- what is left ---------------------------------------------------------------------------------


class Countdown:
    """How much of a run is left, as its parts begin and end; the caller says what time it is.

    Parts are named by (stage, part). A part that is interrupted by others (a stage by its roles)
    keeps what it spent.
    """

    def __init__(self, estimate: Estimate) -> None:
        parts = [part for parts in estimate.parts.values() for part in parts]
        self._seconds = {
            (part.stage, part.part): estimate.known[part].seconds
            for part in parts
            if part in estimate.known
        }
        # A role may run twice in a stage.
        self._waiting = Counter((part.stage, part.part) for part in parts)
        self._spent: dict[tuple[str, str], float] = {}
        self._current: tuple[str, str] | None = None
        self._since = 0.0
        self.total = self.left(0)

    def begin(self, stage: str, part: str, now: float) -> None:
        """A part begins or goes on."""
        self._pause(now)
        self._current = (stage, part)

    def end(self, stage: str, part: str, now: float) -> None:
        """A part is done, whatever it was expected to take."""
        self._pause(now)
        self._waiting[stage, part] -= 1
        self._spent.pop((stage, part), None)

    def skip(self, stage: str) -> None:
        """Somebody else made the stage: only its checks are left."""
        for name in self._waiting:
            if name[0] == stage and name[1] != CHECKS:
                self._waiting[name] = 0

    def left(self, now: float) -> float:
        """Return the seconds that are left; what takes longer than it should counts as done."""
        return sum(self._left(name, now) for name in self._seconds)

    def _left(self, name: tuple[str, str], now: float) -> float:
        running = now - self._since if name == self._current else 0.0
        spent = self._spent.get(name, 0.0) + running
        return max(0.0, max(0, self._waiting[name]) * self._seconds[name] - spent)

    def _pause(self, now: float) -> None:
        if self._current:
            spent = self._spent.get(self._current, 0.0)
            self._spent[self._current] = spent + now - self._since
        self._current, self._since = None, now


# --- what took long -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slow:
    """A part that took clearly longer than it used to."""

    part: Part
    seconds: float
    usual: float


def slow_parts(took: Mapping[Part, float], known: Mapping[Part, Usual]) -> list[Slow]:
    """Return the parts that took clearly longer than before, the greatest loss first."""
    found = [
        Slow(part, seconds, known[part].seconds)
        for part, seconds in took.items()
        if part in known and _is_slow(seconds, known[part])
    ]
    return sorted(found, key=lambda slow: slow.usual - slow.seconds)


def _is_slow(seconds: float, known: Usual) -> bool:
    return (
        known.runs >= _SLOW_RUNS
        and seconds > known.seconds * _SLOW_RATIO
        and seconds - known.seconds > _SLOW_SECONDS
    )
