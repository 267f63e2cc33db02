"""Watching: what starts a run, what stops one, and what does neither."""

import pytest

from builder import watch
from builder.errors import Problem, ProjectError
from builder.watch import Sight, decide

ONE = Sight(("base", "final"), "checks")
OTHER = Sight(("base", "changed"), "checks")
CHECKED = Sight(("base", "final"), "other checks")


@pytest.mark.parametrize(
    ("seen", "running", "done", "decision"),
    [
        (ONE, None, None, "start"),
        (ONE, None, ONE, "wait"),
        (OTHER, None, ONE, "start"),
        (CHECKED, None, ONE, "start"),
        (ONE, ONE, None, "wait"),
        (OTHER, ONE, None, "stop"),
        (CHECKED, ONE, None, "wait"),
    ],
)
def test_decisions(seen, running, done, decision):
    assert decide(seen, running, done) == decision


class Run:
    """A run that goes on until it is ended or stopped."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.stopped = False

    def stop(self, *_: object, **__: object) -> int:
        self.stopped = self.status is None
        self.status = 130 if self.stopped else self.status
        return self.status


class Desk:
    """Somebody who edits: what is seen, what was started, what was told."""

    def __init__(self) -> None:
        self.sight: Sight | Exception = ONE
        self.runs: list[Run] = []
        self.told: list[str] = []
        self.watcher = watch._Watcher(self.see, self.start, self.told.append)

    def see(self) -> Sight:
        if isinstance(self.sight, Exception):
            raise self.sight
        return self.sight

    def start(self) -> Run:
        self.runs.append(Run())
        return self.runs[-1]

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.watcher.turn()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_first_run_starts_at_once_and_only_once(desk):
    desk.turn(3)
    assert len(desk.runs) == 1


def test_a_change_stops_the_run_and_starts_another_when_it_has_settled(desk):
    desk.turn()
    desk.sight = OTHER
    desk.turn()
    assert not desk.runs[0].stopped, "the editor may be at it still"
    desk.turn(2)
    assert desk.runs[0].stopped
    assert len(desk.runs) == 2


def test_after_its_end_a_run_waits_for_a_change(desk):
    desk.turn()
    desk.runs[0].status = 0
    desk.turn(3)
    assert len(desk.runs) == 1
    assert "watching" in desk.told[-1]
    desk.sight = OTHER
    desk.turn(2)
    assert len(desk.runs) == 2


def test_a_failed_run_is_not_repeated_unchanged(desk):
    desk.turn()
    desk.runs[0].status = 1
    desk.turn(3)
    assert len(desk.runs) == 1


def test_a_mistake_is_told_once_and_stops_nothing(desk, tmp_path):
    desk.turn()
    desk.sight = ProjectError([Problem(tmp_path / "stage.yml", "no such role")])
    desk.turn(3)
    assert [line for line in desk.told if "no such role" in line] == desk.told
    assert len(desk.told) == 1
    assert not desk.runs[0].stopped
    desk.sight = ONE
    desk.turn(3)
    assert len(desk.runs) == 1, "as it was when the run began"


def test_checks_that_changed_are_run_after_the_run(desk):
    desk.turn()
    desk.sight = CHECKED
    desk.turn(3)
    assert not desk.runs[0].stopped
    desk.runs[0].status = 0
    desk.turn(2)
    assert len(desk.runs) == 2
