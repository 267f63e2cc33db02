"""When a server is left alone, by whom, and who may try it again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from builder import files
from builder.fetch.breaker import Breaker, Breakers, State
from builder.fetch.transient import NotNowError, PermanentError, TransientError

URL = "http://user:geheim@mirror.example/a?token=geheim"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "breakers"


@pytest.fixture
def breaker(folder) -> Breaker:
    return Breakers(folder, failures=3, seconds=30).of(URL)


def fail(breaker: Breaker, times: int = 1, error: Exception | None = None) -> None:
    for _ in range(times):
        wanted = error or TransientError("Connection refused")
        with pytest.raises(type(wanted)), breaker.calling():
            raise wanted


def succeed(breaker: Breaker) -> None:
    with breaker.calling():
        pass


def let_time_pass(folder: Path, seconds: float = 31) -> None:
    """Make the breaker's state so much older."""
    (file,) = folder.glob("*.json")
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "opened_at": state["opened_at"] - seconds}))


def test_a_breaker_opens_after_failures_in_a_row(breaker) -> None:
    fail(breaker, 2)
    assert (breaker.state.state, breaker.open_until, breaker.refuses) == ("closed", None, False)

    fail(breaker)

    assert breaker.state.state == "open"
    assert breaker.refuses
    assert (breaker.open_until or 0) - time.time() > 20
    with pytest.raises(
        NotNowError, match=r"mirror.example:80 does not answer \(Connection"
    ) as caught:
        succeed(breaker)
    assert 20 < (caught.value.after or 0) <= 30


def test_a_success_in_between_counts_from_the_beginning(breaker) -> None:
    fail(breaker, 2)
    succeed(breaker)
    fail(breaker, 2)

    assert breaker.state.state == "closed"


def test_an_answer_that_refuses_is_an_answer(breaker) -> None:
    fail(breaker, 2)
    fail(breaker, error=PermanentError("404"))
    fail(breaker, 2)

    assert breaker.state.state == "closed"


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), OSError("full"), TransientError("wrong bytes", outage=False)],
)
def test_what_says_nothing_about_the_server_counts_neither_way(error, breaker) -> None:
    fail(breaker, 2)
    fail(breaker, 5, error)
    assert breaker.state.failures == 2

    fail(breaker)
    assert breaker.state.state == "open"


def test_one_success_closes_it(breaker, folder) -> None:
    fail(breaker, 3)
    let_time_pass(folder)
    assert not breaker.refuses

    succeed(breaker)

    assert breaker.state == State("http://mirror.example:80", seconds=30)
    fail(breaker, 2)
    assert breaker.state.state == "closed"


def test_one_failure_opens_it_again(breaker, folder) -> None:
    fail(breaker, 3)
    let_time_pass(folder)

    fail(breaker)

    assert breaker.state.state == "open"
    assert breaker.refuses


def test_one_may_try_at_a_time(breaker, folder) -> None:
    fail(breaker, 3)
    let_time_pass(folder)

    with breaker.calling():
        assert breaker.state.state == "half-open"
        assert breaker.refuses
        with pytest.raises(NotNowError) as caught:
            succeed(breaker)
    assert (caught.value.after or 0) <= 1

    succeed(breaker)


def test_an_interrupted_try_leaves_it_to_the_next(breaker, folder) -> None:
    fail(breaker, 3)
    let_time_pass(folder)
    fail(breaker, error=KeyboardInterrupt())
    assert breaker.state.state == "half-open"
    assert not breaker.refuses

    succeed(breaker)

    assert breaker.state.state == "closed"


def test_what_began_before_it_opened_does_not_close_it(breaker) -> None:
    with breaker.calling():
        fail(breaker, 3)

    assert breaker.state.state == "open"


def test_endpoints_are_apart(folder) -> None:
    breakers = Breakers(folder, failures=1)
    fail(breakers.of("http://a.example/x"))

    succeed(breakers.of("http://a.example:8080/x"))
    succeed(breakers.of("https://a.example/x"))

    assert [state.endpoint for state in breakers.states()] == ["http://a.example:80"]


def test_no_secret_is_written_down(breaker, folder) -> None:
    fail(breaker, 3, TransientError(f"cannot fetch {URL}: refused\nmore"))

    (file,) = folder.glob("*.json")
    assert "geheim" not in file.name + file.read_text()
    assert breaker.state.cause == "cannot fetch http://mirror.example/a?token=… refused"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"endpoint": "x", "state": "ajar"}', '{"more": 1}', "\xff"]
)
def test_a_state_that_cannot_be_read_means_closed(text, breaker, folder) -> None:
    fail(breaker, 3)
    (file,) = folder.glob("*.json")
    file.write_bytes(text.encode("latin-1"))

    succeed(breaker)

    fail(breaker, 3)
    assert breaker.state.state == "open"


def test_a_clock_that_was_set_back_does_not_keep_it_open(breaker, folder) -> None:
    fail(breaker, 3)
    let_time_pass(folder, -86400)

    succeed(breaker)

    assert breaker.state.state == "closed"


def test_a_folder_that_cannot_be_written_to_stops_nobody(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    breakers = Breakers(tmp_path / "file" / "breakers", failures=1)
    fail(breakers.of(URL))

    succeed(breakers.of(URL))

    assert breakers.states() == []


# --- processes ------------------------------------------------------------------------------------

CHILD = """
import sys, time
from pathlib import Path
from builder.fetch.breaker import Breakers
from builder.fetch.transient import TransientError
breaker = Breakers(Path(sys.argv[1]), failures=3, seconds=30).of(sys.argv[2])
def fail():
    try:
        with breaker.calling():
            raise TransientError("refused")
    except TransientError as error:
        print(type(error).__name__, flush=True)
if sys.argv[3] == "probe":
    with breaker.calling():
        print("trying", flush=True)
        sys.stdin.read()
else:
    for _ in range(int(sys.argv[3])):
        fail()
"""


def child(folder: Path, what: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, folder, URL, what],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_share_what_they_know(breaker, folder) -> None:
    fail(breaker, 2)

    told, _ = child(folder, "2").communicate()

    assert told.split() == ["TransientError", "NotNowError"]
    with pytest.raises(NotNowError):
        succeed(breaker)


def test_one_process_tries_and_a_killed_one_gives_the_turn_back(breaker, folder) -> None:
    fail(breaker, 3)
    let_time_pass(folder)
    trying = child(folder, "probe")
    assert trying.stdout.readline() == "trying\n"

    with pytest.raises(NotNowError):
        succeed(breaker)

    trying.kill()
    trying.communicate()
    succeed(breaker)
    assert breaker.state.state == "closed"


def test_a_process_that_succeeds_closes_it_for_all(breaker, folder) -> None:
    fail(breaker, 3)
    let_time_pass(folder)
    trying = child(folder, "probe")
    trying.stdout.readline()
    trying.communicate("")

    succeed(breaker)
    assert breaker.state.failures == 0


def test_no_failure_is_lost_when_many_fail_at_once(folder) -> None:
    breaker = Breakers(folder, failures=1000).of(URL)
    threads = [threading.Thread(target=fail, args=(breaker, 5)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert breaker.state.failures == 40


def test_threads_do_not_wait_for_each_other(breaker) -> None:
    with breaker.calling(), contextlib.ExitStack() as stack:
        other = threading.Thread(target=succeed, args=(breaker,))
        stack.callback(other.join)
        other.start()
        other.join(30)
        assert not other.is_alive()


def test_a_probe_leaves_no_lock(breaker, folder) -> None:
    fail(breaker, 3)
    let_time_pass(folder)
    succeed(breaker)

    (probe,) = folder.glob("*.probe")
    assert not files.is_locked(probe)
