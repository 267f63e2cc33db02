"""A server that runs of a project share: adopt it or start it, wait until it answers, let it go.

What is common to all caches stands here once; what is particular to apt-cacher-ng or devpi-server
is a :class:`Cache`. The life of a server is the business of its :mod:`~builder.caches.keeper`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import builder
from builder import files, ports, process
from builder.caches.state import OFFLINE, ONLINE, Places, State, Terms
from builder.errors import CommandError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.caches.kept import Item

_log = logging.getLogger(__name__)

_PATIENCE = 90  # seconds until a server must answer; devpi needs 8 on a busy host
_KEEPER_PATIENCE = 10
_TICK = 0.05
_ATTEMPTS = 3  # a free port may be taken by somebody else before the server has it
_LOG_LIMIT = 1 << 20
_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server: its command, and what it needs in its environment."""

    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)


class Cache(Protocol):
    """What is particular to one kind of cache. Only :meth:`prepare` may be slow."""

    @property
    def name(self) -> str:
        """The word for it in settings and messages."""

    @property
    def fetches(self) -> bool:
        """Whether the server asks an upstream by itself, so that it has to be told not to."""

    def prepare(self, places: Places, terms: Terms) -> Launch:
        """Write the server's configuration and return how to start it on these terms."""

    def url(self, terms: Terms) -> str:
        """Return the URL that clients on this host use."""

    def answers(self, url: str) -> bool:
        """Say whether such a server answers at ``url``."""

    def settle(self, places: Places, terms: Terms) -> None:
        """Bring a server that answers into the state that builds need."""

    def items(self, places: Places) -> Sequence[Item]:
        """Return what the cache keeps, file by file."""

    def drop(self, places: Places, item: Item) -> bool:
        """Remove an item, of a cache that no run uses; say whether it is gone."""


class Service:
    """One cache of one project, as this run of vaultbuild sees it."""

    def __init__(
        self,
        cache: Cache,
        places: Places,
        *,
        port: int | None = None,
        listen: str | None = None,
        offline: bool = False,
    ) -> None:
        self.cache = cache
        self.places = places
        self._fixed = port
        self._listen = listen or ports.LOOPBACK
        self._offline = offline and cache.fetches

    @property
    def name(self) -> str:
        """The cache's name."""
        return self.cache.name

    @property
    def state(self) -> State | None:
        """The server that runs now, whoever started it."""
        return State.read(self.places.state)

    @property
    def used(self) -> bool:
        """Say whether any run uses the server at this moment."""
        with _lock(self.places.users, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
            return not free

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Keep the server from being stopped; stop it at the end if nobody else needs it.

        One that runs on other terms than are wanted now, and that nobody uses, is stopped first.
        """
        self._make_way()
        try:
            # A server that is just being stopped is waited for here.
            with _lock(self.places.users, fcntl.LOCK_SH):
                yield
        finally:
            self.retire()

    def begin(self) -> None:
        """Start the server unless it runs. Needs a lease; returns before the server answers."""
        with files.lock(self.places.lock):
            state = self.state
            if state is None:
                self._launch(self._choose_terms())
            elif difference := self._difference(state):
                _log.warning(
                    "the %s cache already runs %s, and another run uses it: it is used as it is",
                    self.name, difference,
                )  # fmt: skip

    def ready(self) -> str:
        """Wait until the server answers and return its URL. Needs :meth:`begin`."""
        for _ in range(_ATTEMPTS):
            terms = self._answering()
            if terms is not None:
                # Under the lock: two runs that start at once must not both settle it.
                with files.lock(self.places.lock):
                    self.cache.settle(self.places, terms)
                return self.cache.url(terms)
            self.begin()
        raise CommandError(
            f"the {self.name} cache does not start\n{_tail(self.places.log)}",
            hint=f"vaultbuild doctor; what was fetched into {self.places.content} may be deleted",
            log=self.places.log,
        )

    def retire(self, *, patience: float = 15) -> bool:
        """Stop the server unless somebody uses it or it shall stay; say whether it is gone."""
        with _lock(self.places.users, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            state = self.state
            if state is None:
                return True
            if not alone or self.places.stay.exists():
                return False
            return _stopped(state, patience)

    @contextlib.contextmanager
    def unused(self) -> Iterator[bool]:
        """Keep runs from beginning to use the server; yield False where one uses it already."""
        with _lock(self.places.users, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            yield alone

    def _make_way(self, *, patience: float = 15) -> None:
        """Stop a server that runs on other terms, unless somebody uses it."""
        if (state := self.state) is None or not self._difference(state):
            return
        with self.unused() as alone:
            if alone and (state := self.state) and self._difference(state):
                _log.info("the %s cache starts again: it runs %s", self.name,
                          self._difference(state))  # fmt: skip
                _stopped(state, patience)

    def _difference(self, state: State) -> str | None:
        """Say how a server that runs differs from what is wanted."""
        if self._fixed not in {None, state.port}:
            return f"on port {state.port}, not {self._fixed}"
        if self._listen != state.listen:
            return f"at {state.listen}, not {self._listen}"
        if self._offline != state.offline:
            modes = "offline, not online", "online, not offline"
            return modes[self._offline]
        return None

    def _choose_terms(self) -> Terms:
        return Terms(self._choose_port(), self._listen, self._offline)

    def _choose_port(self) -> int:
        port = self._fixed
        if port is None:
            return ports.free()
        if ports.taken(port, self._listen):
            raise HostError(
                f"port {port} for the {self.name} cache is taken by {ports.holder(port)}",
                hint=f"stop that program, or set caches.{self.name}.port in stages/pipeline.yml "
                "to another port or to null for any free one",
            )
        return port

    def _launch(self, terms: Terms) -> None:
        places = self.places
        launch = self.cache.prepare(places, terms)
        places.state.parent.mkdir(parents=True, exist_ok=True)
        places.state.unlink(missing_ok=True)
        _rotate(places.log)
        mode = OFFLINE if terms.offline else ONLINE
        keeper: list[str | Path] = [
            sys.executable, "-m", "builder.caches.keeper",
            places.state, places.users, places.stay, places.log,
            str(terms.port), terms.listen, mode, *launch.command,
        ]  # fmt: skip
        # The fork of `setsid` is what lets the keeper live on when this process is killed: every
        # program that vaultbuild starts dies with it, but not the children of that program.
        fork = ["setsid", "--fork", *keeper]
        package = Path(builder.__file__).parent.parent
        process.start(fork, log=places.log, cwd=package, env=launch.environment).wait(
            _KEEPER_PATIENCE
        )
        self._await_keeper()

    def _await_keeper(self) -> None:
        """Wait until the keeper has written its state: it may have come to its end since."""
        deadline = time.monotonic() + _KEEPER_PATIENCE
        while not self.places.state.exists() and time.monotonic() < deadline:
            time.sleep(_TICK)

    def _answering(self) -> Terms | None:
        """Return the terms once the server answers on them; None when the server has ended."""
        deadline = time.monotonic() + _PATIENCE
        while (state := self.state) and time.monotonic() < deadline:
            if self.cache.answers(self.cache.url(state.terms)):
                return state.terms
            time.sleep(_TICK)
        return None


@contextlib.contextmanager
def _lock(path: Path, operation: int) -> Iterator[bool]:
    """Hold a lock on ``path`` if it can be had; yield whether it could."""
    descriptor = _opened(path)
    try:
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _stopped(state: State, patience: float) -> bool:
    """Ask a server's keeper to stop it; say whether it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while state.alive() and time.monotonic() < deadline:
        time.sleep(_TICK)
    return not state.alive()


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError as error:
        raise HostError(
            f"{path} belongs to another user",
            hint=f"run vaultbuild as root, or: sudo chown -R $USER {path.parent.parent}",
        ) from error


def _rotate(log: Path) -> None:
    """Keep a log from growing for ever: one old one beside the current one."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))


def _tail(log: Path) -> str:
    if not log.exists():
        return "       (it printed nothing)"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join(f"       {line}" for line in lines)
