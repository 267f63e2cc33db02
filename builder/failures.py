"""Why something failed: what a program printed, looked up in a catalogue of what that mostly means.

The catalogue is ``failures.yml``, beside this file: rules in their order, what is specific before
what is general, each with a real output that it must recognise. Imported by those who report a
failure, when there is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, TypeVar

from builder.errors import Cause, Problem, ProjectError, VaultbuildError
from builder.yamlfile import YamlFile, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CATALOGUE = Path(__file__).with_name("failures.yml")
PLACES = ("role", "ssh", "packer", "host", "any")

_TEXTS = {"id", "pattern", "cause", "cure", "example"}
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Colours and cursor movements of a console.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# The end of an output has what ended it; a log of an hour is not searched forty times.
_MOST_CHARACTERS = 500_000

ErrorT = TypeVar("ErrorT", bound=VaultbuildError)


@dataclass(frozen=True, slots=True)
class Rule:
    """What an output that ``pattern`` matches means, where such an output is looked for."""

    id: str
    where: str
    pattern: re.Pattern[str]
    cause: str
    cure: str
    example: str
    passes: bool = False  # by itself: a mirror that restarts, not a version that is gone


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The rule that an output matched, with what that output says filled in."""

    rule: str
    cause: str
    cure: str
    passes: bool = False


def diagnose(text: str, where: str, rules: Iterable[Rule] | None = None) -> Diagnosis | None:
    """Return what the first rule says that matches the output of ``where``; None if none does.

    ``where`` is one of :data:`PLACES`; rules for any place are tried in each.
    """
    text = plain(text[-_MOST_CHARACTERS:])
    for rule in load() if rules is None else rules:
        found = rule.pattern.search(text) if rule.where in (where, "any") else None
        if found:
            groups = {name: _one_line(value) for name, value in found.groupdict("").items()}
            cause, cure = rule.cause.format(**groups), rule.cure.format(**groups)
            return Diagnosis(rule.id, cause, cure, rule.passes)
    return None


def explained(error: ErrorT, text: str, where: str, *, hint: str | None = None) -> ErrorT:
    """Give ``error`` the cause that ``text`` tells, and what cures it; return it.

    The error's own hint stays, below the cure. ``hint`` is for an error that nothing explains.
    """
    if found := diagnose(text, where):
        error.cause = Cause(found.rule, found.cause, found.passes)
        error.hint = "\n".join(dict.fromkeys(filter(None, (found.cure, error.hint))))
    else:
        error.hint = error.hint or hint
    return error


def plain(text: str) -> str:
    """Return what a console shows, without what it does to a terminal."""
    return _ESCAPES.sub("", text).replace("\r", "")


def _one_line(value: str) -> str:
    return " ".join(value.split())


# --- the catalogue --------------------------------------------------------------------------------


@cache
def load(path: Path = CATALOGUE) -> tuple[Rule, ...]:
    """Return the rules of a catalogue; raise :class:`ProjectError` with all that is wrong in it."""
    file, problems = parse(path, path.read_bytes())
    if file is None or not isinstance(file.data, list):
        raise ProjectError(problems or [Problem(path, "must be a list of rules")])
    for at, entry in enumerate(file.data):
        problems += [file.problem((at, *key), said) for key, said in _mistakes(entry)]
    if not problems:
        rules = tuple(map(_rule, file.data))
        problems = list(_confused(file, rules))
    if problems:
        raise ProjectError(problems)
    return rules


def _rule(entry: Mapping[str, Any]) -> Rule:
    texts = {name: entry[name].strip() for name in ("id", "cause", "cure", "example")}
    pattern = re.compile(entry["pattern"], re.MULTILINE)
    where, passes = entry.get("where", "any"), entry.get("passes", False)
    return Rule(where=where, pattern=pattern, passes=passes, **texts)


def _mistakes(entry: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what is wrong with one rule: the key, and what to say of it."""
    if not isinstance(entry, dict):
        yield (), "must be a mapping"
        return
    for name in sorted(_TEXTS - {name for name, text in entry.items() if isinstance(text, str)}):
        yield (name,) if name in entry else (), f"{name} must be text"
    for name in sorted(entry.keys() - _TEXTS - {"where", "passes"}):
        yield (name,), "is not a key that is known here"
    if not isinstance(entry.get("passes", False), bool):
        yield ("passes",), "must be true or false"
    if entry.get("where", "any") not in PLACES:
        yield ("where",), f"must be one of {', '.join(PLACES)}"
    if not _ID.fullmatch(str(entry.get("id", "a"))):
        yield ("id",), 'use small letters, digits and "-"'
    yield from _mistakes_of_pattern(entry)


def _mistakes_of_pattern(entry: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    try:
        groups = re.compile(str(entry.get("pattern", ""))).groupindex
    except re.error as error:
        yield ("pattern",), f"is no regular expression: {error}"
        return
    for name in ("cause", "cure"):
        try:
            fields = [field for _, field, *_ in Formatter().parse(str(entry.get(name, "")))]
        except ValueError as error:
            yield (name,), f"is no template: {error}"
            continue
        for field in fields:
            if field is not None and field not in groups:
                yield (name,), f"{{{field}}} is no named group of the pattern"


def _confused(file: YamlFile, rules: tuple[Rule, ...]) -> Iterator[Problem]:
    """Yield a problem for each rule that its example does not lead to."""
    seen: set[str] = set()
    for at, rule in enumerate(rules):
        if rule.id in seen:
            yield file.problem((at, "id"), f"{rule.id} is there twice")
        seen.add(rule.id)
        found = diagnose(rule.example, rule.where, rules)
        if found is None or found.rule != rule.id:
            which = f"{found.rule} instead" if found else "no rule"
            yield file.problem((at, "example"), f"the example of {rule.id} matches {which}")
