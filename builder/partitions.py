"""Where the root file system of a raw disk lies, and what it holds, without mounting anything.

The programs of e2fsprogs open a file system in the middle of a file; so nothing here needs root.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import process
from builder.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

# Type 83, and the discoverable types of an x86-64 root.
_ROOT_TYPES = ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "83")
# Where ext2 and its successors have their magic number, from the file system's start.
_MAGIC_AT, _MAGIC = 1024 + 56, b"\x53\xef"


def root_partition(raw: Path) -> tuple[int, int]:
    """Return where the root file system starts and how long it is, in bytes."""
    table = json.loads(process.run(["sfdisk", "--json", raw]).stdout)["partitiontable"]
    sector = table.get("sectorsize", 512)
    roots = [part for part in table["partitions"] if part["type"].upper() in _ROOT_TYPES]
    if not roots:
        raise CommandError(f"{raw} has no Linux root partition")
    largest = max(roots, key=lambda part: int(part["size"]))
    return largest["start"] * sector, largest["size"] * sector


@dataclass(frozen=True, slots=True)
class RootFileSystem:
    """The root file system in a raw disk, read with e2fsprogs."""

    raw: Path
    start: int

    @classmethod
    def find(cls, raw: Path) -> RootFileSystem | None:
        """Return the root file system of a raw disk; None when it is not of ext2's family."""
        start, _ = root_partition(raw)
        with raw.open("rb") as file:
            file.seek(start + _MAGIC_AT)
            return cls(raw, start) if file.read(len(_MAGIC)) == _MAGIC else None

    @property
    def name(self) -> str:
        """What e2fsprogs call it."""
        return f"{self.raw}?offset={self.start}"

    def complaints(self) -> str:
        """Return what e2fsck says of a file system that is not as it should be; else nothing."""
        done = process.run(["e2fsck", "-fn", self.name], check=False)
        return (done.stdout + done.stderr).strip() if done.status else ""

    def read(self, path: str) -> str:
        """Return the text of a file; nothing where there is none."""
        return self._ask(f"cat {path}")

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none where there is no such folder."""
        entries = (line.split("/") for line in self._ask(f"ls -p {folder}").splitlines())
        return sorted(
            fields[5]
            for fields in entries
            if len(fields) > 5 and fields[5] not in {".", ".."}  # noqa: PLR2004 - /inode/mode/uid/gid/name/size/
        )

    def _ask(self, request: str) -> str:
        # Its status is 0 whatever happens, and complaints go to stderr.
        return process.run(["debugfs", "-R", request, self.name]).stdout
