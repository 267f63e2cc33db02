"""A QCOW2 as a raw file that can be written to, and its file systems, mounted.

For processes with a mount namespace of their own (``unshare --mount``): what is mounted there goes
with them, however they go.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import time
from typing import TYPE_CHECKING

from builder import process
from builder.errors import CommandError, HostError
from builder.monitor import DISK_NODE
from builder.mount_points import BOOT, mount_points
from builder.partitions import root_partition
from builder.vm_options import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.mount_points import MountPoint

_EXPORT_SECONDS = 20
_ESP_KIND = "vfat"
_log = logging.getLogger(__name__)
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
    """Mount the root file system of a raw disk, where the daemon that shows it does not see it.

    Below it, what the system itself mounts there from this disk: its ``/boot``, say.
    """
    _part_from_the_daemon()
    root = work / "root"
    root.mkdir(exist_ok=True)
    start, size = root_partition(raw)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_mount(raw, root, "ext4", start, size))
        for below in mount_points(raw, root):
            _enter(stack, raw, root, below)
        yield root


@contextlib.contextmanager
def _mount(raw: Path, place: Path, kind: str, start: int, size: int) -> Iterator[None]:
    # Programs in a container cannot sync, and only ext4 can be frozen before a snapshot.
    sync = ",sync" if kind == _ESP_KIND else ""
    options = f"loop,offset={start},sizelimit={size},noatime{sync}"
    process.run(["mount", "-t", kind, "-o", options, raw, place])
    try:
        yield
    finally:
        process.run(["umount", place])


def _enter(stack: contextlib.ExitStack, raw: Path, root: Path, point: MountPoint) -> None:
    """Mount a file system below the root, for as long as the stack is open.

    The EFI partition may stay away: not every host's kernel knows FAT, and no container boots.
    """
    place = (root / point.path.lstrip("/")).resolve()
    if not place.is_relative_to(root.resolve()):
        raise CommandError(f"the mount point {point.path} leads out of the image")
    place.mkdir(parents=True, exist_ok=True)
    try:
        stack.enter_context(_mount(raw, place, point.kind, point.start, point.size))
    except CommandError as error:
        if point.path == BOOT:
            raise
        _log.info("%s stays unmounted: %s", point.path, error.message)


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
