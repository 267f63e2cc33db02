"""The first process of a container's namespaces: it mounts the disk, boots it, takes it down.

Run as ``python -m builder.engines.supervisor container.json`` by :mod:`builder.engines.nspawn`,
inside new mount, network, PID, IPC and UTS namespaces. SIGTERM means: power off the guest, unmount,
close the disk, end with 0. SIGKILL means that the kernel takes everything down with us.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import process
from builder.engines import MONITOR, carrier, usage
from builder.engines.cgroup import own_group
from builder.errors import CommandError, VaultbuildError
from builder.mount_points import missing
from builder.rawdisk import exported, mounted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_log = logging.getLogger(__name__)
_SHUTDOWN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Spec:
    """What ``container.json`` says."""

    disk: Path
    work: Path
    public_key: str
    sockets: Path
    forwards: Sequence[tuple[str, int]]
    console: Path

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Read the file that the engine wrote."""
        found: dict[str, Any] = json.loads(path.read_text())
        return cls(
            disk=Path(found["disk"]),
            work=Path(found["work"]),
            public_key=found["public_key"],
            sockets=Path(found["sockets"]),
            forwards=[(name, port) for name, port in found["forwards"]],
            console=Path(found["console"]),
        )


def supervise(spec: Spec) -> None:
    """Boot the disk and stay until told to stop."""
    stop = _Stop()
    process.run(["ip", "link", "set", "lo", "up"])
    log = spec.console.with_name("container.log")
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_group(spec.sockets.name))
        control = spec.sockets / MONITOR
        raw = stack.enter_context(exported(spec.disk, spec.work, log, monitor=control))
        root = stack.enter_context(mounted(raw, spec.work))
        if reason := missing(raw, root):
            raise CommandError(reason)
        for argv in _carriers(spec):
            stack.enter_context(process.session(process.start(argv, log=log)))
        container = stack.enter_context(process.session(_nspawn(spec, root)))
        stop.wait(container)
        if container.stop(grace=_SHUTDOWN_SECONDS) not in (0, -signal.SIGTERM):
            raise CommandError(
                f"the guest did not power off within {_SHUTDOWN_SECONDS} s "
                f"(the container ended with status {container.status})"
            )
        usage.write(spec.console.parent)
        # What the guest freed becomes holes again: a smaller overlay, for a tenth of a second.
        process.run(["fstrim", root], check=False)


class _Stop:
    """SIGTERM and SIGINT, remembered."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def wait(self, container: process.Child) -> None:
        """Return when asked to stop; raise when the container ends by itself."""
        while not self._asked:
            if container.status is not None:
                raise CommandError(f"the container ended by itself with status {container.status}")
            time.sleep(0.05)


def _carriers(spec: Spec) -> Iterator[list[str]]:
    """The programs that carry the caches in and SSH out, each over a Unix socket."""
    yield carrier(f"UNIX-LISTEN:{spec.sockets}/ssh,fork,mode=600", "TCP:127.0.0.1:22")
    for name, port in spec.forwards:
        listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
        yield carrier(listen, f"UNIX-CONNECT:{spec.sockets}/{name}")


def _nspawn(spec: Spec, root: Path) -> process.Child:
    """Boot the container. Its SSH key is a credential, which the guest itself writes down."""
    key = spec.work / "authorized_keys"
    key.write_text(spec.public_key + "\n")
    argv: list[str | Path] = [
        "systemd-nspawn", "--quiet", "--boot",
        "--directory", root,
        "--machine", "vaultbuild",
        "--hostname", "localhost",
        "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
        # Every fsync of dpkg would wait for the disk; the disk is synced once, when it is closed.
        "--suppress-sync=yes",
        f"--load-credential=ssh.authorized_keys.root:{key}",
        "--capability=CAP_NET_ADMIN",
        "--console=read-only",
    ]  # fmt: skip
    return process.start(argv, log=spec.console)


def main() -> int:
    """Run the supervisor; the error, if any, goes to the log that the engine reads."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        supervise(Spec.read(Path(sys.argv[1])))
    except VaultbuildError as error:
        _log.error("%s", error.message)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
