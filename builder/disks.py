"""Everything that ``qemu-img`` does for us: overlays, checks, flat compressed copies."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder import process
from builder.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

LEAST_FREE = 1 << 30
"""Bytes without which no build begins."""

_RELEASED_CLUSTER = "256K"


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """What a disk is: sizes in bytes, and the file it stands on, as its header says it."""

    format: str
    virtual_bytes: int
    file_bytes: int
    backing: str | None


def info(disk: Path) -> DiskInfo:
    """Read a disk's header. Shared: the disk may be in use."""
    text = process.run(["qemu-img", "info", "--force-share", "--output=json", disk]).stdout
    found: dict[str, Any] = json.loads(text)
    return DiskInfo(
        format=found["format"],
        virtual_bytes=found["virtual-size"],
        file_bytes=found["actual-size"],
        backing=found.get("backing-filename"),
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """What a QCOW2 is inside: how its clusters are kept, and how many snapshots it has."""

    compression: str
    compressed: int
    allocated: int
    leaked: int
    snapshots: int


def shape(disk: Path) -> Shape:
    """Read all of a QCOW2's own structures."""
    told = json.loads(process.run(["qemu-img", "info", "--output=json", disk]).stdout)
    check = process.run(["qemu-img", "check", "--output=json", disk], check=False)
    counted = json.loads(check.stdout)
    return Shape(
        compression=told["format-specific"]["data"].get("compression-type", "zlib"),
        compressed=counted.get("compressed-clusters", 0),
        allocated=counted.get("allocated-clusters", 0),
        leaked=counted.get("leaks", 0),
        snapshots=len(told.get("snapshots", [])),
    )


def backing_in_header(disk: Path) -> str | None:
    """Return the name of what a QCOW2 stands on, from its header; starts no program."""
    with disk.open("rb") as file:
        magic, _, offset, length = struct.unpack(">4sIQI", file.read(20).ljust(20, b"\0"))
        if magic != b"QFI\xfb" or not offset:
            return None
        file.seek(offset)
        return file.read(length).decode()


def depth(disk: Path, *, below: Path) -> int:
    """Return how many layers a disk has above the disk ``below``, itself included."""
    text = process.run([
        "qemu-img", "info", "--force-share", "--backing-chain", "--output=json", disk,
    ], cwd=disk.parent).stdout  # fmt: skip
    names = [(disk.parent / each["filename"]).resolve() for each in json.loads(text)]
    return names.index(below.resolve()) if below.resolve() in names else len(names)


def make_overlay(parent: str | Path, disk: Path) -> None:
    """Make an empty QCOW2 at ``disk`` that reads from ``parent``.

    A relative ``parent`` is taken from the folder of ``disk``, now and whenever it is opened: a
    store of relative chains can be moved. Reads that miss an overlay look into its parent, so big
    clusters would copy more than was written; the default of 64 KiB holds.
    """
    process.run([
        "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", parent, disk.name,
    ], cwd=disk.parent)  # fmt: skip


def make_layer(backing: str, layer: Path, *, size: int) -> None:
    """Make an empty QCOW2 of ``size`` bytes on a disk that will be at ``backing``, but is not yet.

    For the layer that a running disk is given: what it stands on gets its place afterwards.
    """
    process.run([
        "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing,
        layer, str(size),
    ])  # fmt: skip


def import_raw(raw: Path, disk: Path) -> None:
    """Copy a raw disk into a new QCOW2, leaving out what is zero."""
    process.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk])


def import_image(image: Path, disk: Path, *, size: int) -> None:
    """Copy a disk of any format into a new QCOW2 of at least ``size`` bytes."""
    process.run(["qemu-img", "convert", "-O", "qcow2", image, disk])
    if info(disk).virtual_bytes < size:
        process.run(["qemu-img", "resize", "-q", disk, str(size)])


def check(disk: Path) -> None:
    """Raise :class:`StoreError` when the QCOW2's own structures are damaged.

    A flipped bit in the data is not seen here; only a digest sees that.
    """
    done = process.run(["qemu-img", "check", "-q", disk], check=False)
    if done.status:
        said = (done.stderr or done.stdout).strip()
        raise StoreError(f"{disk} is damaged: {said}", hint="see the log of the run that made it")


def flatten(disk: Path, target: Path, *, compression: str) -> None:
    """Write ``disk`` with all it stands on to one compressed QCOW2.

    ``compression`` is ``zstd`` or ``zlib``. Without ``-W`` the result is the same byte for byte
    each time; with it no two are alike. Each cluster is compressed by itself: larger ones give a
    smaller file, written in half the time, and make a scattered read dearer (docs/publishing.md).
    """
    process.run([
        "qemu-img", "convert", "-c", "-m", "8",
        "-O", "qcow2",
        "-o", f"compression_type={compression},cluster_size={_RELEASED_CLUSTER}",
        disk, target,
    ])  # fmt: skip


def unpack(disk: Path, raw: Path) -> None:
    """Write ``disk`` to a raw file with holes where it is zero."""
    process.run(["qemu-img", "convert", "-O", "raw", disk, raw])


def name_backing(disk: Path, parent: str) -> None:
    """Let an overlay call its parent ``parent``; it must be the same disk as before."""
    if info(disk).backing != parent:
        process.run([
            "qemu-img", "rebase", "-q", "-u", "-F", "qcow2", "-b", parent, disk.name,
        ], cwd=disk.parent)  # fmt: skip


def merge(disk: Path, parent: str) -> None:
    """Let ``disk`` stand on ``parent``, deeper in its chain, by copying what lies between."""
    process.run([
        "qemu-img", "rebase", "-q", "-F", "qcow2", "-b", parent, disk.name,
    ], cwd=disk.parent)  # fmt: skip
