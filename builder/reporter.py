"""Who is told what happens: builders tell a :class:`Reporter` and never print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.estimate import Estimate
    from builder.events import Event
    from builder.packer import Message
    from builder.plan import Plan, Step
    from builder.record import BuildRecord
    from builder.verify import Verdict


class Reporter:
    """What builders tell; this one tells nobody. Events and Packer come from other threads."""

    def concerning(self, variant: str, engine: str) -> None:
        """What follows is about this variant, on this engine."""

    def planned(self, plan: Plan, estimate: Estimate) -> None:
        """This is going to be done, and may take that long."""

    def stage_started(self, step: Step, place: int, count: int) -> None:
        """A stage's turn has come; it is number ``place`` of ``count``."""

    def stage_reused(self, step: Step) -> None:
        """The stage's image was in the store, or another run put it there meanwhile."""

    def stage_finished(self, step: Step, record: BuildRecord, seconds: float) -> None:
        """The stage's image was built and is in the store."""

    def stage_failed(self, step: Step, seconds: float) -> None:
        """The stage was not built; the error that is on its way says why."""

    def source_started(self, kind: str) -> None:
        """The root disk is being made."""

    def source_finished(self, record: BuildRecord) -> None:
        """The root disk is in the store."""

    def event(self, event: Event) -> None:
        """Something happened while a stage is provisioned."""

    def packer(self, stage: str, message: Message) -> None:
        """Packer said something."""

    def checking(self, stage: str) -> None:
        """An image is being asked its checks."""

    def checked(self, stage: str, verdict: Verdict, *, known: bool) -> None:
        """An image has a verdict; ``known`` when it had it before."""

    def published(self, image: Path, manifest: Mapping[str, Any], *, fresh: bool) -> None:
        """A release stands in its place: made now when ``fresh``, else before."""

    def doing(self, what: str) -> None:
        """Something that may take a while has begun."""

    def note(self, text: str) -> None:
        """Something a person should know."""

    def warning(self, text: str) -> None:
        """Something a person should look at, although the run goes on."""


class Tee(Reporter):
    """Tells several, in their order."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def concerning(self, variant: str, engine: str) -> None:
        """Tell all."""
        for each in self._reporters:
            each.concerning(variant, engine)

    def planned(self, plan: Plan, estimate: Estimate) -> None:
        """Tell all."""
        for each in self._reporters:
            each.planned(plan, estimate)

    def stage_started(self, step: Step, place: int, count: int) -> None:
        """Tell all."""
        for each in self._reporters:
            each.stage_started(step, place, count)

    def stage_reused(self, step: Step) -> None:
        """Tell all."""
        for each in self._reporters:
            each.stage_reused(step)

    def stage_finished(self, step: Step, record: BuildRecord, seconds: float) -> None:
        """Tell all."""
        for each in self._reporters:
            each.stage_finished(step, record, seconds)

    def stage_failed(self, step: Step, seconds: float) -> None:
        """Tell all."""
        for each in self._reporters:
            each.stage_failed(step, seconds)

    def source_started(self, kind: str) -> None:
        """Tell all."""
        for each in self._reporters:
            each.source_started(kind)

    def source_finished(self, record: BuildRecord) -> None:
        """Tell all."""
        for each in self._reporters:
            each.source_finished(record)

    def event(self, event: Event) -> None:
        """Tell all."""
        for each in self._reporters:
            each.event(event)

    def packer(self, stage: str, message: Message) -> None:
        """Tell all."""
        for each in self._reporters:
            each.packer(stage, message)

    def checking(self, stage: str) -> None:
        """Tell all."""
        for each in self._reporters:
            each.checking(stage)

    def checked(self, stage: str, verdict: Verdict, *, known: bool) -> None:
        """Tell all."""
        for each in self._reporters:
            each.checked(stage, verdict, known=known)

    def published(self, image: Path, manifest: Mapping[str, Any], *, fresh: bool) -> None:
        """Tell all."""
        for each in self._reporters:
            each.published(image, manifest, fresh=fresh)

    def doing(self, what: str) -> None:
        """Tell all."""
        for each in self._reporters:
            each.doing(what)

    def note(self, text: str) -> None:
        """Tell all."""
        for each in self._reporters:
            each.note(text)

    def warning(self, text: str) -> None:
        """Tell all."""
        for each in self._reporters:
            each.warning(text)
