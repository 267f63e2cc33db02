"""What passes by itself and what does not, and how often something that passes is tried again.

A mirror that restarts answers 503 for a minute; a version that left the mirror, 404 for ever. The
first is a :class:`TransientError`, the second a :class:`PermanentError`, and nobody waits for it.
What is neither (a bug, Ctrl-C, a full disk) is not touched here.

::

    for attempt in retrying(policy, what="hello.deb from mirror.example:80", told=say):
        with attempt:
            return fetch_once()

Only what may be done twice is tried again: fetching a file, asking a question. Waits grow and are
drawn between nothing and the whole ("full jitter"), so that those who failed together do not come
back together. A server that says ``Retry-After`` is believed, up to a limit.
"""

from __future__ import annotations

import email.utils
import errno
import random
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from builder.errors import VaultbuildError
from builder.fetch.urls import redacted_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
# 425 is "too early"; the rest of 5xx comes from whatever stands before the server.
_PASSING: Final = frozenset({408, 425, 429})
_STAYING: Final = frozenset({501, 505, 511})
_SERVER_ERRORS: Final = range(500, 600)
_GONE: Final = frozenset({404, 410})
_REFUSED: Final = frozenset({401, 403, 407})
_ERRNOS: Final = frozenset(
    {
        errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT,
        errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET,
    }
)  # fmt: skip


class TransientError(VaultbuildError):
    """Something failed that mostly works a little later.

    ``after`` is how many seconds whoever failed asks us to wait. ``tries`` is how often this kind
    of failure is worth trying, when that is less than the policy says. ``outage`` is false where
    the server works, and only what it gave was wrong. ``status`` is what HTTP calls the failure,
    None where no server answered.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        log: Path | None = None,
        after: float | None = None,
        tries: int | None = None,
        outage: bool = True,
        status: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.status = status
        self.after = after
        self.tries = tries
        self.outage = outage


class PermanentError(VaultbuildError):
    """Something failed that fails again however often it is tried; ``status`` as above."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        log: Path | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.status = status


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient to be: docs/decisions/0010-retries-and-breakers.md says why these numbers.

    ``attempts`` and ``total_seconds`` count since ``progress`` new bytes last arrived, so that an
    hour's download that breaks off in its last minute is resumed.
    """

    attempts: int = 5
    total_seconds: float = 300
    wait_initial: float = 1
    wait_max: float = 30
    asked_max: float = 120  # the longest Retry-After that is heeded
    reserve: int = 2 * _GIB  # what a download leaves free on the disk
    progress: int = _MIB
    budget: int = 20  # retries that all downloads of a run share
    mismatches: int = 3  # downloads of a file whose bytes are wrong, each time differently
    connect_seconds: float = 15
    read_seconds: float = 60
    slow_seconds: float = 60  # slower than slow_bytes a second for as long: given up
    slow_bytes: int = 1024


class Budget:
    """What all retries of a run may cost together.

    Twenty downloads that fail at once would ask a server that is down a hundred times. Each retry
    takes a token, each success gives half of one back; without a token a failure is final.
    """

    _REFUND: Final = 0.5

    def __init__(self, size: int) -> None:
        self._size = float(size)
        self._left = float(size)
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a token for a retry; say whether there was one."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def succeeded(self) -> None:
        """Note that something worked."""
        with self._lock:
            self._left = min(self._size, self._left + self._REFUND)


# --- what passes ----------------------------------------------------------------------------------


def is_transient(error: BaseException) -> bool:
    """Whether an error passes by itself: one of ours, of the kernel, or of an HTTP library."""
    return classified(error) is not None


def classified(error: BaseException, *, what: str = "") -> TransientError | None:
    """Return what passes about an error; None when nothing does, or nobody knows."""
    if isinstance(error, TransientError):
        return error
    if isinstance(error, VaultbuildError):
        return None
    found = of_transport(error, what=what)
    return found if isinstance(found, TransientError) else None


def of_status(status: int, headers: Mapping[str, str], *, what: str) -> VaultbuildError:
    """Return the error that an HTTP status means. ``what`` is said of whom: "x from y:80"."""
    message = f"{what}: the server answers {status}"
    if status in _PASSING or (status in _SERVER_ERRORS and status not in _STAYING):
        return TransientError(message, after=retry_after(headers), status=status)
    if status in _GONE:
        hint = (
            "it has left that server, or never was there: choose what there is (a newer version?)"
        )
        return PermanentError(message, hint=hint, status=status)
    if status in _REFUSED:
        hint = (
            "this needs credentials, or the proxy's: see http_proxy, and the URL that is configured"
        )
        return PermanentError(message, hint=hint, status=status)
    return PermanentError(message, status=status)


def of_transport(error: BaseException, *, what: str = "") -> VaultbuildError | None:
    """Return the error that a failed connection means; None when it is no failed connection."""
    text = redacted_text(str(error)) or type(error).__name__
    message = f"{what}: {text}" if what else text
    if (name := _name_error(error)) is not None:
        # Nobody has that name, or nobody can be asked: a typing error is not tried five times.
        tries = None if name == socket.EAI_AGAIN else 2
        hint = "is the name right, and this host on the network?"
        return TransientError(message, hint=hint, tries=tries)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        hint = "if that certificate is yours, name its authority's file in SSL_CERT_FILE"
        return PermanentError(message, hint=hint)
    if "407" in text and _is_http(error, "ProxyError"):
        return PermanentError(message, hint="the proxy wants a password: see http_proxy")
    if _is_http(
        error, "UnsupportedProtocol", "LocalProtocolError", "TooManyRedirects", "InvalidURL"
    ):
        return PermanentError(message)
    if _is_http(error, "TransportError", "DecodingError") or _of_the_network(error):
        return TransientError(message)
    return None


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return how many seconds a server asks to wait; it says so in seconds or as a date."""
    value = next((text for name, text in headers.items() if name.lower() == "retry-after"), "")
    if value.strip().isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - (time.time() if now is None else now))


def _of_the_network(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return isinstance(error, OSError) and error.errno in _ERRNOS


def _is_http(error: BaseException, *names: str) -> bool:
    """Whether an error is one of httpx2's; it is none when nobody imported that."""
    library = sys.modules.get("httpx2")
    kinds = tuple(getattr(library, name) for name in names) if library else ()
    return isinstance(error, kinds)


def _name_error(error: BaseException | None) -> int | None:
    """Return why a name has no address, when that is at the bottom of an error of the network."""
    if not (isinstance(error, OSError) or (error and _is_http(error, "TransportError"))):
        return None
    for _ in range(8):  # causes of causes; a circle must not hang us
        if error is None or isinstance(error, socket.gaierror):
            break
        error = error.__cause__ or error.__context__
    return error.errno if isinstance(error, socket.gaierror) else None


# --- trying again ---------------------------------------------------------------------------------


def ignore(_: str) -> None:
    """Hear what happens, and say nothing."""


def never() -> bool:
    """Say that nothing has arrived."""
    return False


@dataclass(slots=True)
class Retries:
    """Decides, after each failure of one piece of work, whether and when it is tried again.

    Called with the error: False ends it, a number is the wait in seconds. ``progressed`` says,
    once, that enough has arrived since it was last asked to begin counting anew.
    """

    policy: Policy
    what: str
    told: Callable[[str], None] = ignore
    budget: Budget | None = None
    progressed: Callable[[], bool] = never
    patient: bool = True  # false: who is not let through by a breaker does not wait for it
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    failures: int = 0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def __call__(self, error: Exception) -> bool | float:
        """Return the wait until the next attempt, or False for none."""
        failure = classified(error, what=self.what)
        if failure is None:
            return False
        if self.progressed():
            self.failures, self.began = 0, self.clock()
        waiting = isinstance(failure, NotNowError)
        if waiting and not self.patient:
            return False
        # Who was not let through has asked nobody: it waits, and costs nothing.
        self.failures += not waiting
        if self.failures >= min(self.policy.attempts, failure.tries or self.policy.attempts):
            return False
        wait = self._wait(failure)
        if self.clock() - self.began + wait > self.policy.total_seconds:
            return False
        if not waiting and self.budget and not self.budget.take():
            self.told(f"{failure.message}: not tried again, too much else fails as well")
            return False
        self.told(f"{failure.message}: trying again in {wait:.1f} s")
        return wait

    def _wait(self, failure: TransientError) -> float:
        policy = self.policy
        if failure.after is not None:
            # Not before the time asked for, and not all at that time.
            return min(failure.after, policy.asked_max) + policy.wait_initial * self.draw()
        grown = policy.wait_initial * 2.0 ** min(max(self.failures - 1, 0), 30)
        return min(policy.wait_max, grown) * self.draw()


class NotNowError(TransientError):
    """Nobody was asked, because that would fail: a breaker is open."""


def retrying(
    policy: Policy,
    *,
    what: str,
    told: Callable[[str], None] = ignore,
    budget: Budget | None = None,
    progressed: Callable[[], bool] = never,
    patient: bool = True,
) -> Iterator[AbstractContextManager[Any]]:
    """Yield attempts at a piece of work that may be done twice, until one of them succeeds.

    The error of the last one is raised as it is. Whoever passes a ``budget`` tells it of successes.
    """
    # Late: 50 ms, for those who do something that can fail in passing.
    import stamina
    import stamina.instrumentation

    # Its own log would print whatever an error says, and every retry is told here already.
    stamina.instrumentation.set_on_retry_hooks(())
    decide = Retries(policy, what, told=told, budget=budget, progressed=progressed, patient=patient)
    # How often and how long is decided there, so stamina itself has no limits.
    yield from stamina.retry_context(on=decide, attempts=None, timeout=None)
