"""Real programs: they end when they are told to, and with vaultbuild however that ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from builder import files, process
from builder.errors import CommandError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
# A driver that starts a program, says so, and waits.
DRIVER = """
import sys, time
from pathlib import Path
from builder import process
sys.path.insert(0, "")
contained = sys.argv[1] == "contained"
child = process.start(sys.argv[3:], log=Path(sys.argv[2]), contained=contained)
print("started", flush=True)
time.sleep(600)
"""


# A driver that waits for the end of a program as Child.stop does last, and then hears a signal.
WAITING = """
import signal, sys
from pathlib import Path
from builder import cli, process
signal.signal(signal.SIGUSR1, cli._kill)
child = process.start(["sleep", sys.argv[2]], log=Path(sys.argv[1]))
print("waiting", flush=True)
print(child.wait(), flush=True)
"""


@pytest.fixture
def mark() -> str:
    """A number of seconds to sleep that no other process sleeps."""
    return f"600.{uuid.uuid4().int % 10**12:012d}"


@pytest.fixture
def driver(tmp_path):
    """Start a driver that starts a program; it is killed at the end at the latest."""
    with contextlib.ExitStack() as stack:

        def start(*argv: str, contained: bool = False) -> subprocess.Popen[str]:
            words = ["contained" if contained else "plain", str(tmp_path / "log"), *argv]
            running = subprocess.Popen(
                [sys.executable, "-c", DRIVER, *words],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(running)
            stack.callback(running.kill)
            assert running.stdout.readline() == "started\n"
            return running

        yield start


def processes(mark: str) -> list[int]:
    """The sleeping processes that a test marked."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = cmdline.read_bytes().split(b"\0")
            if words[0].endswith(b"sleep") and mark.encode() in words:
                found.append(int(cmdline.parent.name))
    return found


def asleep(pid: int) -> bool:
    """Whether a process waits for something."""
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "S"


def eventually(condition) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


# --- run ------------------------------------------------------------------------------------------


def test_a_program_says_something_and_ends():
    done = process.run(["sh", "-c", "cat; echo word >&2"], stdin="text")
    assert (done.status, done.stdout, done.stderr) == (0, "text", "word\n")


def test_a_program_that_fails_says_why():
    with pytest.raises(CommandError, match="sh failed with status 3") as caught:
        process.run(["sh", "-c", "echo no such disk >&2; exit 3"])
    assert "no such disk" in caught.value.message
    assert caught.value.status == 3


def test_a_failure_may_be_an_answer():
    assert process.run(["sh", "-c", "exit 3"], check=False).status == 3


def test_a_program_cannot_ask_anybody():
    assert process.run(["cat"]).stdout == ""


def test_a_program_that_takes_too_long_is_stopped(mark):
    with pytest.raises(CommandError, match="did not end within"):
        process.run(["sleep", mark], timeout=0.2)
    assert eventually(lambda: not processes(mark))


def test_odd_bytes_are_no_reason_to_crash():
    assert process.run(["printf", r"\377"]).stdout == "\ufffd"


# --- start and stop -------------------------------------------------------------------------------


def test_the_log_has_the_command_and_what_it_said(tmp_path):
    log = tmp_path / "logs/program.log"
    with process.start(["sh", "-c", "echo out; echo err >&2"], log=log) as child:
        assert child.wait(30) == 0
    assert log.read_text().splitlines() == ["$ sh -c 'echo out; echo err >&2'", "out", "err"]


def test_a_second_program_appends_to_the_log(tmp_path):
    for word in ("one", "two"):
        with process.start(["echo", word], log=tmp_path / "log") as child:
            child.wait(30)
    assert (tmp_path / "log").read_text() == "$ echo one\none\n$ echo two\ntwo\n"


def test_leaving_the_block_stops_it(tmp_path, mark):
    with process.start(["sleep", mark], log=tmp_path / "log") as child:
        assert child.status is None
        assert eventually(lambda: processes(mark))
    assert child.status == -signal.SIGTERM
    assert processes(mark) == []


def test_one_that_will_not_stop_is_killed(tmp_path, mark):
    stubborn = f"trap '' TERM; echo ready; sleep {mark} & while :; do wait; done"
    log = tmp_path / "log"
    child = process.start(["sh", "-c", stubborn], log=log)
    assert eventually(lambda: "ready" in log.read_text().splitlines())
    assert child.stop(grace=0.2) == -signal.SIGKILL
    assert eventually(lambda: not processes(mark)), "with what it had started"


def test_what_an_ended_program_left_in_its_session_is_killed(tmp_path, mark):
    with process.start(["sh", "-c", f"sleep {mark} & exit 0"], log=tmp_path / "log") as child:
        assert child.wait(30) == 0
    assert eventually(lambda: not processes(mark))


def test_stop_all_stops_what_still_runs(tmp_path, mark):
    child = process.start(["sleep", mark], log=tmp_path / "log")
    process.stop_all()
    assert child.status == -signal.SIGKILL
    assert processes(mark) == []


def test_a_second_ctrl_c_ends_a_wait_that_it_interrupts(tmp_path, mark):
    """The handler runs in the thread that waits, and must not wait for what that one holds."""
    argv = [sys.executable, "-c", WAITING, tmp_path / "log", mark]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout.readline() == "waiting\n"
            assert eventually(lambda: processes(mark))
            assert eventually(lambda: asleep(running.pid)), "in the wait, and nowhere else"
            running.send_signal(signal.SIGUSR1)
            said, _ = running.communicate(timeout=60)
        finally:
            running.kill()
    assert said == f"{-signal.SIGKILL}\n"
    assert processes(mark) == []


def test_kill_all_does_not_wait(tmp_path, mark):
    child = process.start(["sleep", mark], log=tmp_path / "log")
    process.kill_all()
    assert child.wait(30) == -signal.SIGKILL
    assert child.stop() == -signal.SIGKILL


def test_waiting_can_take_too_long(tmp_path, mark):
    with (
        process.start(["sleep", mark], log=tmp_path / "log") as child,
        pytest.raises(CommandError, match="did not end within") as caught,
    ):
        child.wait(0.1)
    assert caught.value.log == tmp_path / "log"


# --- death ----------------------------------------------------------------------------------------


def test_a_program_dies_with_a_driver_that_is_killed(driver, mark):
    running = driver("sleep", mark)
    assert eventually(lambda: processes(mark))
    running.kill()
    assert eventually(lambda: not processes(mark))


@pytest.mark.parametrize(
    "started", ["sleep {0} & wait", "setsid sleep {0} & wait", "setsid -f sleep {0}; sleep {0}"]
)
def test_everything_below_a_contained_program_dies_with_the_driver(
    driver, mark, started, require_root
):
    require_root()
    running = driver("sh", "-c", started.format(mark), contained=True)
    assert eventually(lambda: processes(mark))
    running.kill()
    assert eventually(lambda: not processes(mark))


def test_everything_below_a_contained_program_ends_with_it(tmp_path, mark, require_root):
    require_root()
    argv = ["sh", "-c", f"setsid -f sleep {mark}; exit 3"]
    with process.start(argv, log=tmp_path / "log", contained=True) as child:
        assert child.wait(30) == 3
    assert eventually(lambda: not processes(mark))


def test_a_contained_program_can_be_asked_to_end(tmp_path, require_root):
    require_root()
    log = tmp_path / "log"
    polite = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    child = process.start(["sh", "-c", polite], log=log, contained=True)
    assert eventually(lambda: "ready" in log.read_text().splitlines())
    assert child.stop(grace=30) == 0
    assert log.read_text().endswith("bye\n")


# --- locks ----------------------------------------------------------------------------------------


def test_a_lock_is_held_until_the_last_that_was_given_it_ends(tmp_path, mark):
    place = tmp_path / "key.lock"
    with files.lock(place) as descriptor:
        child = process.start(["sleep", mark], log=tmp_path / "log", keep_fds=[descriptor])
    held = process.run(["flock", "--nonblock", place, "true"], check=False)
    assert held.status == 1, "the driver has let go, the program has not"
    child.stop()
    assert process.run(["flock", "--nonblock", place, "true"], check=False).status == 0


def test_a_program_that_was_not_given_a_lock_does_not_hold_it(tmp_path, mark):
    place = tmp_path / "key.lock"
    with files.lock(place):
        child = process.start(["sleep", mark], log=tmp_path / "log")
    with child:
        assert process.run(["flock", "--nonblock", place, "true"], check=False).status == 0


def test_who_waits_is_told_for_whom(tmp_path):
    place, told = tmp_path / "key.lock", []
    holder = (
        "import sys, time; from pathlib import Path; from builder import files\n"
        "with files.lock(Path(sys.argv[1])):\n  print('held', flush=True); time.sleep(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, place],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout.readline() == "held\n"
        with files.lock(place, waiting=told.append):
            assert running.wait(30) == 0
    assert told == [f"process {running.pid}"]
