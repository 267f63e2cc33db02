"""What provisioning tells while it runs: one JSON line per event, with names that stay.

The provisioning program runs under Packer, in another process than the one that a person watches.
So it appends events to a file, and the driver follows that file. What the driver itself has to tell
is added in :mod:`builder.stream`. Every line is one object:

============  =======  =============================================================
field         type     meaning
============  =======  =============================================================
schema        int      1
event         str      ``role_started`` ``task_started`` ``task_finished`` ``role_finished``
                       ``checkpoint_made``
time          float    seconds since the epoch
stage         str      the stage
role          str      the role as the stage names it (its dependencies count as the role)
task          str      ``task_*``: the task's name
status        str      ``task_finished``: ok, changed, skipped, failed or ignored;
                       ``role_finished``: done, failed or interrupted
seconds       float    ``task_finished``, ``role_finished``, ``checkpoint_made``: how long it took
changed       int      ``role_finished``: how many tasks changed something
tasks         int      ``role_finished``: how many tasks ended
============  =======  =============================================================

Fields that say nothing about an event are absent. Later schemas may add fields and events.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from threading import Event as Flag
    from types import TracebackType

SCHEMA = 1
FILE = "events.jsonl"
"""The file's name, among a run's logs."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while a stage was provisioned; the module says what is in it."""

    event: str
    time: float
    stage: str
    role: str
    task: str | None = None
    status: str | None = None
    seconds: float | None = None
    changed: int | None = None
    tasks: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what the event says, without the fields that say nothing."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return {"schema": SCHEMA, **said}

    def line(self) -> str:
        """Return the event as the line of JSON that stands in the file."""
        return json.dumps(self.to_json())


def parse(line: str) -> Event:
    """Return the event of one line, without the fields that this version does not know."""
    document: dict[str, Any] = json.loads(line)
    known = {field.name for field in fields(Event)}
    return Event(**{name: value for name, value in document.items() if name in known})


class Writer:
    """Appends the events of one stage to a file, each line at once."""

    def __init__(self, path: Path, stage: str) -> None:
        self._path = path
        self._stage = stage
        self._file: IO[str] | None = None

    def write(self, event: str, role: str, **said: Any) -> None:
        """Append one event. The time is now."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        line = Event(event, round(time.time(), 3), self._stage, role, **said).line()
        # One write per line: whoever follows the file sees lines appear, seldom parts of them.
        self._file.write(line + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def read(path: Path) -> list[Event]:
    """Return all events of a file; a last line that is not finished does not count."""
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    return [parse(line) for line in whole]


def follow(path: Path, stop: Flag, sink: Callable[[Event], None]) -> None:
    """Call ``sink`` with each event of the file as it appears, until ``stop`` is set.

    Meant for a thread of its own. The file need not exist yet. What stands in the file when
    ``stop`` is set still reaches ``sink``.
    """
    for line in lines(path, stop):
        sink(parse(line))


def lines(path: Path, stop: Flag, *, offset: int = 0) -> Iterator[str]:
    """Yield the lines of a file from ``offset`` on as they are written, until ``stop`` is set."""
    while True:
        last_round = stop.is_set()
        added, offset = _more(path, offset)
        # Not splitlines(): a program may write what only Unicode takes for the end of a line.
        yield from added.split("\n")[:-1]
        if last_round:
            return
        stop.wait(_POLL_SECONDS)


def _more(path: Path, offset: int) -> tuple[str, int]:
    if not path.exists():
        return "", offset
    with path.open("rb") as file:
        file.seek(offset)
        added = file.read()
    # A line is written whole, but a reader may come in the middle: leave the part for later, since
    # it may end inside a character.
    end = added.rfind(b"\n") + 1
    return added[:end].decode(errors="replace"), offset + end
