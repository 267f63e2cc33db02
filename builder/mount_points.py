"""What a system mounts below its root from partitions of the same disk, by its fstab and the GPT.

Ubuntu's cloud images have ``/boot`` on a partition of its own: a kernel that is installed while the
root alone is mounted lies below the place where the boot loader looks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import process
from builder.partitions import PartitionTable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.partitions import Partition

BOOT = "/boot"
# What is frozen with the root for a checkpoint, or is written at once.
_MOUNTED = (BOOT, "/boot/efi", "/efi")
# https://uapi-group.org/specifications/specs/discoverable_partitions_specification/
_XBOOTLDR = "BC13C2FF-59E6-4262-A352-B275FD6F7172"
# What udev calls a partition by one of its names, as installers write it.
_LINK = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)")
_LEAST_FIELDS = 4


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A file system of a raw disk and where it belongs below the root."""

    path: str
    kind: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of an fstab; one that is ``optional`` may be left out of a boot."""

    what: str
    path: str
    optional: bool


def mount_points(raw: Path, root: Path) -> list[MountPoint]:
    """Return which file systems of a disk belong to a root's ``/boot``, the outer one first."""
    table = PartitionTable.read(raw)
    found = _found(root, table)
    if BOOT not in found and (part := _by_type(table, root)):
        found[BOOT] = part
    return [
        MountPoint(path, _tags(raw, part).get("TYPE", "auto"), part.start, part.size)
        for path, part in sorted(found.items())
        if path in _MOUNTED
    ]


def missing(raw: Path, root: Path) -> str | None:
    """Return what a system mounts that :func:`mount_points` has not; None where that is nothing.

    In a container it would write below the place of it, and a checkpoint would be without it.
    """
    found = _found(root, PartitionTable.read(raw))
    for entry in _entries(root):
        where = f"/etc/fstab mounts {entry.path} from {entry.what}"
        if entry.path == BOOT and BOOT not in found and not entry.optional:
            return f"{where}, which is not on the disk"
        if entry.path in found and entry.path not in _MOUNTED:
            return f"{where}, and a container mounts {BOOT} alone: build it with --engine qemu"
    return None


def _found(root: Path, table: PartitionTable) -> dict[str, Partition]:
    """Return the partitions that a root's fstab names, by where they belong."""
    named = ((entry.path, _partition(entry, table)) for entry in _entries(root))
    return {path: part for path, part in named if part}


def _entries(root: Path) -> Iterator[_Entry]:
    """Yield the file systems below a root that a boot mounts by its fstab."""
    fstab = root / "etc/fstab"
    for line in fstab.read_text().splitlines() if fstab.is_file() else ():
        fields = [_plain(field) for field in line.split()]
        if line.lstrip().startswith("#") or len(fields) < _LEAST_FIELDS:
            continue
        what, path, _, options = fields[:_LEAST_FIELDS]
        path, told = path.rstrip("/"), options.split(",")
        if path.startswith("/") and "noauto" not in told:
            yield _Entry(what, path, "nofail" in told)


def _plain(field: str) -> str:
    r"""Return a field with what stands as ``\040`` as it is meant."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _partition(entry: _Entry, table: PartitionTable) -> Partition | None:
    """Return the partition that a line of an fstab means, by one of its four names."""
    link = _LINK.fullmatch(entry.what)
    name, _, value = entry.what.partition("=")
    name, value = (link[1].upper(), link[2]) if link else (name, value.strip('"'))
    return next((part for part in table.partitions if _named(part, name, value, table)), None)


def _named(part: Partition, name: str, wanted: str, table: PartitionTable) -> bool:
    if name == "PARTUUID":
        return part.uuid.lower() == wanted.lower()
    if name == "PARTLABEL":
        return part.name == wanted
    return name in {"LABEL", "UUID"} and _tags(table.raw, part).get(name) == wanted


def _tags(raw: Path, part: Partition) -> dict[str, str]:
    """Return what blkid reads of a partition's file system: its TYPE, LABEL, UUID."""
    argv = ["blkid", "--probe", "--offset", str(part.start), "--size", str(part.size)]
    done = process.run([*argv, "--output", "export", raw], check=False)
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {name: re.sub(r"\\(.)", r"\1", value) for name, _, value in pairs}


def _by_type(table: PartitionTable, root: Path) -> Partition | None:
    """Return the partition that systemd mounts at an empty ``/boot`` without being told."""
    folder = root / BOOT.lstrip("/")
    if folder.is_dir() and any(folder.iterdir()):
        return None
    return next((part for part in table.partitions if part.type == _XBOOTLDR), None)
