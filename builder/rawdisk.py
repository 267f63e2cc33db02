"""A QCOW2 as a raw file that can be written to, and its root file system, mounted.

For processes with a mount namespace of their own (``unshare --mount``): what is mounted there goes
with them, however they go.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import time
from typing import TYPE_CHECKING

from builder import process
from builder.errors import HostError
from builder.monitor import DISK_NODE
from builder.partitions import root_partition
from builder.vm_options import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_EXPORT_SECONDS = 20
_CLONE_NEWNS = 0x00020000  # <linux/sched.h>


@contextlib.contextmanager
def exported(disk: Path, work: Path, log: Path, *, monitor: Path | None = None) -> Iterator[Path]:
    """Show a QCOW2 as a raw file in ``work``, by the storage daemon and FUSE.

    ``monitor`` is the socket where the daemon shall take commands.
    """
    raw = work / "disk.raw"
    raw.touch()
    file = {"driver": "file", "filename": str(disk), "discard": "unmap", "aio": "threads"}
    node = {"driver": "qcow2", "file": file, "discard": "unmap", "detect-zeroes": "unmap"}
    export = {"type": "fuse", "id": "raw", "mountpoint": str(raw), "writable": True}
    argv = [
        "qemu-storage-daemon",
        # As JSON: in a list of options a comma in a path would end it.
        "--blockdev", json.dumps({"node-name": DISK_NODE, **node}),
        "--export", json.dumps({"node-name": DISK_NODE, **export}),
        *(_listening(monitor) if monitor else ()),
    ]  # fmt: skip
    with process.session(process.start(argv, log=log)) as daemon:
        deadline = time.monotonic() + _EXPORT_SECONDS
        while raw.stat().st_size == 0:
            if daemon.status is not None or time.monotonic() > deadline:
                raise process.failure(argv, daemon.status or 0, log.read_text(), log=log)
            time.sleep(0.01)
        yield raw
        # SIGTERM makes it flush and close the QCOW2; only then is the file whole.
        if daemon.stop():
            raise process.failure(argv, daemon.status or 0, log.read_text(), log=log)


def _listening(monitor: Path) -> list[str]:
    socket = f"socket,id=qmp,path={quoted(monitor)},server=on,wait=off"
    return ["--chardev", socket, "--monitor", "chardev=qmp"]


@contextlib.contextmanager
def mounted(raw: Path, work: Path) -> Iterator[Path]:
    """Mount the root file system of a raw disk, where the daemon that shows it does not see it."""
    _part_from_the_daemon()
    root = work / "root"
    root.mkdir(exist_ok=True)
    start, size = root_partition(raw)
    options = f"loop,offset={start},sizelimit={size},noatime"
    process.run(["mount", "-t", "ext4", "-o", options, raw, root])
    try:
        yield root
    finally:
        process.run(["umount", root])


def _part_from_the_daemon() -> None:
    """Go on in a mount namespace that the storage daemon is not in.

    Killed together, the last process of a namespace unmounts what is mounted there. Were that the
    daemon, it would wait for the file system to be written to the disk that it no longer serves:
    for ever, and with it every ``sync`` of the host.
    """
    # Until Python 3.12 is the oldest: os.unshare.
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise HostError(f"no mount namespace: {os.strerror(number)}", hint="run it as root")
