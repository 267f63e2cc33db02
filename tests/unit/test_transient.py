"""What passes by itself, and how often and how long that is waited for."""

from __future__ import annotations

import email.utils
import errno
import socket
import subprocess
import sys

import httpx2
import pytest

from builder.errors import HostError, Interrupted
from builder.fetch.transient import (
    Budget,
    NotNowError,
    PermanentError,
    Policy,
    Retries,
    TransientError,
    is_transient,
    of_status,
    retry_after,
    retrying,
)

# --- what passes ----------------------------------------------------------------------------------


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


PASSING = [
    TransientError("x"),
    NotNowError("x"),
    TimeoutError("timed out"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
    httpx2.ConnectError("[Errno 111] Connection refused"),
    httpx2.ReadTimeout("timed out"),
    httpx2.ReadError("[Errno 104] Connection reset by peer"),
    httpx2.RemoteProtocolError("peer closed connection without sending complete message body"),
    httpx2.ProxyError("502 Bad Gateway"),
    httpx2.ConnectError(
        "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol"
    ),
    _caused(httpx2.ConnectError("x"), socket.gaierror(socket.EAI_AGAIN, "Temporary failure")),
]
STAYING = [
    PermanentError("x"),
    HostError("x"),
    Interrupted("x"),
    KeyboardInterrupt(),
    ValueError("x"),
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "Permission denied"),
    httpx2.UnsupportedProtocol("ftp"),
    httpx2.LocalProtocolError("x"),
    httpx2.TooManyRedirects("x"),
    httpx2.ProxyError("407 Proxy Authentication Required"),
    httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
    _caused(ValueError("a bug"), socket.gaierror(socket.EAI_AGAIN, "Temporary failure")),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_this_passes(error) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", STAYING, ids=repr)
def test_this_does_not(error) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 599])
def test_statuses_that_pass(status) -> None:
    assert isinstance(of_status(status, {}, what="x"), TransientError)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 410, 418, 501, 505, 301, 206])
def test_statuses_that_stay(status) -> None:
    assert isinstance(of_status(status, {}, what="x"), PermanentError)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7), (" 0 ", 0), ("", None), ("soon", None), ("-3", None), ("1.5", None)],
)
def test_a_server_asks_for_time(said, seconds) -> None:
    assert retry_after({"Retry-After": said}) == seconds


def test_a_server_names_a_moment() -> None:
    moment = email.utils.formatdate(1_800_000_060, usegmt=True)
    assert retry_after({"retry-after": moment}, now=1_800_000_000) == 60
    assert retry_after({"retry-after": moment}, now=1_800_000_100) == 0


def test_no_http_library_is_imported_to_classify() -> None:
    program = (
        "import sys, builder.fetch.transient as t\n"
        "t.is_transient(OSError()), t.Retries(t.Policy(), 'x')\n"
        "sys.exit(bool({'httpx2', 'stamina', 'ssl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- how often and how long -----------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def retries(policy: Policy, *, draw: float = 1.0, **settings) -> tuple[Retries, Clock, list[str]]:
    clock, told = Clock(), []
    made = Retries(policy, "x", told=told.append, clock=clock, draw=lambda: draw, **settings)
    return made, clock, told


def test_waits_double_up_to_the_longest() -> None:
    decide, _, _ = retries(Policy(attempts=7, wait_initial=1, wait_max=10))

    assert [decide(TransientError("x")) for _ in range(7)] == [1, 2, 4, 8, 10, 10, False]


@pytest.mark.parametrize("draw", [0.0, 0.25])
def test_jitter_is_full(draw) -> None:
    decide, _, _ = retries(Policy(wait_initial=1), draw=draw)

    assert [decide(TransientError("x")) for _ in range(3)] == [draw, 2 * draw, 4 * draw]


def test_the_total_time_has_an_end() -> None:
    decide, clock, _ = retries(Policy(attempts=100, wait_initial=1, total_seconds=60))

    assert decide(TransientError("x")) == 1
    clock.now = 59
    assert decide(TransientError("x")) is False, "it would end after the time"


def test_what_a_server_asks_for_is_heeded_up_to_a_limit() -> None:
    decide, _, _ = retries(Policy(wait_initial=1, asked_max=100), draw=0.5)

    assert decide(TransientError("x", after=20)) == 20.5, "never before, and not all at once"
    assert decide(TransientError("x", after=5000)) == 100.5


def test_some_failures_are_worth_fewer_attempts() -> None:
    decide, _, _ = retries(Policy(attempts=5))

    assert decide(TransientError("no such name", tries=2))
    assert decide(TransientError("no such name", tries=2)) is False


def test_what_does_not_pass_is_not_tried_again() -> None:
    decide, _, told = retries(Policy())

    assert decide(PermanentError("x")) is False
    assert decide(ValueError("a bug")) is False
    assert told == []


def test_every_retry_is_told_with_its_cause() -> None:
    decide, _, told = retries(Policy(attempts=2, wait_initial=1))

    decide(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
    decide(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    assert told == ["x: [Errno 104] Connection reset by peer: trying again in 1.0 s"]


def test_progress_begins_the_count_anew() -> None:
    steps = iter([False, True, False, False])
    decide, clock, _ = retries(Policy(attempts=2, total_seconds=60), progressed=lambda: next(steps))

    assert decide(TransientError("x"))
    clock.now = 3600
    assert decide(TransientError("x"))
    assert decide(TransientError("x")) is False


def test_a_breaker_is_waited_for_at_no_cost() -> None:
    budget = Budget(1)
    decide, _, _ = retries(Policy(attempts=2, wait_initial=1), budget=budget, draw=0)

    assert [decide(NotNowError("x", after=3)) for _ in range(5)] == [3] * 5
    assert budget.take(), "nobody was asked"


def test_who_has_another_mirror_does_not_wait_for_a_breaker() -> None:
    decide, _, told = retries(Policy(), patient=False)

    assert decide(NotNowError("x", after=3)) is False
    assert told == []


def test_a_budget_ends_retries_of_all_together() -> None:
    budget = Budget(2)
    first, _, _ = retries(Policy(), budget=budget)
    second, _, told = retries(Policy(), budget=budget)

    assert first(TransientError("x"))
    assert first(TransientError("x"))
    assert second(TransientError("x")) is False
    assert told == ["x: not tried again, too much else fails as well"]

    budget.succeeded()
    assert not budget.take()
    budget.succeeded()
    assert budget.take(), "two successes pay for a retry"


def test_a_budget_does_not_grow_beyond_its_size() -> None:
    budget = Budget(1)
    for _ in range(10):
        budget.succeeded()

    assert (budget.take(), budget.take()) == (True, False)


# --- the loop -------------------------------------------------------------------------------------

QUICK = Policy(attempts=3, wait_initial=0.001, wait_max=0.001)


def test_work_is_done_until_it_succeeds() -> None:
    done = []
    for attempt in retrying(QUICK, what="x"):
        with attempt:
            done.append(len(done))
            if len(done) < 3:
                raise TransientError("x")
            break

    assert done == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (TransientError("x"), 3),
        (PermanentError("x"), 1),
        (ValueError("x"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_the_last_error_is_raised_as_it_is(error, times) -> None:
    done = []

    def work() -> None:
        for attempt in retrying(QUICK, what="x"):
            with attempt:
                done.append(1)
                raise error

    with pytest.raises(type(error)) as caught:
        work()

    assert caught.value is error
    assert len(done) == times


def test_a_retry_is_not_logged_behind_our_back(caplog) -> None:
    caplog.set_level("DEBUG")
    for number, attempt in enumerate(retrying(QUICK, what="x")):
        with attempt:
            if number == 0:
                raise TransientError("geheim")
            break

    assert caplog.text == ""
