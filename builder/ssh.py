"""One SSH connection to a guest, opened once and shared by everything that talks to it.

In emulation a handshake takes seconds. So the connection of a stage is a program of its own
(``ssh -M``), and Ansible, mitogen and :meth:`Link.run_python` go through its control socket. It
dies with its owner; when it breaks, its users connect by themselves.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder import process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.engines import Endpoint

_GUEST_PYTHON = "/usr/bin/python3"
_POLL_SECONDS = 0.02
# A path of a Unix socket ends at 107 characters; ssh adds 17 of its own while it makes one.
_LONGEST_FOLDER = 60


class UnreachableError(Exception):
    """No connection came about; the text is what ssh said."""


@dataclass(frozen=True, slots=True)
class Link:
    """An open connection to a guest."""

    endpoint: Endpoint
    control: Path

    @property
    def options(self) -> list[str]:
        """The options by which ssh uses this connection."""
        return [
            *options(self.endpoint),
            "-o",
            "ControlMaster=no",
            "-o",
            f"ControlPath={self.control}",
        ]

    def run_python(self, source: str, *arguments: str) -> str:
        """Run a Python program in the guest and return what it wrote to stdout."""
        command = shlex.join([_GUEST_PYTHON, "-", *arguments])
        return process.run(
            ["ssh", *self.options, _address(self.endpoint), command], stdin=source
        ).stdout

    @contextlib.contextmanager
    def holding_python(
        self, source: str, *arguments: str, said: str, patience: float
    ) -> Iterator[None]:
        """Run the block while a Python program in the guest waits; see :func:`process.held`."""
        command = shlex.join([_GUEST_PYTHON, "-c", source, *arguments])
        argv = ["ssh", *self.options, _address(self.endpoint), command]
        with process.held(argv, said=said, patience=patience):
            yield


def options(endpoint: Endpoint) -> list[str]:
    """Return the options to reach a guest: its key alone, and nothing of this user's own set-up."""
    settings = (
        "BatchMode=yes",
        "ConnectTimeout=30",
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "LogLevel=ERROR",
        # Not -p, which means something else to sftp.
        f"Port={endpoint.port}",
        "ServerAliveInterval=15",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
    )
    words = [word for setting in settings for word in ("-o", setting)]
    return ["-F", "/dev/null", "-i", str(endpoint.private_key), *words]


def public_key(endpoint: Endpoint) -> str:
    """Return the public half of the key that opens this guest, without its comment."""
    said = process.run(["ssh-keygen", "-y", "-f", endpoint.private_key]).stdout
    return " ".join(said.split()[:2])


@contextlib.contextmanager
def connect(endpoint: Endpoint, *, log: Path, patience: float = 60) -> Iterator[Link]:
    """Open the connection; raise :class:`UnreachableError` when there is none in ``patience`` s."""
    with tempfile.TemporaryDirectory(prefix="vb", dir=_short_folder()) as folder:
        link = Link(endpoint, Path(folder, "ssh"))
        master = ["-M", "-N", "-o", f"ControlPath={link.control}", "-o", "ControlPersist=no"]
        argv = ["ssh", *options(endpoint), *master, _address(endpoint)]
        with process.start(argv, log=log) as child:
            _wait(child, link.control, patience)
            yield link


def _wait(child: process.Child, control: Path, patience: float) -> None:
    end = time.monotonic() + patience
    # The socket appears when the guest has let us in.
    while not control.is_socket():
        if child.status is not None or time.monotonic() > end:
            raise UnreachableError(_last_words(child.log) or f"no answer in {patience:g} s")
        time.sleep(_POLL_SECONDS)


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
    return said[-1] if said else ""


def _address(endpoint: Endpoint) -> str:
    return f"{endpoint.user}@{endpoint.host}"


def _short_folder() -> str:
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 - see _LONGEST_FOLDER
