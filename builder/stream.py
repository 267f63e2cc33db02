"""One stream of everything that happens in a run, as JSON lines, for programs that watch it.

``--events FILE`` writes it. Names and fields are those of ``docs/events.md``; the schema in
``docs/events.schema.json`` is what a test holds this module to. A line is written at once and
whole, so a program can follow the file. When the file cannot be written any more, the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from builder import __version__
from builder.errors import Interrupted, Told
from builder.estimate import plan_document
from builder.events import SCHEMA
from builder.reporter import Reporter

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from builder.estimate import Estimate
    from builder.events import Event
    from builder.packer import Message
    from builder.plan import Plan, Step
    from builder.record import BuildRecord
    from builder.verify import CheckResult, Verdict


class EventStream(Reporter):
    """Writes what it is told to an unbuffered file. ``warn`` hears once that it cannot any more."""

    def __init__(self, file: io.RawIOBase, warn: Callable[[str], None]) -> None:
        self._file = file
        self._warn = warn
        self._lock = threading.Lock()
        self._broken = False
        self._about: dict[str, str] = {}
        self._estimate: Estimate | None = None
        self._started = time.monotonic()

    def run_started(self, command: str) -> None:
        """The command begins."""
        self._tell("run_started", command=command, version=__version__)

    def run_finished(self, error: BaseException | None) -> None:
        """The command ends, because of ``error`` when it did not end well."""
        took = time.monotonic() - self._started
        self._about = {}
        self._tell("run_finished", seconds=round(took, 1), **_ending(error))

    def concerning(self, variant: str, engine: str) -> None:
        """Name these in every event from now on."""
        self._about = {"variant": variant, "engine": engine}

    def planned(self, plan: Plan, estimate: Estimate) -> None:
        """Tell the whole plan, as ``plan --json`` does."""
        self._estimate = estimate
        document = plan_document(plan, estimate)
        self._tell("plan", estimate=document["estimate"], steps=document["steps"])

    def stage_started(self, step: Step, place: int, count: int) -> None:
        """Tell what happens to the stage."""
        expected = self._estimate.step(step.stage).seconds if self._estimate else None
        estimate = None if expected is None else round(expected, 1)
        self._tell(
            "stage_started", stage=step.stage, action=step.action, key=step.key,
            place=place, count=count, estimate=estimate,
        )  # fmt: skip

    def stage_reused(self, step: Step) -> None:
        """Tell that there was nothing to build."""
        self._tell("stage_finished", stage=step.stage, status="reused", key=step.key, seconds=0.0)

    def stage_finished(self, step: Step, record: BuildRecord, seconds: float) -> None:
        """Tell that it was built; ``resumed_after`` is the role that it went on from."""
        self._tell(
            "stage_finished", stage=record.stage, status="done", key=step.key,
            seconds=round(seconds, 1), resumed_after=record.resumed_after,
            traffic=_traffic(record),
        )  # fmt: skip

    def stage_failed(self, step: Step, seconds: float) -> None:
        """Tell that it was not built."""
        took = round(seconds, 1)
        self._tell("stage_finished", stage=step.stage, status="failed", key=step.key, seconds=took)

    def source_started(self, kind: str) -> None:
        """Tell what the root disk is made from."""
        self._tell("source_started", kind=kind)

    def source_finished(self, record: BuildRecord) -> None:
        """Tell how long it took."""
        self._tell(
            "source_finished", status="done", key=record.key, seconds=record.seconds,
            traffic=_traffic(record),
        )  # fmt: skip

    def event(self, event: Event) -> None:
        """Pass on what provisioning told, as it was told."""
        self._write({**event.to_json(), **self._about})

    def packer(self, stage: str, message: Message) -> None:
        """Tell what Packer says to people."""
        self._tell("packer_message", stage=stage, kind=message.kind, text=message.text.strip())

    def checking(self, stage: str) -> None:
        """Tell that an image is being asked."""
        self._tell("checks_started", stage=stage)

    def checked(self, stage: str, verdict: Verdict, *, known: bool) -> None:
        """Tell each answer, then the verdict; of a verdict that was there before only that."""
        for result in () if known else verdict.results:
            self._check(stage, result)
        self._tell(
            "verdict", stage=stage, status="passed" if verdict.passed else "failed",
            key=verdict.image, seconds=verdict.seconds, known=known, **verdict.counts(),
            engine=verdict.engine,
        )  # fmt: skip

    def _check(self, stage: str, result: CheckResult) -> None:
        self._tell(
            "check_finished", stage=stage, name=result.name, outcome=result.outcome,
            seconds=result.seconds, message=result.message or None, engine=result.engine or None,
        )  # fmt: skip

    def published(self, image: Path, manifest: Mapping[str, Any], *, fresh: bool) -> None:
        """Tell where the release stands, and what is in it."""
        made = manifest["image"]
        self._tell(
            "release_published", name=image.parent.name, image=str(image),
            sha256=made["sha256"], bytes=made["bytes"], fresh=fresh,
        )  # fmt: skip

    def doing(self, what: str) -> None:
        """Tell it as a note."""
        self.note(what)

    def note(self, text: str) -> None:
        """Tell it."""
        self._tell("note", text=text)

    def warning(self, text: str) -> None:
        """Tell it."""
        self._tell("warning", text=text)

    def _tell(self, event: str, **said: Any) -> None:
        """Write an event that happens now. ``estimate`` alone may say null: not known."""
        words = {k: v for k, v in said.items() if v is not None or k == "estimate"}
        head = {"schema": SCHEMA, "event": event, "time": round(time.time(), 3)}
        self._write({**head, **self._about, **words})

    def _write(self, document: dict[str, Any]) -> None:
        line = f"{json.dumps(document, ensure_ascii=False)}\n".encode(errors="replace")
        # Roles and Packer are told of by threads; a line of one must not stand in another's.
        with self._lock:
            if self._broken:
                return
            try:
                _write_all(self._file, line)
            except OSError as error:
                self._broken = True
                self._warn(f"no more events are written: {error.strerror}")


def open_stream(path: Path) -> io.RawIOBase:
    """Open the file of a stream; it tells one run, so what stood there is gone.

    Raises OSError when that cannot be.
    """
    # Unbuffered: nothing is left to be written, and to fail, when it is closed.
    return path.open("wb", buffering=0)


@contextlib.contextmanager
def telling(file: io.RawIOBase, command: str, warn: Callable[[str], None]) -> Iterator[EventStream]:
    """Stream the run that the block is, from its beginning to its end, however it ends."""
    with file:
        stream = EventStream(file, warn)
        stream.run_started(command)
        try:
            yield stream
        except BaseException as error:
            stream.run_finished(error)
            raise
        stream.run_finished(None)


def _ending(error: BaseException | None) -> dict[str, Any]:
    """Return how a run ended: with which status, and what was told a person."""
    if error is None:
        return {"status": "done", "exit_status": 0}
    status = "interrupted" if isinstance(error, Interrupted) else "failed"
    if not isinstance(error, Told):
        # Click's own errors know their status; all else is a bug, and Python ends with 1.
        code = getattr(error, "exit_code", 1)
        return {"status": status, "exit_status": code, "message": str(error) or repr(error)}
    return {
        "status": status,
        "exit_status": error.exit_status,
        "message": error.message,
        "cause": error.cause.rule if error.cause else None,
        "hint": error.hint,
        "log": str(error.log) if error.log else None,
        **_place(error),
    }


def _traffic(record: BuildRecord) -> dict[str, Any] | None:
    """Return what came over the network, where the record tells."""
    return record.network.get("traffic") if isinstance(record.network, dict) else None


def _place(error: Told) -> dict[str, Any]:
    """Return where in the provisioning it went wrong, if it did there."""
    names = ("stage", "role", "task")
    return {name: getattr(error, name) for name in names if getattr(error, name, None)}


def _write_all(file: io.RawIOBase, data: bytes) -> None:
    while data:
        # A disk that becomes full takes a part first and says so the next time.
        data = data[file.write(data) or 0 :]
