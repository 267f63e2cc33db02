"""What the EFI system partitions of a raw disk hold, without mounting anything.

mtools open a FAT file system in the middle of a file; so nothing here needs root, nor a kernel that
knows FAT.
"""

from __future__ import annotations

import os
from pathlib import Path

from builder import process
from builder.partitions import PartitionTable

# The GUID of the discoverable type, and that of the older partition table.
_TYPES = ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EF")


def esp_starts(raw: Path) -> list[int]:
    """Return where the EFI system partitions of a raw disk start, in bytes; most have one."""
    parts = PartitionTable.read(raw).partitions
    return [part.start for part in parts if part.type in _TYPES]


def copy_esps(raw: Path, target: Path) -> str:
    """Copy all that is in the EFI system partitions to ``target``; return what could not be read.

    Names come in small letters: to FAT it is all the same how they are written.
    """
    target.mkdir(parents=True)
    wrong = [each for start in esp_starts(raw) if (each := _copy(raw, start, target))]
    for folder, folders, names in os.walk(target, topdown=False):
        for name in (*folders, *names):
            Path(folder, name).rename(Path(folder, name.lower()))
    return "\n".join(wrong)


def _copy(raw: Path, start: int, target: Path) -> str:
    argv: list[str | Path] = ["mcopy", "-s", "-n", "-i", f"{raw}@@{start}", "::/", target]
    # Else it refuses file systems whose sectors are no multiple of a track.
    done = process.run(argv, check=False, env={"MTOOLS_SKIP_CHECK": "1"})
    said = (done.stderr + done.stdout).strip().splitlines()
    told = said[-1] if said else f"mcopy ended with {done.status}"
    return f"the EFI system partition at byte {start}: {told}" if done.status else ""
