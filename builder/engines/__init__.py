"""Where a disk runs while it is provisioned or checked.

An engine does two things with a disk: it *serves* it to ``packer build`` (the container is started
by us, the VM by Packer), and it *boots* it alone, for checks and for a shell. Either way the guest
is reached over SSH on a loopback port of the host, and reaches the caches and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path


CONSOLE = "console.log"
"""The file, in a run's logs, that has the guest's console."""
MONITOR = "qmp"
"""The socket, in a run's folder of sockets, where QEMU takes commands."""

_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How a guest is reached over SSH."""

    host: str
    port: int
    user: str
    private_key: Path


@dataclass(frozen=True, slots=True)
class Keys:
    """A throwaway SSH key pair: the private key's file and the public key's line."""

    private: Path
    public: str


@dataclass(frozen=True, slots=True)
class Forward:
    """A cache as the guest sees it: ``guest_port`` there leads to ``host`` and ``port``."""

    name: str
    host: str
    port: int
    guest_port: int

    @property
    def address(self) -> str:
        """Where the cache is, as this host reaches it."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run of a disk needs. ``work`` is a folder of the run's own; logs go to ``logs``."""

    disk: Path
    work: Path
    logs: Path
    keys: Keys
    cpus: int
    memory_mib: int
    forwards: Sequence[Forward] = ()
    locks: Sequence[int] = field(default=())
    firmware: str = "bios"

    @property
    def console(self) -> Path:
        """The log of the guest's console."""
        return self.logs / CONSOLE


@dataclass(frozen=True, slots=True)
class Served:
    """A disk in the hands of ``packer build``.

    ``circumstance`` are fields of :class:`builder.template.Circumstance`; ``monitor`` is the socket
    where QEMU takes commands about the disk; ``disk`` is the file that the guest writes to at
    first, which is ``machine.disk`` or a name that Packer gave it.
    """

    circumstance: Mapping[str, Any]
    monitor: Path
    disk: Path


def carrier(near: str, far: str) -> list[str]:
    """Return the command that carries bytes between two of socat's addresses.

    What is small must not wait for the last thing to arrive, which takes 40 ms; and socat's own
    blocks are of 8 KiB.
    """
    ends = (f"{end},nodelay" if end.startswith("TCP") else end for end in (near, far))
    return ["socat", "-b", str(_BLOCK), *ends]


class Engine(Protocol):
    """One way to run a disk."""

    name: Literal["qemu", "nspawn"]
    guest_host: str
    """Where the guest finds the caches."""

    def serve(self, machine: Machine, parent: str) -> AbstractContextManager[Served]:
        """Let ``packer build`` run a new overlay of ``parent``, which becomes ``machine.disk``.

        ``parent`` is relative to the disk's folder, or to any that lies as deep in the store.
        """
        ...

    def boot(self, machine: Machine) -> AbstractContextManager[Endpoint]:
        """Start the disk, wait for SSH, yield where it answers; power it off at the end.

        Raises :class:`builder.errors.CommandError` with the console's last lines when the guest
        does not come up.
        """
        ...
