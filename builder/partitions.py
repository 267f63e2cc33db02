"""Where the file systems of a raw disk lie, and what the root holds, without mounting anything.

The programs of e2fsprogs open a file system in the middle of a file; so nothing here needs root.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import process
from builder.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# Type 83, and the discoverable types of an x86-64 root.
_ROOT_TYPES = ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "83")
# Where ext2 and its successors have their magic number, from the file system's start.
_MAGIC_AT, _MAGIC = 1024 + 56, b"\x53\xef"
_CHUNK = 4 << 20
# What debugfs lists of a file: /inode/mode/uid/gid/name/size/, where a mode begins with the kind.
# The first one of a folder is the folder itself.
_ROW = re.compile(
    r"^/(?P<inode>[1-9]\d*)/(?P<kind>\d\d)\d{4}/\d+/\d+/(?P<name>[^/\n]+)/(?P<size>\d*)/$",
    re.MULTILINE,
)
_FILE, _FOLDER = "10", "04"


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a raw disk; ``start`` and ``size`` are in bytes."""

    number: int
    start: int
    size: int
    type: str
    uuid: str
    name: str


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """The partitions of a raw disk, and of which kind their table is: ``gpt`` or ``dos``."""

    raw: Path
    kind: str
    partitions: tuple[Partition, ...]

    @classmethod
    def read(cls, raw: Path) -> PartitionTable:
        """Read a raw disk's table with sfdisk."""
        found = json.loads(process.run(["sfdisk", "--json", raw]).stdout)["partitiontable"]
        sector = found.get("sectorsize", 512)
        partitions = tuple(
            Partition(
                number=int(re.findall(r"\d+$", part["node"])[0]),
                start=part["start"] * sector,
                size=part["size"] * sector,
                type=part["type"].upper(),
                uuid=part.get("uuid", ""),
                name=part.get("name", ""),
            )
            for part in found.get("partitions", ())
        )
        return cls(raw, found["label"], partitions)

    @property
    def root(self) -> Partition:
        """The root's partition: the largest one for Linux."""
        roots = [part for part in self.partitions if part.type in _ROOT_TYPES]
        if not roots:
            raise CommandError(f"{self.raw} has no Linux root partition")
        return max(roots, key=lambda part: part.size)


def root_partition(raw: Path) -> tuple[int, int]:
    """Return where the root file system starts and how long it is, in bytes."""
    root = PartitionTable.read(raw).root
    return root.start, root.size


@dataclass(frozen=True, slots=True)
class RootFileSystem:
    """The root file system in a raw disk, read with e2fsprogs."""

    raw: Path
    start: int

    @classmethod
    def find(cls, raw: Path) -> RootFileSystem | None:
        """Return the root file system of a raw disk; None where it has none of ext2's family."""
        try:
            start, _ = root_partition(raw)
        except CommandError:
            return None
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

    def copy(self, folders: Iterable[str], target: Path) -> None:
        """Copy folders, with all below them, to where they stand below ``target``."""
        commands = []
        for folder in folders:
            place = target / folder.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            commands.append(f'rdump "{folder}" "{place.parent}"')
        # It complains of folders that are not there, and of owners that only root may give.
        self._tell(commands)

    def copy_small(self, folders: Iterable[str], target: Path, *, below: int) -> None:
        """Copy the files below folders that are smaller than ``below`` bytes, and no links.

        What has gigabytes of libraries is copied in a moment so.
        """
        commands = []
        for path, inode in self._small(folders, below):
            place = target / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            commands.append(f"dump <{inode}> {_quoted(place)}")
        self._tell(commands)

    def _small(self, folders: Iterable[str], below: int) -> Iterator[tuple[str, str]]:
        """Yield path and inode of files, level by level: one call asks about a whole level."""
        told = ((folder, self._ask(f"ls -p {_quoted(folder)}")) for folder in folders)
        waiting = {row["inode"]: folder for folder, said in told for row in _own_row(said)}
        while waiting:
            deeper = {}
            for path, row in self._listed(waiting):
                if row["kind"] == _FOLDER:
                    deeper[row["inode"]] = path
                elif row["kind"] == _FILE and int(row["size"]) < below:
                    yield path, row["inode"]
            waiting = deeper

    def _listed(self, folders: Mapping[str, str]) -> Iterator[tuple[str, re.Match[str]]]:
        """Yield what is in folders, given by their inodes: each path with what is said of it."""
        folder = ""
        for row in _ROW.finditer(self._tell(f"ls -p <{inode}>" for inode in folders)):
            if row["name"] == ".":
                folder = folders[row["inode"]]
            elif row["name"] != "..":
                yield f"{folder}/{row['name']}", row

    def owner(self, offset: int) -> str | None:
        """Return the path of the file that has a byte of the raw disk; None where none has it."""
        block = (offset - self.start) // self._block_size()
        inode = re.search(rf"^{block}\t(\d+)$", self._ask(f"icheck {block}"), re.MULTILINE)
        if block < 0 or not inode:
            return None
        named = re.search(rf"^{inode[1]}\t(.+)$", self._ask(f"ncheck {inode[1]}"), re.MULTILINE)
        return named[1] if named else None

    def _block_size(self) -> int:
        told = process.run(["dumpe2fs", "-h", self.name]).stdout
        return int(re.findall(r"^Block size: +(\d+)$", told, re.MULTILINE)[0])

    def free(self) -> list[tuple[int, int]]:
        """Return where the blocks lie that no file has, as offsets in the raw disk: from, to."""
        told = process.run(["dumpe2fs", self.name]).stdout
        size = int(re.findall(r"^Block size: +(\d+)$", told, re.MULTILINE)[0])
        listed = re.findall(r"^  Free blocks: (.*)$", told, re.MULTILINE)
        spans = (span.partition("-") for line in listed for span in line.split(", ") if span)
        return [
            (self.start + int(first) * size, self.start + (int(last or first) + 1) * size)
            for first, _, last in spans
        ]

    def held_where_free(self) -> Iterator[tuple[int, int]]:
        """Yield where blocks that no file has hold something, as offsets in the raw disk."""
        with self.raw.open("rb", buffering=0) as file:
            for first, last in self.free():
                for start, end in data(file.fileno(), first, last):
                    if os.pread(file.fileno(), end - start, start).strip(b"\0"):
                        yield start, end

    def zero_what_is_free(self) -> int:
        """Write zeros where blocks that no file has hold something; return how many bytes.

        Nobody else may have the file system open.
        """
        written = 0
        with self.raw.open("r+b", buffering=0) as file:
            for start, end in self.held_where_free():
                written += os.pwrite(file.fileno(), bytes(end - start), start)
            os.fsync(file.fileno())
        return written

    def _tell(self, commands: Iterable[str]) -> str:
        return process.run(["debugfs", self.name], stdin="\n".join(commands) + "\n").stdout

    def _ask(self, request: str) -> str:
        # Its status is 0 whatever happens, and complaints go to stderr.
        return process.run(["debugfs", "-R", request, self.name]).stdout


def _own_row(listing: str) -> Iterator[re.Match[str]]:
    """Yield what a listing says of the folder itself; nothing where there is none."""
    yield from (row for row in _ROW.finditer(listing) if row["name"] == ".")


def _quoted(path: str | Path) -> str:
    """Return a path as debugfs reads it whole."""
    return '"' + str(path).replace('"', '""') + '"'


def data(descriptor: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield what a file has between two offsets, without its holes, in pieces that fit memory."""
    while first < last:
        try:
            start = os.lseek(descriptor, first, os.SEEK_DATA)
        except OSError:  # a hole up to the end
            return
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), last)
        for piece in range(start, end, _CHUNK):
            yield piece, min(piece + _CHUNK, end)
        first = max(end, start)
