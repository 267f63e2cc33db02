"""What a person reads, line by line."""

import io
import json
from pathlib import Path

import pytest

from builder import report
from builder.errors import Cause, CheckError, VaultbuildError
from builder.events import Event
from builder.plan import Plan, Reason, RoleStep, Step
from builder.record import BuildRecord, DiskRecord, StepRecord
from builder.store import Image
from builder.verify import CheckResult, Verdict

KEY = "0123456789abcdef" * 4
STEP = Step(
    stage="drivers",
    action="build",
    key=KEY,
    reasons=(Reason("file", "ansible/roles/driver/tasks/main.yml", "file:1", "file:2"),),
    roles=(RoleStep("driver", "run", KEY),),
    verify=True,
)
VERDICT = Verdict(
    image=KEY,
    disk="d",
    checks="c",
    engine="nspawn",
    seconds=4.1,
    results=(
        CheckResult("base/test_a.py::test_1", "passed", 0.1, ""),
        CheckResult("base/test_a.py::test_2", "failed", 0.1, "E   no"),
        CheckResult("base/test_a.py::test_3", "passed", 0.1, ""),
    ),
)


@pytest.fixture
def told():
    """Call a reporter of a verbosity; returns the lines that it wrote."""

    def tell(verbosity: int, *calls) -> list[str]:
        stream = io.StringIO()
        reporter = report.ConsoleReporter(stream, verbosity=verbosity)
        for name, *arguments in calls:
            keywords = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
            getattr(reporter, name)(*arguments, **keywords)
        return stream.getvalue().splitlines()

    return tell


def event(name: str, **said) -> Event:
    return Event(name, 1.0, "drivers", "driver", **said)


def test_a_stage_is_a_line_with_its_reason(told):
    (line,) = told(0, ("stage_started", STEP, 2, 4))
    assert line.startswith("[2/4] drivers     0123456789ab  build")
    assert "ansible/roles/driver/tasks/main.yml changed" in line


def test_a_role_is_a_line_and_a_task_is_none(told):
    lines = told(
        0,
        ("event", event("task_started", task="Install")),
        ("event", event("task_finished", task="Install", status="changed", seconds=1.5)),
        ("event", event("role_finished", status="done", seconds=12.3, tasks=3, changed=1)),
    )
    assert lines == ["      driver                  3 tasks, 1 changed, 12 s"]


def test_verbosely_a_task_is_a_line_too(told):
    task = event("task_finished", task="Install", status="changed", seconds=1.5)
    assert told(1, ("event", task)) == ["        changed Install (1.5 s)"]


def test_quietly_only_a_failure_is_told(told):
    error = VaultbuildError("it broke", hint="mend it", log=Path("/var/log/it"))
    lines = told(
        -1,
        ("stage_started", STEP, 1, 1),
        ("doing", "something"),
        ("note", "a note"),
        ("checked", "drivers", VERDICT, {"known": False}),
        ("failed", error),
    )
    assert lines == ["error: it broke", " hint: mend it", "  log: /var/log/it"]


def test_an_error_names_its_likely_cause_above_what_helps(told):
    error = VaultbuildError(
        "it broke", hint="mend it\nor not", cause=Cause("bad-luck", "Bad luck.")
    )
    assert told(0, ("failed", error)) == [
        "error: it broke",
        "cause: Bad luck. [bad-luck]",
        " hint: mend it",
        "       or not",
    ]


def test_an_error_without_more_is_one_line(told):
    assert told(0, ("failed", CheckError("it broke"))) == ["error: it broke"]


def test_a_verdict_is_a_line(told):
    (line,) = told(0, ("checked", "drivers", VERDICT, {"known": True}))
    assert line == "      drivers checks          2 passed, 1 failed (nspawn, 4.1 s), before"


def test_what_begins_is_told_where_there_is_no_terminal(told):
    assert told(0, ("doing", "starting the caches")) == ["      starting the caches"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.44, "0.4 s"), (12.3, "12 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s")],
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1 << 20, "1 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_sizes(count, text):
    assert report.size(count) == text


def test_a_plan_shows_every_reason_when_asked():
    plan = Plan("debian-13", (STEP,))
    assert len(list(report.plan_lines(plan, {}))) == 1
    lines = list(report.plan_lines(plan, {}, lines_of=lambda reason: [f"+{reason.what}"]))
    assert any(line.strip() == "+ansible/roles/driver/tasks/main.yml" for line in lines)
    assert any("ansible/roles/driver/tasks/main.yml" in line for line in lines[1:])
    assert any(line.split() == ["run", "driver"] for line in lines)


def test_a_record_shows_what_the_image_is(tmp_path):
    record = BuildRecord(
        key=KEY,
        variant="debian-13",
        stage="drivers",
        created="2026-11-20T10:00:00Z",
        seconds=75.2,
        documents=(),
        parent=None,
        disk=DiskRecord("a" * 64, 3 << 20),
        packages={"dpkg": {"hello": "2.10"}},
        roles=(StepRecord("driver", 12.3, 1, 3),),
        tools={"packer": "1.6.6"},
    )
    text = "\n".join(report.record_lines(Image(tmp_path, record), None))
    for part in (
        KEY,
        "drivers of debian-13",
        "3 MiB",
        "1 min 15 s",
        "1 dpkg",
        "packer 1.6.6",
        "not run",
    ):
        assert part in text


def test_results_go_to_stdout(capsys):
    report.emit("path")
    report.emit_json({"name": "ü"})
    stdout, stderr = capsys.readouterr()
    assert stdout.startswith("path\n")
    assert json.loads(stdout.removeprefix("path\n")) == {"name": "ü"}
    assert stderr == ""


def test_a_table_has_columns():
    rows = [("apt", "running", "http://localhost"), ("pypi", "stopped", "")]
    assert list(report.table(rows)) == ["apt   running  http://localhost", "pypi  stopped"]
