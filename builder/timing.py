"""Remembers how long a run's parts took, and notices which took longer than they used to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.estimate import slow_parts
from builder.history import CHECKS, SOURCE, STAGE, Done, Part, role_part
from builder.record import utc_now
from builder.report import slow_line
from builder.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.estimate import Estimate
    from builder.events import Event
    from builder.history import History
    from builder.plan import Plan, Step
    from builder.record import BuildRecord
    from builder.verify import Verdict


class Timekeeper(Reporter):
    """Writes down each part as it ends well. ``warn`` is told when the history began anew."""

    def __init__(
        self, history: History, variant: str, engine: str, *, warn: Callable[[str], None]
    ) -> None:
        self._history = history
        self._variant = variant
        self._engine = engine
        self._warn = warn
        self._estimate: Estimate | None = None
        self._keys: dict[tuple[str, str], str] = {}
        self._took: dict[Part, float] = {}

    def planned(self, plan: Plan, estimate: Estimate) -> None:
        """Learn what things usually take, and the keys of what will be made."""
        self._estimate = estimate
        self._keys = {
            (step.stage, role.role): role.key for step in plan.steps for role in step.roles
        }

    def event(self, event: Event) -> None:
        """Remember a role that is done."""
        if event.event == "role_finished" and event.status == "done":
            key = self._keys.get((event.stage, event.role), "")
            self._add(event.stage, role_part(event.role), event.seconds or 0, key)

    def source_finished(self, record: BuildRecord) -> None:
        """Remember the making of the root disk."""
        self._add(SOURCE, SOURCE, record.seconds, record.key)

    def stage_finished(self, step: Step, record: BuildRecord, seconds: float) -> None:  # noqa: ARG002
        """Remember what the stage took besides its roles; a resumed one starts with less to do."""
        if record.resumed_after is None:
            besides = record.seconds - sum(role.seconds for role in record.roles)
            self._add(record.stage, STAGE, max(0.0, besides), record.key)

    def checked(self, stage: str, verdict: Verdict, *, known: bool) -> None:
        """Remember checks that were asked now, and passed."""
        if verdict.passed and not known:
            self._add(stage, CHECKS, verdict.seconds, verdict.image, engine=verdict.engine)

    def slower(self) -> str | None:
        """Return a line on what took clearly longer than it used to; None when nothing did."""
        known = self._estimate.known if self._estimate else {}
        return slow_line(slow_parts(self._took, known))

    def _add(
        self, stage: str, name: str, seconds: float, key: str, *, engine: str | None = None
    ) -> None:
        part = Part(self._variant, stage, engine or self._engine, name)
        self._took[part] = self._took.get(part, 0.0) + seconds
        now = utc_now()
        if told := self._history.add([Done(part, seconds, now, key)]):
            self._warn(told)
