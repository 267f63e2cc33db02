"""A breaker for each server that things are fetched from, shared by all runs on this host.

When a server fails several times in a row, asking it again only makes everybody wait. Its breaker
opens then: for a while nobody asks, and whoever wants something goes to the next mirror at once.
After that one process may try ("half-open"); what it meets closes the breaker or opens it again.

The states and their order are pybreaker's. Added here: a state that processes share, one file for
each endpoint; a single probe, whose lock the kernel gives back when its process dies; and failures
that say nothing about the server (Ctrl-C, a full disk, wrong bytes), which count neither way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import re
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from builder import files
from builder.fetch.transient import NotNowError, PermanentError, TransientError
from builder.fetch.urls import endpoint, place, redacted_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pybreaker

FAILURES: Final = 5
"""So many failures in a row open a breaker."""
SECONDS: Final = 30
"""So long it stays open before somebody may try."""

_log = logging.getLogger(__name__)

_PROBING_SECONDS: Final = 1.0  # to whoever comes while another process tries
_MOST_CHARACTERS: Final = 300
_NAMES: Final = {"closed", "open", "half-open"}


@dataclass(frozen=True, slots=True)
class State:
    """What all processes know of one endpoint, as ``vaultbuild cache status`` shows it."""

    endpoint: str
    state: str = "closed"  # or "open", or "half-open": one process may try
    failures: int = 0
    opened_at: float | None = None  # seconds since 1970
    seconds: float = SECONDS
    cause: str = ""

    @property
    def open_until(self) -> float | None:
        """When somebody may ask again, in seconds since 1970; None when everybody may now."""
        if self.state == "closed" or self.opened_at is None:
            return None
        return self.opened_at + self.seconds


class Breakers:
    """The breakers of a folder, by the endpoint of a URL. The folder may be deleted at any time."""

    def __init__(self, folder: Path, *, failures: int = FAILURES, seconds: float = SECONDS) -> None:
        self.folder = folder
        self._failures = failures
        self._seconds = seconds
        self._known: dict[str, Breaker] = {}

    @classmethod
    def under(cls, var: Path) -> Breakers:
        """Return the breakers that all runs of a project share; ``var`` is its ``cache/var``."""
        return cls(var / "run/breakers")

    def of(self, url: str) -> Breaker:
        """Return the breaker of the server that a URL asks."""
        name = endpoint(url)
        if name not in self._known:
            file = self.folder / (re.sub(r"[^\w.-]+", "_", name) + ".json")
            fresh = Breaker(name, file, failures=self._failures, seconds=self._seconds)
            self._known.setdefault(name, fresh)  # another thread may have been faster
        return self._known[name]

    def states(self) -> list[State]:
        """Return what is known of each endpoint that failed lately, by name."""
        found = [_read(path.read_bytes()) for path in sorted(self.folder.glob("*.json"))]
        return sorted((state for state in found if state), key=lambda state: state.endpoint)


class Breaker:
    """Lets calls to one endpoint through, or does not. Use one from as many threads as you like."""

    def __init__(self, name: str, file: Path, *, failures: int, seconds: float) -> None:
        self.endpoint = name
        self._shared = _Shared(file, State(name, seconds=seconds))
        self._probe = file.with_suffix(".probe")
        self._limits = (failures, seconds)

    @property
    def state(self) -> State:
        """What all processes know now."""
        return self._shared.read()

    @property
    def open_until(self) -> float | None:
        """When somebody may ask again, in seconds since 1970; None when everybody may now."""
        return self.state.open_until

    @property
    def refuses(self) -> bool:
        """Whether a call would be refused now. It may be true a moment later, or false."""
        until = self.open_until
        return until is not None and (time.time() < until or files.is_locked(self._probe))

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Do something with the endpoint in the block; when open, raise :class:`NotNowError`.

        A :class:`TransientError` that is an outage counts against the endpoint. It answered when
        the block succeeds or raises a :class:`PermanentError`. Anything else counts neither way.
        """
        with self._admitted():
            try:
                yield
            except TransientError as error:
                if error.outage and not isinstance(error, NotNowError):
                    self._failed(error)
                raise
            except PermanentError:
                self._answered()
                raise
            self._answered()

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        state = self.state
        if state.state == "closed":
            yield
            return
        until = state.open_until or 0
        if time.time() < until:
            raise self._not_now(state, until - time.time())
        with contextlib.ExitStack() as stack:
            if not self._alone(stack):
                raise self._not_now(state, _PROBING_SECONDS)
            if self.state.state == "open":
                self._circuit().half_open()
            yield

    def _alone(self, stack: contextlib.ExitStack) -> bool:
        try:
            return stack.enter_context(files.try_lock(self._probe))
        except OSError:
            return True  # a folder that cannot be written to stops nobody

    def _not_now(self, state: State, seconds: float) -> NotNowError:
        why = f" ({state.cause})" if state.cause else ""
        return NotNowError(
            f"{place(self.endpoint)} does not answer{why}",
            hint=f"it is asked again in {seconds:.0f} s; is it up, and this host on the network?",
            after=seconds,
        )

    def _answered(self) -> None:
        state = self.state
        if state.failures or state.state != "closed":
            self._count(lambda: None)

    def _failed(self, error: TransientError) -> None:
        def fail() -> None:
            raise error

        self._shared.because(error.message)
        self._count(fail)

    def _count(self, outcome: Callable[[], None]) -> None:
        """Let pybreaker go to the state that follows from an outcome."""
        import pybreaker  # late: see _circuit

        # Open by now: what was let through before that changes nothing any more.
        with contextlib.suppress(pybreaker.CircuitBreakerError, TransientError):
            self._circuit().call(outcome)

    def _circuit(self) -> pybreaker.CircuitBreaker:
        # Late: 30 ms, for those who download. A new one each time: it remembers nothing but what
        # is in the file, and its own lock would let threads wait for each other.
        import pybreaker

        failures, seconds = self._limits
        return pybreaker.CircuitBreaker(
            fail_max=failures,
            reset_timeout=seconds,
            state_storage=_storage(self._shared),
            throw_new_error_on_trip=False,
        )


class _Shared:
    """The state of one endpoint in a file that is locked while it is read and changed."""

    def __init__(self, path: Path, fresh: State) -> None:
        self._path = path
        self._fresh = fresh

    def read(self) -> State:
        """Return the state; a file that is missing, torn or of another version means closed."""
        try:
            with self._path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                data = file.read()
        except OSError:
            return self._fresh
        return self._valid(_read(data))

    def change(self, **changes: Any) -> None:
        """Change the state in one step."""
        self._edit(lambda state: replace(state, **changes))

    def failed_once_more(self) -> None:
        """Count a failure."""
        self._edit(lambda state: replace(state, failures=state.failures + 1))

    def because(self, cause: str) -> None:
        """Remember what a failure said, without its secrets."""
        lines = redacted_text(cause).splitlines() or [""]
        self.change(cause=lines[0][:_MOST_CHARACTERS])

    def _valid(self, state: State | None) -> State:
        if state is None or state.endpoint != self._fresh.endpoint:
            return self._fresh
        if state.opened_at is not None and state.opened_at > time.time() + 1:
            state = replace(state, opened_at=0.0)  # the clock was set back: not open for years
        return replace(state, seconds=self._fresh.seconds)

    def _edit(self, edit: Callable[[State], State]) -> None:
        # In place and not by a rename, which would leave the lock on a file that is gone. A write
        # that a kill cuts short leaves no JSON, which means closed.
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                before = self._valid(_read(file.readall()))
                text = json.dumps(asdict(edit(before)), indent=2, ensure_ascii=False) + "\n"
                file.truncate(0)
                file.write(text.encode())
        except OSError as error:
            # A full disk, somebody else's folder: what failed there is to be told, not this.
            _log.debug("the breaker of %s is not remembered: %s", self._fresh.endpoint, error)


def _read(data: bytes) -> State | None:
    try:
        state = State(**json.loads(data))
        valid = state.state in _NAMES and state.failures >= 0 and (state.opened_at or 0) >= 0
    except (ValueError, TypeError):
        return None
    return state if valid else None


def _storage(shared: _Shared) -> pybreaker.CircuitBreakerStorage:
    """Return the file as what pybreaker keeps its state in."""
    import pybreaker  # late: see Breaker._circuit

    class Storage(pybreaker.CircuitBreakerStorage):
        """pybreaker's state in a file. A success count is not kept: one success closes."""

        @property
        def state(self) -> str:
            return shared.read().state

        @state.setter
        def state(self, state: str) -> None:
            if state == "closed":
                shared.change(state=state, failures=0, opened_at=None, cause="")
            else:
                shared.change(state=state)

        @property
        def opened_at(self) -> datetime | None:
            moment = shared.read().opened_at
            return None if moment is None else datetime.fromtimestamp(moment, UTC)

        @opened_at.setter
        def opened_at(self, moment: datetime) -> None:
            shared.change(opened_at=moment.timestamp())

        @property
        def counter(self) -> int:
            return shared.read().failures

        def increment_counter(self) -> None:
            shared.failed_once_more()

        def reset_counter(self) -> None:
            shared.change(failures=0, cause="")

        @property
        def success_counter(self) -> int:
            return 1

    return Storage(shared.read().endpoint)
