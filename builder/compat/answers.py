"""Answers to questions such as which driver B200 wants with torch 2.8.

Every candidate is judged by the same rules as a variant is; what no rule refuses is an answer, and
what one refuses is told with its reason.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from builder.compat import versions
from builder.compat.finding import worst
from builder.compat.rules import judge
from builder.compat.stack import Environment, Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.compat.finding import Finding, Level
    from builder.compat.table import Flavour, Table

# Rules about a branch's age: told of an answer, and no reason against it.
_AGE = "driver-end"
_KINDS = {"lts": "long term support", "production": "production", "feature": "new features"}
_BEST = ("lts", "production", "feature")


@dataclass(frozen=True, slots=True)
class Question:
    """What is said; what is not said is asked for. A framework's version may be empty."""

    gpus: tuple[str, ...] = ()
    driver: str | None = None
    flavour: Flavour | None = None
    kernel: str | None = None
    cuda: str | None = None
    frameworks: tuple[tuple[str, str], ...] = ()

    @property
    def open_framework(self) -> str | None:
        """The first framework whose release is asked for."""
        return next((name for name, version in self.frameworks if not version), None)

    def stack(self, table: Table) -> Stack:
        """Return what is said, as a stack; each framework with what it needs, in an environment."""
        environments = tuple(
            Environment(name, {**_needed(table, name, version), name: version})
            for name, version in self.frameworks
            if version
        )
        return Stack(self.driver, self.flavour, self.kernel, self.cuda, self.gpus, environments)


def _needed(table: Table, name: str, version: str) -> Mapping[str, str]:
    known = table.framework(name, version)
    return known[1].needs if known else {}


@dataclass(frozen=True, slots=True)
class DriverAnswer:
    """A branch and a module. ``least`` is the first driver of the branch that will do.

    ``maintained`` is until when, in words; ``notes`` what goes only in part; ``against`` why not.
    """

    branch: str
    flavour: str
    kind: str
    maintained: str
    least: str
    level: Level
    notes: tuple[str, ...]
    against: tuple[str, ...]

    @property
    def will_do(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.against

    def to_json(self) -> dict[str, Any]:
        """Return the answer as machines are told it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ReleaseAnswer:
    """A release of a framework, its CUDA, and the branches that it runs on."""

    framework: str
    version: str
    cuda: str
    branches: tuple[str, ...]
    notes: tuple[str, ...]
    against: tuple[str, ...]

    @property
    def will_do(self) -> bool:
        """Whether it runs on some branch."""
        return bool(self.branches)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as machines are told it."""
        return asdict(self)


def drivers(question: Question, table: Table, month: str) -> list[DriverAnswer]:
    """Return every branch with every module, those that will do first, the best of them first."""
    found = [
        _driver(question, table, month, branch, flavour)
        for branch, row in table.drivers.items()
        if question.driver is None or versions.major(question.driver) == branch
        for flavour in row.modules
        if question.flavour in {None, flavour}
    ]
    return sorted(found, key=lambda each: _rank(each, table, month))


def _rank(answer: DriverAnswer, table: Table, month: str) -> tuple[Any, ...]:
    row = table.drivers[answer.branch]
    return (
        bool(answer.against),
        row.over(month),
        bool(answer.notes),
        _BEST.index(row.kind),
        -int(answer.branch),
        answer.flavour,
    )


def _driver(
    question: Question, table: Table, month: str, branch: str, flavour: Flavour
) -> DriverAnswer:
    row = table.drivers[branch]
    driver = question.driver or branch
    stack = replace(question.stack(table), driver=driver, flavour=flavour)
    findings = [each for each in judge(stack, table, month) if each.rule != _AGE]
    return DriverAnswer(
        branch=branch,
        flavour=flavour,
        kind=_KINDS[row.kind],
        maintained="ended" if row.over(month) else f"until {row.ends}",
        least=_least(stack, table, driver),
        level=worst(findings),
        notes=_said(findings, "note", "warn"),
        against=_said(findings, "fail"),
    )


def _said(findings: list[Finding], *levels: Level) -> tuple[str, ...]:
    said = (each.said for each in findings if each.level in levels)
    return tuple(dict.fromkeys(said))


def _least(stack: Stack, table: Table, driver: str) -> str:
    """Return the first driver of a branch that reaches every floor: the branch where any does."""
    floors = [table.gpus[name].driver for name in stack.gpus if name in table.gpus]
    for toolkit in stack.toolkits(table):
        rows = (
            table.cuda_majors.get(versions.major(toolkit.version)),
            table.cuda.get(versions.minor(toolkit.version)),
        )
        floors += [row.driver for row in rows if row]
    of_branch = [each for each in floors if versions.major(each) == versions.major(driver)]
    return max([driver, *of_branch], key=versions.numbers)


def releases(question: Question, table: Table, month: str) -> list[ReleaseAnswer]:
    """Return every release of the framework that is asked for, the newest that will do first."""
    name = question.open_framework or ""
    found = [
        _release(question, table, month, name, version)
        for version in table.frameworks.get(name, {})
    ]
    newest_first = sorted(found, key=lambda each: versions.numbers(each.version), reverse=True)
    return sorted(newest_first, key=lambda each: not each.branches)


def _release(
    question: Question, table: Table, month: str, name: str, version: str
) -> ReleaseAnswer:
    said = tuple((each, version if each == name else told) for each, told in question.frameworks)
    answers = drivers(replace(question, frameworks=said), table, month)
    will_do = [each for each in answers if each.will_do]
    branches = dict.fromkeys(each.branch for each in will_do)
    return ReleaseAnswer(
        framework=name,
        version=version,
        cuda=versions.minor(_cuda_of(table, name, version) or ""),
        branches=tuple(branches),
        notes=will_do[0].notes if will_do else (),
        against=() if will_do else _common(answers),
    )


def _cuda_of(table: Table, name: str, version: str) -> str | None:
    """Return the CUDA of a release: its own, or that of the framework that it stands on."""
    known = table.framework(name, version)
    if known is None or known[1].cuda:
        return known[1].cuda if known else None
    return next((_cuda_of(table, *each) for each in known[1].needs.items()), None)


def _common(answers: list[DriverAnswer]) -> tuple[str, ...]:
    """Return what speaks against every driver, or else against the best one."""
    if not answers:
        return ()
    everywhere = [
        said for said in answers[0].against if all(said in each.against for each in answers)
    ]
    return tuple(everywhere) or answers[0].against
