"""What a run leaves in the history, and when it says that something took long."""

from types import SimpleNamespace

import pytest

from builder.estimate import Estimate
from builder.events import Event
from builder.history import Done, Part, Usual
from builder.plan import Plan, RoleStep, Step
from builder.reasons import Reason
from builder.record import BuildRecord, DiskRecord, StepRecord
from builder.timing import Timekeeper
from builder.verify import CheckResult, Verdict

STEP = Step(
    "drivers", "build", "key", (Reason("never-built", "drivers"),),
    (RoleStep("nvidia", "run", "key 1"), RoleStep("cuda", "run", "key")), True,
)  # fmt: skip
PLAN = Plan("debian-13", (STEP,))


def part(name: str, stage: str = "drivers", engine: str = "nspawn") -> Part:
    return Part("debian-13", stage, engine, name)


def record(stage: str, seconds: float, *roles: float, resumed_after: str | None = None):
    steps = tuple(StepRecord(f"role {n}", took, 1, 1) for n, took in enumerate(roles))
    return BuildRecord(
        key="key", variant="debian-13", stage=stage, created="", seconds=seconds, documents=(),
        parent=None, disk=DiskRecord("a", 1), roles=steps, resumed_after=resumed_after,
    )  # fmt: skip


def verdict(outcome: str) -> Verdict:
    return Verdict("key", "disk", "c", "qemu", 30.0, (CheckResult("a", outcome, 1.0, ""),))


class Memory:
    """A history that only listens."""

    def __init__(self, says: str | None = None) -> None:
        self.done: list[Done] = []
        self._says = says

    def add(self, done: list[Done]) -> str | None:
        self.done += done
        return self._says

    @property
    def rows(self) -> list[tuple[Part, float, str]]:
        return [(each.part, each.seconds, each.key) for each in self.done]


@pytest.fixture
def run():
    memory, warned = Memory(), []
    keeper = Timekeeper(memory, "debian-13", "nspawn", warn=warned.append)
    return SimpleNamespace(memory=memory, keeper=keeper, warned=warned)


def role(name: str, seconds: float, status: str = "done") -> Event:
    return Event("role_finished", 1.0, "drivers", name, status=status, seconds=seconds)


def test_a_role_that_is_done_is_remembered_with_its_key(run):
    run.keeper.planned(PLAN, Estimate())
    run.keeper.event(role("nvidia", 12.0))
    assert run.memory.rows == [(part("role:nvidia"), 12.0, "key 1")]


@pytest.mark.parametrize(
    "event",
    [
        role("nvidia", 12.0, "failed"),
        role("nvidia", 12.0, "interrupted"),
        Event("role_started", 1.0, "drivers", "nvidia"),
        Event("task_finished", 1.0, "drivers", "nvidia", task="t", status="ok", seconds=1.0),
    ],
    ids=lambda event: f"{event.event} {event.status}",
)
def test_nothing_else_of_a_role_counts(run, event):
    run.keeper.event(event)
    assert run.memory.rows == []


def test_a_stage_is_what_it_takes_besides_its_roles(run):
    run.keeper.stage_finished(STEP, record("drivers", 100.0, 20.0, 50.0), 105.0)
    assert run.memory.rows == [(part("stage"), 30.0, "key")]


def test_a_resumed_stage_counts_its_roles_alone(run):
    run.keeper.event(role("cuda", 50.0))
    made = record("drivers", 70.0, 20.0, 50.0, resumed_after="nvidia")
    run.keeper.stage_finished(STEP, made, 75.0)
    assert [name.part for name, *_ in run.memory.rows] == ["role:cuda"]


def test_the_root_disk(run):
    run.keeper.source_finished(record("source", 33.0))
    assert run.memory.rows == [(part("source", "source"), 33.0, "key")]


def test_checks_that_passed_now_on_their_engine(run):
    run.keeper.checked("drivers", verdict("failed"), known=False)
    run.keeper.checked("drivers", verdict("passed"), known=True)
    assert run.memory.rows == []
    run.keeper.checked("drivers", verdict("passed"), known=False)
    assert run.memory.rows == [(part("checks", engine="qemu"), 30.0, "key")]


def test_a_history_that_began_anew_is_told():
    warned: list[str] = []
    keeper = Timekeeper(Memory("it began anew"), "debian-13", "nspawn", warn=warned.append)
    keeper.event(role("cuda", 1.0))
    assert warned == ["it began anew"]


def test_what_took_long_is_told_by_name(run):
    known = {part("role:cuda"): Usual(72.0, 3), part("role:nvidia"): Usual(10.0, 3)}
    run.keeper.planned(PLAN, Estimate({}, known))
    run.keeper.event(role("nvidia", 11.0))
    assert run.keeper.slower() is None
    run.keeper.event(role("cuda", 185.0))
    line = "slower than usual: role cuda of drivers took 3 min 5 s, usually 1 min 12 s"
    assert run.keeper.slower() == line


def test_the_worst_stands_for_the_others(run):
    known = {part("role:cuda"): Usual(10.0, 3), part("stage"): Usual(10.0, 5)}
    run.keeper.planned(PLAN, Estimate({}, known))
    run.keeper.event(role("cuda", 60.0))
    run.keeper.stage_finished(STEP, record("drivers", 180.0, 60.0), 180.0)
    assert run.keeper.slower() == (
        "slower than usual: drivers besides its roles took 2 min 0 s, usually 10 s (and 1 more)"
    )
