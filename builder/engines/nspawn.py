"""Run a disk as a container: for hosts where no VM runs at full speed.

The disk stays a QCOW2 and is the same file a VM would use. A supervisor (:mod:`builder.engines.
supervisor`) in namespaces of its own exports it as a raw file, mounts its root and boots it with
systemd-nspawn. All of that - mounts, loop device, container, storage daemon - lives in those
namespaces and goes when the supervisor goes, however it goes.

The network namespace has a loopback interface and nothing else. The guest's caches are ports on
that loopback, carried over Unix sockets, as is our SSH into the guest; there is no route to lose.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import disks, process
from builder.engines import MONITOR, Endpoint, Forward, Machine, Served, carrier
from builder.engines.greeting import wait_for_ssh
from builder.errors import HostError
from builder.ports import free as free_port
from builder.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOOT_SECONDS = 90
_STOP_SECONDS = 60


class NspawnEngine:
    """The engine ``nspawn``."""

    name: Literal["qemu", "nspawn"] = "nspawn"
    guest_host = "127.0.0.1"

    @contextlib.contextmanager
    def serve(self, machine: Machine, parent: str) -> Iterator[Served]:
        """Boot a new overlay; Packer's null builder connects to it."""
        disks.make_overlay(parent, machine.disk)
        with scratch() as sockets, self._boot(machine, sockets, whole=True) as endpoint:
            circumstance = {"ssh_host": endpoint.host, "ssh_port": endpoint.port}
            yield Served(circumstance, sockets / MONITOR, machine.disk)

    @contextlib.contextmanager
    def boot(self, machine: Machine) -> Iterator[Endpoint]:
        """Boot the disk in a container; see :class:`builder.engines.Engine`."""
        with scratch() as sockets, self._boot(machine, sockets, whole=False) as endpoint:
            yield endpoint

    @contextlib.contextmanager
    def _boot(self, machine: Machine, sockets: Path, *, whole: bool) -> Iterator[Endpoint]:
        """Boot; at the end the disk must be ``whole``, or is thrown away and may be anything."""
        _require_root()
        with contextlib.ExitStack() as stack:
            for forward in machine.forwards:
                stack.enter_context(_to_host(sockets / forward.name, forward, machine))
            supervisor = stack.enter_context(process.session(_supervise(machine, sockets)))
            port = free_port()
            stack.enter_context(_from_host(port, sockets / "ssh", machine))
            wait_for_ssh(port, supervisor, machine.console, timeout=_BOOT_SECONDS)
            yield Endpoint("127.0.0.1", port, "root", machine.keys.private)
            status = supervisor.stop(grace=_STOP_SECONDS)
            if status and whole:
                said = supervisor.log.read_text()
                raise process.failure(["supervisor"], status, said, log=supervisor.log)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise HostError(
            "the engine nspawn mounts disks, which only root may",
            hint="run vaultbuild with sudo, or use --engine qemu",
        )


def _supervise(machine: Machine, sockets: Path) -> process.Child:
    spec = {
        "disk": str(machine.disk),
        "work": str(machine.work),
        "public_key": machine.keys.public,
        "sockets": str(sockets),
        "forwards": [[forward.name, forward.guest_port] for forward in machine.forwards],
        "console": str(machine.console),
    }
    path = machine.work / "container.json"
    path.write_text(json.dumps(spec))
    namespaces = ["unshare", "--mount", "--net", "--uts", "--ipc"]
    python = [sys.executable, "-m", "builder.engines.supervisor", str(path)]
    return process.start(
        [*namespaces, *python],
        log=machine.logs / "container.log",
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        keep_fds=machine.locks,
        contained=True,
    )


@contextlib.contextmanager
def _to_host(path: Path, forward: Forward, machine: Machine) -> Iterator[None]:
    """Carry what arrives at a Unix socket to a cache."""
    argv = carrier(f"UNIX-LISTEN:{path},fork,mode=600", f"TCP:{forward.host}:{forward.port}")
    with process.session(process.start(argv, log=machine.logs / "forward.log")):
        yield


@contextlib.contextmanager
def _from_host(port: int, path: Path, machine: Machine) -> Iterator[None]:
    """Carry what arrives at a port of the host's loopback to a Unix socket."""
    argv = carrier(f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", f"UNIX-CONNECT:{path}")
    with process.session(process.start(argv, log=machine.logs / "forward.log")):
        yield
