"""The root of a cloud image made as large as its disk: partition and file system, offline.

A cloud image's own cloud-init does so when a VM boots it, and in a container nobody does. Nothing
is mounted, and nothing here needs root.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from builder import process
from builder.errors import CommandError
from builder.partitions import PartitionTable, RootFileSystem, data

if TYPE_CHECKING:
    from pathlib import Path

    from builder.partitions import Partition

# e2fsck: nothing was wrong, or all that was wrong is mended.
_MENDED = (0, 1)


def grow(raw: Path, size: int) -> bool:
    """Make a raw disk ``size`` bytes large, and its root take up what comes to it.

    Return False where that cannot be done, and leave the disk as it is: without a GPT, with another
    partition behind the root, with a file system that is none of ext2's family.
    """
    root = _growing(raw)
    if root is None:
        return False
    os.truncate(raw, size)
    process.run(
        ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "-N", str(root.number), raw],
        stdin=", +\n",
    )
    _grow_file_system(raw, PartitionTable.read(raw).root)
    return True


def _growing(raw: Path) -> Partition | None:
    """Return the partition of a root that has nothing behind it."""
    try:
        table = PartitionTable.read(raw)
        root = table.root
    except CommandError:
        return None
    last = max(table.partitions, key=lambda part: part.start)
    return root if table.kind == "gpt" and last == root and RootFileSystem.find(raw) else None


def _grow_file_system(raw: Path, part: Partition) -> None:
    """Grow the file system in a partition.

    In a file of its own: resize2fs takes an offset, and then cuts the file off at the length of the
    file system, as if there were none.
    """
    alone = raw.with_name(f"{raw.name}.root")
    try:
        with alone.open("xb") as file:
            file.truncate(part.size)
        _copy(raw, alone, part.start, 0, part.size)
        argv: list[str | Path] = ["e2fsck", "-f", "-p", alone]
        checked = process.run(argv, check=False)
        if checked.status not in _MENDED:
            raise process.failure(argv, checked.status, checked.stdout + checked.stderr)
        process.run(["resize2fs", alone])
        _copy(alone, raw, 0, part.start, part.size)
    finally:
        alone.unlink(missing_ok=True)


def _copy(source: Path, target: Path, at: int, to: int, length: int) -> None:
    """Copy what is no hole from a place in one file to a place in another."""
    with source.open("rb", buffering=0) as read, target.open("r+b", buffering=0) as write:
        for start, end in data(read.fileno(), at, at + length):
            os.pwrite(write.fileno(), os.pread(read.fileno(), end - start, start), start - at + to)
