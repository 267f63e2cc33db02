"""Build a stage again whenever what it is made from has changed on the disk.

What is looked at are the keys, not the files: saving a file unchanged, or editing a README, starts
nothing. A run whose keys are not the wanted ones any more is stopped; the roles that it finished
and that are still wanted are resumed after.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NoReturn

from builder.errors import VaultbuildError

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.process import Child
    from builder.project import Project

_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Sight:
    """What a stage would be made from and checked with, if it were made now."""

    keys: tuple[str, ...]
    checks: str


def look(project: Project, stage: str) -> Sight:
    """Look at the project once; raises :class:`builder.errors.ProjectError` like a plan."""
    inputs = project.inputs(stage)
    return Sight(tuple(each.key for each in inputs), project.checks(stage, whole=True).digest())


def decide(
    seen: Sight, running: Sight | None, done: Sight | None
) -> Literal["start", "stop", "wait"]:
    """Decide what becomes of a run; ``done`` is what the last one that ended was started for.

    Changed checks do not stop a run: its image is still the wanted one, and is checked after.
    """
    if running is None:
        return "wait" if seen == done else "start"
    return "stop" if seen.keys != running.keys else "wait"


def watch(
    see: Callable[[], Sight], start: Callable[[], Child], tell: Callable[[str], None]
) -> NoReturn:
    """Keep the stage built until a signal comes."""
    watcher = _Watcher(see, start, tell)
    try:
        while True:
            watcher.turn()
            time.sleep(_LOOK_SECONDS)
    finally:
        watcher.stop()


class _Watcher:
    def __init__(
        self, see: Callable[[], Sight], start: Callable[[], Child], tell: Callable[[str], None]
    ) -> None:
        self._see, self._start, self._tell = see, start, tell
        self._child: Child | None = None
        self._running: Sight | None = None
        self._done: Sight | None = None
        self._seen: Sight | None = None
        self._mistake = ""

    def turn(self) -> None:
        """Look, decide, act."""
        if self._child and self._child.status is not None:
            self.stop()
            self._tell("watching: it builds again when something is saved (Ctrl-C ends it)")
        seen, before = self._look(), self._seen
        self._seen = seen
        # Editors write in steps: what is still moving is not started.
        if seen is None or (seen != before and before is not None):
            return
        decision = decide(seen, self._running, self._done)
        if decision == "stop":
            self._tell("changed: stopping what has become pointless")
            self.stop()
        elif decision == "start":
            self._running = seen
            self._child = self._start()

    def stop(self) -> None:
        """Let the run unwind, if there is one."""
        if self._child:
            self._child.stop(signal.SIGINT, grace=120)
        self._child, self._done, self._running = None, self._running, None

    def _look(self) -> Sight | None:
        try:
            seen = self._see()
        except VaultbuildError as error:
            if error.message != self._mistake:
                self._tell(f"not built like this:\n{error.message}")
            self._mistake = error.message
            return None
        self._mistake = ""
        return seen
