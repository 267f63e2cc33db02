"""Ports of this host: find a free one, and say who holds a taken one.

"Address already in use" helps nobody; the name of the program that sits there does. It is read from
/proc, because ``ss`` and ``lsof`` may be missing exactly where the message is needed.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
HIGHEST = 32767
_LOWEST = 20000
_DRAWS = 100
_LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp


def free() -> int:
    """Return a port of the loopback address that nobody holds at this moment.

    Not "port 0": the kernel would answer with one of those it also gives to outgoing connections,
    and apt-cacher-ng 3.7 cannot listen above :data:`HIGHEST` at all.
    """
    for _ in range(_DRAWS):
        port = random.randint(_LOWEST, HIGHEST)  # noqa: S311 - nothing depends on its secrecy
        if not taken(port):
            return port
    raise HostError(
        f"found no free port between {_LOWEST} and {HIGHEST}",
        hint="see `ss -ltn` for what holds them",
    )


def taken(port: int, address: str = LOOPBACK) -> bool:
    """Say whether a server could not listen on ``port`` of an address of this host now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do it: a connection of a server that just ended is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return True
    return False


def has_address(address: str) -> bool:
    """Say whether a server of this host could listen at an address at all."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Name the program that listens on ``port``, as far as this user may know."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").glob("[0-9]*"):
        if sockets & set(_open_files(process)):
            with contextlib.suppress(OSError):
                name = (process / "comm").read_text(encoding="utf-8").strip()
                return f"{name} (process {process.name})"
    return "a program of another user"


def _listening(port: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen on ``port``."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _open_files(process: Path) -> Iterator[str]:
    # Processes end while one looks at them, and those of other users may not be looked at.
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(link.readlink())
