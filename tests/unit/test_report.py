"""What a person reads, line by line."""

import io
import json
from pathlib import Path

import pytest

from builder import report
from builder.errors import Cause, CheckError, VaultbuildError
from builder.estimate import Estimate, planned_parts
from builder.events import Event
from builder.history import Usual
from builder.live import time_left
from builder.plan import Plan, RoleStep, Step
from builder.reasons import Reason
from builder.record import BuildRecord, DiskRecord, StepRecord
from builder.reporter import Reporter, Tee
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
    assert len(list(report.plan_lines(plan, {}, Estimate()))) == 1
    lines_of = lambda reason: [f"+{reason.what}"]  # noqa: E731
    lines = list(report.plan_lines(plan, {}, Estimate(), lines_of=lines_of))
    assert any(line.strip() == "+ansible/roles/driver/tasks/main.yml" for line in lines)
    assert any("ansible/roles/driver/tasks/main.yml" in line for line in lines[1:])
    assert any(line.split() == ["run", "driver"] for line in lines)


def test_a_plan_has_a_column_of_times_and_their_sum():
    idle = Step("base", "reuse", KEY, (), (), verify=False)
    plan = Plan("debian-13", (idle, STEP))
    found = expected(plan, 130.0)
    first, second, why, role, last = report.plan_lines(plan, {}, found, lines_of=lambda _: ())
    assert first == f"base        {KEY[:12]}               reuse   unchanged"
    assert second.startswith(f"drivers     {KEY[:12]}  ~6 min 30 s  build   ansible/roles/")
    assert why.startswith(f"{'':<39}ansible/roles/")
    assert role == f"{'':<26}~2 min 10 s  run   driver"
    assert last == "total                     ~6 min 30 s"


def test_a_plan_that_is_partly_known_takes_longer_than_that():
    plan = Plan("debian-13", (STEP,))
    whole = expected(plan, 130.0)
    found = Estimate(whole.parts, dict(list(whole.known.items())[:1]))
    line, last = report.plan_lines(plan, {}, found)
    assert "  >2 min 10 s  build " in line
    assert last.split() == ["total", ">2", "min", "10", "s"]


def expected(plan: Plan, seconds: float) -> Estimate:
    """Each part of a plan takes so long."""
    parts = planned_parts(plan, "nspawn", source=False, checked={"drivers"})
    return Estimate(parts, {part: Usual(seconds, 3) for found in parts.values() for part in found})


def test_without_a_terminal_the_line_of_a_stage_says_the_estimate(told):
    plan = Plan("debian-13", (STEP,))
    (line,) = told(0, ("planned", plan, expected(plan, 10.0)), ("stage_started", STEP, 1, 1))
    assert line.endswith("tasks/main.yml changed (~30 s)")
    (line,) = told(0, ("planned", plan, Estimate()), ("stage_started", STEP, 1, 1))
    assert line.endswith("tasks/main.yml changed")


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_with_the_time_left(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    plan, stream = Plan("debian-13", (STEP,)), Terminal()
    reporter = report.ConsoleReporter(stream)
    reporter.planned(plan, expected(plan, 1000.0))
    reporter.stage_started(STEP, 1, 1)
    reporter.event(event("role_started"))
    reporter.event(event("task_started", task="Install [all] of it"))
    reporter.close()
    before = stream.getvalue()
    assert "(~" not in before.splitlines()[0], "the bar says it"
    assert "50 min 00 s left" in before or "49 min 59 s left" in before
    assert "Install [all] of it" in before
    reporter.event(event("role_finished", status="done", seconds=1.0, tasks=1, changed=0))
    reporter.checking("drivers")
    reporter.close()
    after = stream.getvalue().removeprefix(before)
    assert "33 min 20 s left" in after or "33 min 19 s left" in after


def test_on_a_terminal_without_a_history_there_is_no_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    reporter = report.ConsoleReporter(stream)
    reporter.planned(Plan("debian-13", (STEP,)), Estimate())
    reporter.doing("starting the caches")
    reporter.close()
    assert "starting the caches" in stream.getvalue()
    assert "left" not in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "soon done"), (42.4, "42 s left"), (61, "1 min 01 s left"), (3600, "60 min 00 s left")],
)
def test_time_left(seconds, text):
    assert time_left(seconds) == text


def test_all_are_told_in_their_order():
    heard = []

    class Listener(report.Reporter):
        def note(self, text: str) -> None:
            heard.append((self, text))

    one, two = Listener(), Listener()
    Tee(one, Reporter(), two).note("a note")
    assert heard == [(one, "a note"), (two, "a note")]


def test_all_are_told_all():
    """A method that somebody adds to a reporter must be passed on."""
    words = {name for name in vars(Reporter) if not name.startswith("_")}
    assert words <= vars(Tee).keys()


def test_a_warning_is_marked(told):
    assert told(0, ("warning", "look at this")) == ["warning: look at this"]


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
