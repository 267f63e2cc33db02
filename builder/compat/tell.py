"""Findings and answers as lines for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from builder.compat.answers import DriverAnswer, Question, ReleaseAnswer
    from builder.compat.finding import Finding
    from builder.compat.table import Table

_MARGIN = " " * 6


def finding_lines(findings: Iterable[Finding], table: Table, *, whole: bool) -> Iterator[str]:
    """Yield what was found; with ``whole`` what is right too, and where each fact is from."""
    kept = 0
    for each in findings:
        kept += each.level == "ok"
        if each.level == "ok" and not whole:
            continue
        yield f"{each.level:<6}{each.said}"
        if each.cure:
            yield f"{_MARGIN}{each.cure}"
        if whole and (source := table.sources.get(each.source)):
            yield f"{_MARGIN}says: {source.what}"
    if kept and not whole:
        yield f"{'ok':<6}{kept} more; -v tells them all"


def driver_lines(question: Question, answers: Sequence[DriverAnswer]) -> Iterator[str]:
    """Yield the drivers that will do, the best first, and below them why others will not."""
    good = [each for each in answers if each.will_do]
    yield f"{'drivers for' if good else 'no driver for'} {about(question)}"
    for each in good:
        least = f"{each.least} or later" if each.least != each.branch else "any of it"
        fate = each.maintained if each.maintained == "ended" else f"{each.kind} {each.maintained}"
        yield f"  {each.branch}  {each.flavour:<12}{least:<22}{fate}"
        yield from (f"       {note}" for note in each.notes)
    if not answers:
        yield f"       {question.driver} has no {question.flavour} module"
    refused = ((f"{a.branch} {a.flavour}", a.against) for a in answers if not a.will_do)
    yield from _refused(refused, whole=question.driver is not None)


def release_lines(question: Question, answers: Sequence[ReleaseAnswer]) -> Iterator[str]:
    """Yield the releases that will do, the newest first, and below them why others will not."""
    good = [each for each in answers if each.will_do]
    name = question.open_framework
    yield f"{'releases' if good else 'no release'} of {name} for {about(question)}"
    for each in good:
        yield f"  {each.version:<14}CUDA {each.cuda:<7}drivers {', '.join(each.branches)}"
        yield from (f"       {note}" for note in each.notes)
    refused = ((each.version, each.against) for each in answers if not each.will_do)
    yield from _refused(refused, whole=False)


def _refused(refused: Iterable[tuple[str, Sequence[str]]], *, whole: bool) -> Iterator[str]:
    """Yield why others will not do: one line for those of one reason.

    With ``whole`` every reason, for somebody who has this driver; else the first of each.
    """
    by_reason: dict[str, list[str]] = {}
    for name, against in refused:
        reasons = against or ("nothing is known",)
        for reason in reasons if whole else reasons[:1]:
            by_reason.setdefault(reason, []).append(name)
    if by_reason:
        yield "not"
    for reason, names in by_reason.items():
        yield f"  {', '.join(names)}"
        yield f"       {reason}"


def about(question: Question) -> str:
    """Return what a question says, in words."""
    known = [" ".join(pair) for pair in question.frameworks if pair[1]]
    parts = [
        ", ".join(question.gpus),
        f"driver {question.driver}" if question.driver else "",
        f"the {question.flavour} module" if question.flavour else "",
        f"kernel {question.kernel}" if question.kernel else "",
        f"CUDA {question.cuda}" if question.cuda else "",
        ", ".join(known),
    ]
    return " with ".join(part for part in parts if part) or "anything"
