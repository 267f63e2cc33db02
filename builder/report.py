"""What a person or a machine is shown. stdout is the result, stderr the story.

Builders tell a :class:`Reporter` what happens and never print. :class:`ConsoleReporter` shows one
line per stage and role, and on a terminal a live line for the task that runs, with a bar and the
time that is left where earlier runs tell; with ``-v`` every task is a line, with ``-q`` only
failures are.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from builder.digest import short
from builder.history import CHECKS, SOURCE, STAGE, Part, role_part
from builder.network import Traffic
from builder.plan import explain
from builder.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from builder.errors import Told
    from builder.estimate import Countdown, Estimate, Expected, Slow
    from builder.events import Event
    from builder.live import LiveLine
    from builder.plan import Plan, Step
    from builder.reasons import Reason
    from builder.record import BuildRecord
    from builder.store import Image
    from builder.verify import Verdict


class ConsoleReporter(Reporter):
    """Tells a person on stderr. ``verbosity``: -1 quiet, 0 normal, 1 with every task."""

    def __init__(self, stream: IO[str] | None = None, *, verbosity: int = 0) -> None:
        self._stream = stream or sys.stderr
        self._verbosity = verbosity
        self._live_line: LiveLine | None = None
        self._estimate: Estimate | None = None
        self._countdown: Countdown | None = None

    def planned(self, plan: Plan, estimate: Estimate) -> None:  # noqa: ARG002
        """Remember what to expect: stages say it, and a terminal counts it down."""
        from builder.estimate import Countdown  # late: most commands plan nothing

        self._estimate = estimate
        self._countdown = Countdown(estimate) if estimate.known else None

    def stage_started(self, step: Step, place: int, count: int) -> None:
        """Print the stage's line: what happens to it, and why."""
        told = "" if self._stream.isatty() or not self._estimate else about(self._of(step))
        expected = f" ({told})" if told else ""
        line = f"[{place}/{count}] {step.stage:<12}{short(step.key)}  {explain(step)}{expected}"
        self._line(line)
        if step.action != "reuse":
            self._begin(step.stage, STAGE)
            self._live(f"starting {step.stage}")

    def stage_reused(self, step: Step) -> None:
        """Count it as done."""
        if self._countdown:
            self._countdown.skip(step.stage)

    def stage_finished(self, step: Step, record: BuildRecord, seconds: float) -> None:
        """Print how long it took."""
        self._end(record.stage, STAGE)
        came = traffic_line(record.network)
        self._line(f"      {step.stage:<12}done in {duration(seconds)}{'; ' if came else ''}{came}")

    def source_started(self, kind: str) -> None:
        """Show it until it is done."""
        self._begin(SOURCE, SOURCE)
        self.doing(f"making the root disk from {kind}")

    def source_finished(self, record: BuildRecord) -> None:
        """Print how long it took."""
        self._end(SOURCE, SOURCE)
        came = traffic_line(record.network)
        self.note(f"root disk made in {duration(record.seconds)}{'; ' if came else ''}{came}")

    def event(self, event: Event) -> None:
        """Show the running task; print a line for a finished role, and with -v for each task."""
        if event.event == "role_started":
            self._begin(event.stage, role_part(event.role))
        elif event.event == "task_started":
            self._live(f"{event.role}: {event.task}")
        elif event.event == "task_finished" and self._verbosity > 0:
            self._line(f"        {event.status:<8}{event.task} ({duration(event.seconds or 0)})")
        elif event.event == "role_finished":
            self._end(event.stage, role_part(event.role))
            self._begin(event.stage, STAGE)
            told = f"{event.tasks} tasks, {event.changed} changed, {duration(event.seconds or 0)}"
            ended = "" if event.status == "done" else f"{event.status} after "
            self._line(f"      {event.role:<24}{ended}{told}")
            # Until the next task there may be nothing to tell, but the time goes on.
            self._live(f"{event.stage}: after {event.role}")

    def checking(self, stage: str) -> None:
        """Show it until there is a verdict."""
        self._begin(stage, CHECKS)
        self.doing(f"checking {stage}")

    def checked(self, stage: str, verdict: Verdict, *, known: bool) -> None:
        """Print the verdict in a line."""
        self._end(stage, CHECKS)
        before = ", before" if known else ""
        self._line(f"      {stage + ' checks':<24}{verdict_line(verdict)}{before}")

    def doing(self, what: str) -> None:
        """Show it until the next thing happens."""
        if self._live(what) is None:
            self._line(f"      {what}")

    def note(self, text: str) -> None:
        """Print it."""
        self._line(f"      {text}")

    def warning(self, text: str) -> None:
        """Print it, marked."""
        self._line(f"warning: {text}")

    def close(self) -> None:
        """Take the live line away."""
        if self._live_line:
            self._live_line.stop()
            self._live_line = None

    def failed(self, error: Told) -> None:
        """Print what went wrong, where, and what to type next; also when quiet."""
        self.close()
        lines = [f"error: {error.message}"]
        lines += [f"cause: {error.cause}"] if error.cause else []
        lines += [f" hint: {_below(error.hint)}"] if error.hint else []
        lines += [f"  log: {_nearby(error.log)}"] if error.log else []
        print("\n".join(lines), file=self._stream, flush=True)

    def _line(self, text: str) -> None:
        if self._verbosity < 0:
            return
        self.close()
        print(text.rstrip(), file=self._stream, flush=True)

    def _live(self, text: str) -> LiveLine | None:
        """Show ``text`` in place, on a terminal; return None where there is none."""
        if self._verbosity < 0 or not self._stream.isatty():
            return None
        from builder.live import LiveLine  # late: rich costs 45 ms, and a plan shows nothing live

        if self._live_line is None:
            self._live_line = LiveLine(self._stream, self._remaining)
        self._live_line.show(text)
        return self._live_line

    def _remaining(self) -> tuple[float, float] | None:
        """Return the seconds of the whole run and of what is left, when they can be known."""
        countdown = self._countdown
        return (countdown.total, countdown.left(time.monotonic())) if countdown else None

    def _begin(self, stage: str, part: str) -> None:
        if self._countdown:
            self._countdown.begin(stage, part, time.monotonic())

    def _end(self, stage: str, part: str) -> None:
        if self._countdown:
            self._countdown.end(stage, part, time.monotonic())

    def _of(self, step: Step) -> Expected | None:
        return self._estimate.step(step.stage) if self._estimate else None


def _nearby(path: Path) -> Path:
    """Return ``path`` as a person here would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _below(text: str) -> str:
    """Return ``text`` with its lines below each other, behind a word of four letters."""
    return text.replace("\n", "\n       ")


def duration(seconds: float) -> str:
    """Return a time a person can read: ``0.4 s``, ``12 s``, ``3 min 5 s``."""
    if seconds < 10:  # noqa: PLR2004 - below ten, tenths matter
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def about(expected: Expected | None) -> str:
    """Return how long something may take: ``~2 min 5 s``, ``>40 s`` where parts are unknown."""
    if expected is None or not expected.seconds:
        return ""
    return f"{'~' if expected.whole else '>'}{duration(expected.seconds)}"


def slow_line(slow: Sequence[Slow]) -> str | None:
    """Return a line on what took clearly longer than it used to; None when nothing did."""
    if not slow:
        return None
    worst, *others = slow
    more = f" (and {len(others)} more)" if others else ""
    took, before = duration(worst.seconds), duration(worst.usual)
    return f"slower than usual: {_part_name(worst.part)} took {took}, usually {before}{more}"


def _part_name(part: Part) -> str:
    role = part.part.removeprefix(role_part(""))
    if role != part.part:
        return f"role {role} of {part.stage}"
    names = {SOURCE: "the root disk", CHECKS: f"the checks of {part.stage}"}
    return names.get(part.part, f"{part.stage} besides its roles")


def size(count: int) -> str:
    """Return bytes a person can read."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:  # noqa: PLR2004 - the base of these units
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def plan_lines(
    plan: Plan,
    since: Mapping[str, str],
    estimate: Estimate,
    *,
    lines_of: Callable[[Reason], Iterable[str]] | None = None,
) -> Iterable[str]:
    """Yield a plan as lines; ``since`` tells by stage when its image was built.

    How long a step may take has a column where any is known, and the last line has their sum. With
    ``lines_of``, which tells the changed lines of a file, every role and reason is a line.
    """
    times = {step.stage: about(estimate.step(step.stage)) for step in plan.steps}
    total = about(estimate.total())
    width = max((len(text) + 2 for text in (*times.values(), total) if text), default=0)
    for step in plan.steps:
        why = explain(step, since=since.get(step.stage))
        yield f"{step.stage:<12}{short(step.key)}  {times[step.stage]:<{width}}{why}"
        if lines_of:
            yield from _reason_lines(step, estimate, width, lines_of)
    if total:
        yield f"{'total':<26}{total}"


def _reason_lines(
    step: Step, estimate: Estimate, width: int, lines_of: Callable[[Reason], Iterable[str]]
) -> Iterable[str]:
    margin = f"{'':<26}{'':<{width}}"
    for reason in step.reasons:
        if reason.role is None:
            yield f"{margin}{reason}"
            yield from (f"{margin}  {line}" for line in lines_of(reason))
    for role in step.roles:
        told = dict.fromkeys(str(reason) for reason in role.reasons)
        seconds = estimate.role(step.stage, role.role) if role.action == "run" else None
        takes = f"~{duration(seconds)}" if seconds else ""
        line = f"{'':<26}{takes:<{width}}{role.action:<6}{role.role:<24}{', '.join(told)}"
        yield line.rstrip()
        own = [reason for reason in role.reasons if reason.role == role.role]
        yield from (f"{margin}  {line}" for reason in own for line in lines_of(reason))


def record_lines(image: Image, verdict: Verdict | None) -> Iterable[str]:
    """Yield what a person wants to know of an image."""
    record = image.record
    yield f"stage     {record.stage} of {record.variant}"
    yield f"key       {record.key}"
    yield f"disk      {image.disk} ({size(record.disk.bytes)} over what it stands on)"
    yield f"built     {record.created} in {duration(record.seconds)}"
    for role in record.roles:
        told = f"{role.tasks} tasks, {role.changed} changed, {duration(role.seconds)}"
        yield f"role      {role.role:<24}{told}"
    for kind, packages in record.packages.items():
        yield f"packages  {len(packages)} {kind}"
    yield from _network_lines(record.network)
    yield f"tools     {', '.join(f'{name} {value}' for name, value in record.tools.items())}"
    yield f"checks    {verdict_line(verdict) if verdict else 'not run'}"


def traffic_line(told: Any) -> str:
    """Return where a run's bytes came from: ``104 MiB from caches, 12 KiB from upstream, …``."""
    if not isinstance(told, dict) or not told.get("traffic"):
        return ""
    traffic = Traffic.from_json(told)
    if not traffic.hits and not traffic.misses:
        return ""
    parts = [
        f"{size(traffic.cache_bytes)} from caches",
        f"{size(traffic.upstream_bytes)} from upstream",
    ]
    parts += [f"{duration(traffic.saved)} saved"] if traffic.saved else []
    return ", ".join(parts)


def _network_lines(told: Any) -> Iterable[str]:
    """Yield what a record says of the network; older records have a word for the mode only."""
    if not isinstance(told, dict):
        yield f"network   {told or 'unknown'}"
        return
    how = f"{told['mode']}, offline" if told.get("offline") else told["mode"]
    yield f"network   {how}, {told.get('handed', 0)} things handed out to this stage"
    if came := traffic_line(told):
        traffic = Traffic.from_json(told)
        yield f"traffic   {came} ({traffic.hits} hits, {traffic.misses} misses)"
    if stale := told.get("stale"):
        yield f"stale     {stale} things were not asked for upstream, which did not answer"
    if tunnels := told.get("tunnels"):
        yield f"tunnels   {', '.join(tunnels)} (nobody knows what they gave)"


def verdict_line(verdict: Verdict) -> str:
    """Return a verdict in a line: ``41 passed, 1 failed (nspawn, 4.1 s)``.

    Of a release that was asked in several places: ``60 passed (20 of the file, 28 qemu, …)``.
    """
    counts = ", ".join(f"{count} {name}" for name, count in verdict.counts().items() if count)
    return f"{counts or 'none'} ({verdict.asked()}, {duration(verdict.seconds)})"


def emit(text: str) -> None:
    """Print a result on stdout."""
    print(text, flush=True)  # noqa: T201 - this module and the command line may


def emit_json(document: Any) -> None:
    """Print a result on stdout for a machine."""
    emit(json.dumps(document, indent=2, ensure_ascii=False))


def table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield rows as lines with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
