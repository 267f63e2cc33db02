"""QEMU's monitor: a live disk gets a new layer while its guest runs.

The VM and the storage daemon both listen for QMP on a Unix socket. A snapshot is one command: from
then on the guest writes to the new layer, and the old one never changes again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from builder.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

DISK_NODE: Final = "disk"
"""What the storage daemon calls the disk that it exports."""
_SECONDS = 60


class _Client(Protocol):
    async def execute(self, cmd: str, arguments: dict[str, object]) -> Any: ...


def add_layer(socket: Path, engine: str, *, top: str | None, layer: Path) -> str:
    """Let the running disk write to ``layer`` from now on; return the name of its node.

    ``top`` is what an earlier call returned, None for the first. ``layer`` is an empty QCOW2 whose
    header already names what it reads from. Raises :class:`CommandError` when the monitor does not
    answer or refuses; the disk then goes on as before.
    """
    # Late: 60 ms, and only a program that makes checkpoints needs it.
    from qemu.qmp import QMPClient, QMPError

    async def talk() -> str:
        client = QMPClient("vaultbuild")
        await client.connect(str(socket))
        try:
            add = _add_to_daemon if engine == "nspawn" else _add_to_vm
            return await add(client, top, layer)
        finally:
            await client.disconnect()

    try:
        return asyncio.run(asyncio.wait_for(talk(), _SECONDS))
    except TimeoutError as error:
        raise CommandError(f"QEMU's monitor did not answer within {_SECONDS} s") from error
    except (QMPError, OSError) as error:
        raise CommandError(f"QEMU did not take a snapshot: {error}") from error


async def _add_to_daemon(client: _Client, top: str | None, layer: Path) -> str:
    node = layer.stem
    await client.execute("blockdev-add", {
        "driver": "qcow2",
        "node-name": node,
        "file": {"driver": "file", "filename": str(layer), "discard": "unmap", "aio": "threads"},
        # The snapshot itself says what it stands on: the node that was on top.
        "backing": None,
        "discard": "unmap",
        "detect-zeroes": "unmap",
    })  # fmt: skip
    await client.execute("blockdev-snapshot", {"node": top or DISK_NODE, "overlay": node})
    return node


async def _add_to_vm(client: _Client, _top: str | None, layer: Path) -> str:
    disk = await _device(client)
    await client.execute("blockdev-snapshot-sync", {
        "device": disk,
        "snapshot-file": str(layer),
        "format": "qcow2",
        "mode": "existing",
    })  # fmt: skip
    return layer.stem


async def _device(client: _Client) -> str:
    """Return the name of the VM's disk; its other drives, such as a seed, are CD-ROMs."""
    found = await client.execute("query-block", {})
    disks = [each for each in found if "inserted" in each and not each["inserted"]["ro"]]
    if len(disks) != 1:
        raise CommandError(f"the VM has {len(disks)} disks that it can write to, not one")
    return str(disks[0]["device"])
