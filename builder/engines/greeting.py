"""Waiting until a guest's SSH server greets."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from builder.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

    from builder.process import Child

_LAST_LINES = 12
# A panic stands above the trace of its calls.
_TAIL_BYTES = 20_000


def wait_for_ssh(port: int, child: Child, console: Path, *, timeout: float) -> None:
    """Return once an SSH server greets on ``port``.

    Raises :class:`CommandError`, with the console's last lines, when ``child`` ends first or
    ``timeout`` seconds have passed.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if _greets(port):
            return
        if child.status is not None:
            # A guest that never wrote to its console: what should have started it knows why.
            told = console if console.exists() and console.stat().st_size else child.log
            raise _no_ssh(f"the guest ended before SSH answered (status {child.status})", told)
        time.sleep(0.05)
    raise _no_ssh(f"SSH did not answer within {timeout:g} s", console)


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _no_ssh(what: str, log: Path) -> CommandError:
    return silent(CommandError(what, log=log), log)


def silent(error: CommandError, log: Path) -> CommandError:
    """Return ``error`` with what a guest that does not answer wrote to ``log`` at last, and why."""
    # Late: only failures need it, and its catalogue.
    from builder.failures import explained, plain

    text = plain(log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")) if log.exists() else ""
    lines = [f"       {line}" for line in text.strip().splitlines()[-_LAST_LINES:]]
    told = CommandError(
        "\n".join([error.message, *lines]),
        status=error.status, output=error.output, hint=error.hint, log=log,
    )  # fmt: skip
    told.cause = error.cause
    return explained(told, text, "ssh", hint="the whole story is in the log")
