"""The stream of events: every line is what the published schema says, and nothing stops a run."""

import io
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonschema import Draft202012Validator

from builder import build, errors
from builder.digest import Facts
from builder.estimate import Estimate, planned_parts
from builder.events import Event
from builder.history import History, Usual
from builder.packer import Message
from builder.plan import Plan, RoleStep, Step
from builder.reasons import Reason
from builder.record import BuildRecord, DiskRecord
from builder.reporter import Reporter
from builder.stream import EventStream, open_stream, telling
from builder.verify import CheckResult, CheckSet, Verdict

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "events.schema.json").read_text())
KEY = "0123456789abcdef" * 4
STEP = Step(
    "drivers", "resume", KEY, (Reason("file", "a.yml", "file:1", "file:2", role="cuda"),),
    (
        RoleStep("nvidia", "reuse", KEY),
        RoleStep("cuda", "run", KEY, (Reason("file", "a.yml", "file:1", "file:2"),)),
    ),
    True,
)  # fmt: skip
PLAN = Plan("debian-13", (replace(STEP, stage="base", action="reuse", verify=False), STEP))
RECORD = BuildRecord(
    key=KEY, variant="debian-13", stage="drivers", created="", seconds=20.0, documents=(),
    parent=None, disk=DiskRecord("a", 1), resumed_after="nvidia",
    network={"mode": "caches", "traffic": {"hits": 1, "misses": 2, "cache_bytes": 3,
                                           "upstream_bytes": 4, "saved": None}},
)  # fmt: skip
RESULTS = (
    CheckResult("base/test_a.py::test_1", "passed", 0.1, ""),
    CheckResult("base/test_a.py::test_2", "failed", 0.1, "E   no"),
    CheckResult("base/test_a.py::test_3", "skipped", 0.0, "no GPU"),
)
VERDICT = Verdict(KEY, "d", "c", "nspawn", 4.1, RESULTS)
PARTS = planned_parts(PLAN, "nspawn", source=False, checked={"drivers"})
ESTIMATE = Estimate(PARTS, {part: Usual(10.0, 3) for part in PARTS["drivers"]})
MANIFEST = {"image": {"file": "gpu-1.qcow2", "sha256": "ab", "bytes": 7}}


def happening(name: str, **said) -> Event:
    return Event(name, 1.5, "drivers", "cuda", **said)


def everything(reporter: Reporter) -> None:
    """Tell a reporter each thing that there is to tell."""
    reporter.concerning("debian-13", "nspawn")
    reporter.planned(PLAN, ESTIMATE)
    reporter.doing("starting the caches")
    reporter.stage_started(PLAN.steps[0], 1, 2)
    reporter.stage_reused(PLAN.steps[0])
    reporter.stage_started(STEP, 2, 2)
    reporter.source_started("bootstrap")
    reporter.source_finished(replace(RECORD, stage="source"))
    reporter.packer("drivers", Message("say", "==> null.stage: Connected to SSH!"))
    reporter.packer("drivers", Message("error", "\nBuild 'null.stage' errored: ü\n"))
    reporter.event(happening("role_started"))
    reporter.event(happening("task_started", task="Install"))
    reporter.event(happening("task_finished", task="Install", status="changed", seconds=1.5))
    reporter.event(happening("role_finished", status="done", seconds=2.0, changed=1, tasks=1))
    reporter.event(happening("checkpoint_made", seconds=0.2))
    reporter.stage_finished(STEP, RECORD, 21.04)
    reporter.stage_failed(STEP, 3.0)
    reporter.checking("drivers")
    reporter.checked("drivers", VERDICT, known=False)
    reporter.published(Path("/dist/gpu-1/gpu-1.qcow2"), MANIFEST, fresh=True)
    reporter.note("a note")
    reporter.warning("a warning")


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "run.jsonl"


@pytest.fixture
def told(file):
    """Stream a run in which the given function has a reporter; returns the events."""

    def tell(act, command: str = "stage") -> list[dict]:
        with telling(open_stream(file), command, pytest.fail) as stream:
            act(stream)
        return read(file)

    return tell


def read(file: Path) -> list[dict]:
    """Return the events of a stream, each of them valid."""
    validator = Draft202012Validator(SCHEMA)
    events = [json.loads(line) for line in file.read_text().splitlines()]
    for event in events:
        validator.validate(event)
        assert event.keys() <= SCHEMA["properties"].keys(), "a field that nobody documented"
    return events


# --- what it says ---------------------------------------------------------------------------------


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


def test_every_event_is_what_the_schema_says(told):
    names = {event["event"] for event in told(everything)}
    assert names == set(SCHEMA["properties"]["event"]["enum"]), "each event was seen, no other"


def test_every_event_and_field_is_documented():
    page = (DOCS / "events.md").read_text()
    words = [*SCHEMA["properties"]["event"]["enum"], *SCHEMA["properties"]]
    assert [word for word in words if f"`{word}`" not in page] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"event": "nosuch"},
        {"event": "role_started", "variant": "v", "stage": "s"},
        {"event": "run_finished", "status": "ok", "seconds": 1, "exit_status": 0},
        {"event": "note", "text": 3},
        {"schema": 2, "event": "note", "text": "x"},
    ],
)
def test_the_schema_refuses_what_is_none(wrong):
    assert not Draft202012Validator(SCHEMA).is_valid({"schema": 1, "time": 1.0, **wrong})


def test_the_variant_and_the_engine_are_said_once_they_are_known(told):
    begun, *middle, ended = told(everything)
    assert "variant" not in begun
    assert "variant" not in ended
    assert {(event["variant"], event["engine"]) for event in middle} == {("debian-13", "nspawn")}


def test_what_provisioning_told_keeps_its_time(told):
    (event,) = [event for event in told(everything) if event["event"] == "task_finished"]
    assert event == {
        "schema": 1, "event": "task_finished", "time": 1.5, "stage": "drivers", "role": "cuda",
        "task": "Install", "status": "changed", "seconds": 1.5,
        "variant": "debian-13", "engine": "nspawn",
    }  # fmt: skip


def test_the_plan_has_its_steps_and_estimates(told):
    (plan,) = [event for event in told(everything) if event["event"] == "plan"]
    assert [(step["action"], step["estimate"]) for step in plan["steps"]] == [
        ("reuse", 0), ("resume", 30),
    ]  # fmt: skip
    assert plan["steps"][1]["roles"][1]["estimate"] == 10


def test_each_check_then_the_verdict(told):
    events = [event for event in told(everything) if "check" in event["event"]]
    assert [event.get("outcome") for event in events if event["event"] == "check_finished"] == [
        "passed", "failed", "skipped",
    ]  # fmt: skip


def test_a_verdict_that_was_there_has_no_checks(told):
    events = told(
        lambda stream: (
            stream.concerning("debian-13", "nspawn"),
            stream.checked("drivers", VERDICT, known=True),
        )
    )
    assert [event["event"] for event in events] == ["run_started", "verdict", "run_finished"]
    assert events[1]["known"] is True
    assert (events[1]["passed"], events[1]["failed"], events[1]["skipped"]) == (1, 1, 1)


class Slow(io.RawIOBase):
    """A file that takes a line piece by piece, and lets others come between."""

    def __init__(self) -> None:
        self.taken = b""

    def write(self, data) -> int:
        self.taken += bytes(data[:50])
        time.sleep(0.0001)
        return len(data[:50])


def test_a_line_is_whole_whoever_writes():
    file = Slow()
    stream = EventStream(file, pytest.fail)
    threads = [
        threading.Thread(target=lambda: [stream.note("x" * 300) for _ in range(10)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = file.taken.decode().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["x" * 300] * 40


def test_a_line_is_there_at_once(file):
    with telling(open_stream(file), "build", pytest.fail) as stream:
        stream.note("now")
        assert [event["event"] for event in read(file)] == ["run_started", "note"]


def test_a_stream_tells_one_run(told):
    told(everything)
    assert [event["event"] for event in told(lambda _: None)] == ["run_started", "run_finished"]


# --- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            errors.ProvisionError(
                "it broke", stage="s", role="r", task="t", hint="h", log=Path("l")
            ),
            {
                "status": "failed", "exit_status": 1, "message": "it broke", "hint": "h",
                "log": "l", "stage": "s", "role": "r", "task": "t",
            },
        ),
        (errors.HostError("x"), {"status": "failed", "exit_status": 3, "message": "x"}),
        (errors.Interrupted("x"), {"status": "interrupted", "exit_status": 130, "message": "x"}),
        (ZeroDivisionError(), {"status": "failed", "exit_status": 1}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_end_says_how(error, said, file):
    def run() -> None:
        with telling(open_stream(file), "stage", pytest.fail):
            raise error

    with pytest.raises(type(error)):
        run()
    _, ended = read(file)
    assert ended["event"] == "run_finished"
    assert {**ended, **said} == ended


def test_a_run_that_went_well(told):
    ended = told(lambda _: None)[-1]
    assert (ended["status"], ended["exit_status"]) == ("done", 0)


# --- a file that cannot be written ----------------------------------------------------------------


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        open_stream(tmp_path / "nosuch/run.jsonl")


def test_a_disk_that_is_full_is_one_warning():
    warned: list[str] = []
    with telling(open_stream(Path("/dev/full")), "stage", warned.append) as stream:
        everything(stream)
    assert warned == ["no more events are written: No space left on device"]


class Filling(io.RawIOBase):
    """A disk that takes a part of a line, and then no more."""

    def __init__(self) -> None:
        self.taken = b""

    def write(self, data) -> int:
        if len(self.taken) > 100:
            raise OSError(28, "No space left on device")
        self.taken += bytes(data[:30])
        return len(data[:30])


def test_a_disk_that_becomes_full():
    disk, warned = Filling(), []
    stream = EventStream(disk, warned.append)
    stream.note("short")
    assert json.loads(disk.taken)["text"] == "short", "a line that is taken in parts is whole"
    stream.note("long" * 100)
    stream.note("more")
    assert len(warned) == 1


# --- the driver tells it --------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    """As much of a project as a plan needs that finds everything in the store."""
    image = SimpleNamespace(key=KEY, record=replace(RECORD, disk=DiskRecord("d", 1)))
    store = SimpleNamespace(
        sweep=lambda: None, find=lambda key: image, remember=lambda *_: None, root=tmp_path
    )
    good = replace(VERDICT, results=RESULTS[:1])
    return SimpleNamespace(
        store=store,
        pipeline=SimpleNamespace(variant="debian-13"),
        engine=SimpleNamespace(name="nspawn"),
        history=History(tmp_path / "history.sqlite"),
        facts=Facts(tmp_path / "facts.json"),
        estimate=lambda plan, inputs: Estimate(),
        checks=lambda stage, whole: CheckSet(stage, "debian-13", tmp_path, ("checks",), {}, {}),
        verdict=lambda image, checks: good,
        require_compatible_image=lambda image: [],
    )


def test_a_plan_that_is_carried_out_is_told(told, project):
    step = replace(STEP, action="reuse", verify=True)
    inputs = SimpleNamespace(stage="drivers", documents=(), roles=())
    events = told(
        lambda stream: build.carry_out(Plan("debian-13", (step,)), [inputs], project, stream)
    )
    assert [event["event"] for event in events] == [
        "run_started", "plan", "stage_started", "stage_finished", "verdict", "run_finished",
    ]  # fmt: skip
    assert events[3]["status"] == "reused"
    assert not (project.store.root / "history.sqlite").exists(), "nothing ran, nothing to remember"


def test_a_stage_that_fails_is_told(told, project, file):
    def broken(*_, **__):
        raise errors.StoreError("no room")

    project.store.locked = broken
    project.store.find = lambda key: None
    inputs = SimpleNamespace(stage="drivers", documents=(), roles=())
    step = replace(STEP, action="reuse")
    with pytest.raises(errors.StoreError):
        told(lambda stream: build.carry_out(Plan("debian-13", (step,)), [inputs], project, stream))
    *_, stage, run = read(file)
    assert (stage["event"], stage["status"]) == ("stage_finished", "failed")
    assert (run["event"], run["message"]) == ("run_finished", "no room")


def test_a_stage_tells_what_came_over_the_network(told):
    def tell(reporter):
        reporter.concerning("debian-13", "nspawn")
        reporter.stage_finished(STEP, RECORD, 1)
        reporter.stage_finished(STEP, replace(RECORD, network="caches"), 1)

    _, first, second, _ = told(tell)
    assert first["traffic"] == RECORD.network["traffic"]
    assert "traffic" not in second
