"""The process that keeps a server for as long as somebody uses it.

::

    python -m builder.caches.keeper STATE USERS STAY LOG PORT LISTEN MODE COMMAND...

Several runs of vaultbuild share one server, and any of them may be killed at any moment. So no run
owns it. Each holds a shared lock on USERS, which the kernel gives back however the run ends; the
keeper stops the server once it can have that lock for itself, unless the file STAY exists. The
server in turn dies with its keeper. Nothing is left behind, and nothing has to be counted.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builder import process
from builder.caches.state import OFFLINE, State, Terms

if TYPE_CHECKING:
    from collections.abc import Sequence

_GLANCE = 0.3  # seconds between two looks at the users; the price of a killed run
_GRACE = 10


def main(arguments: Sequence[str]) -> None:
    """Start the server, record it, and stop it when its time has come."""
    state, users, stay, log = (Path(word) for word in arguments[:4])
    port, listen, mode = arguments[4:7]
    terms = Terms(int(port), listen, offline=mode == OFFLINE)
    command = arguments[7:]
    # Whoever started this process chose its environment for the server.
    with process.start(command, log=log, env=os.environ) as child:
        # Only now: a blocked signal would be blocked in the server as well.
        signals = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        State.of_this_process(terms).write(state)
        descriptor = os.open(users, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _watch(child, descriptor, stay)
        finally:
            # Stopped before the lock is let go: whoever comes next finds nothing or a new server.
            child.stop(grace=_GRACE)
            os.close(descriptor)


def _watch(child: process.Child, users: int, stay: Path) -> None:
    """Return when the server ended, when somebody said stop, or when nobody uses it."""
    while child.status is None:
        told = signal.sigtimedwait({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}, _GLANCE)
        if told and told.si_signo != signal.SIGCHLD:
            return
        if not stay.exists() and _unused(users):
            return


def _unused(users: int) -> bool:
    """Take the users' lock if nobody holds it; it is kept until this process ends."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
