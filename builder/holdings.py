"""What the store holds, and what each part of it takes: looked up without changing anything.

Images and checkpoints stand on each other; the rest (logs, quarantine, staging, what failed runs
kept, verdicts, compiled kernel modules) stands alone. Bytes are those that a disk really takes:
disks have holes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from builder import disks, scratch
from builder.digest import digest_document, short
from builder.store import DISK, Image, stands_on

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from builder.store import Store

Kind = Literal[
    "image",
    "checkpoint",
    "broken",
    "staging",
    "quarantine",
    "logs",
    "failed",
    "verdicts",
    "modules",
]
KINDS_ALONE: tuple[Kind, ...] = (
    "quarantine",
    "staging",
    "logs",
    "failed",
    "verdicts",
    "modules",
    "broken",
)
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the store: an image, a checkpoint, or something that stands alone.

    ``place`` is its path in the store, absolute where it is outside, ``below`` the place that its
    disk reads from. ``created`` and ``used`` are seconds since 1970. ``held``: somebody works with
    it at this moment. ``broken`` tells, of the kind of that name, why it does not count.
    """

    place: str
    kind: Kind
    bytes: int
    used: float
    created: float = 0.0
    key: str = ""
    variant: str = ""
    stage: str = ""
    role: str | None = None
    below: str | None = None
    held: bool = False
    broken: str = ""

    @property
    def is_layer(self) -> bool:
        """Whether it is an image or a checkpoint."""
        return self.kind in {"image", "checkpoint"}

    def __str__(self) -> str:
        return f"{self.kind} {short(self.key)} of {self.stage}" if self.is_layer else self.place


def survey(store: Store, releases: Path | None = None) -> tuple[Entry, ...]:
    """Return everything that the store holds.

    And what is being published to the folder ``releases``, or was when its run was killed.
    """
    published = scratch.staging_folders(releases) if releases else []
    return (
        *(_layer(store, place, found) for place, found in store.survey()),
        *(_staging(store, folder) for folder in (*store.staging_folders(), *published)),
        *(_alone(store, "quarantine", folder) for folder in _below(store, "quarantine")),
        *(_alone(store, "logs", folder) for folder in _below(store, "logs") if folder.is_dir()),
        *(_failed(store, folder) for folder in _below(store, "failed")),
        *(_alone(store, "verdicts", folder) for folder in _below(store, "verdicts")),
        *(_module(store, path) for path in _below(store, "modules")),
    )


def made_last(store: Store) -> frozenset[str]:
    """Return the places of the images that each stage of each variant had last, sources too.

    A variant may share its image with another, whose name the record has.
    """
    return frozenset(
        f"images/{digest_document(document)}"
        for documents in store.remembered()
        for document in documents
        if document is documents[-1] or document.get("kind") == "source"
    )


def own_bytes(path: Path) -> int:
    """Return the bytes that a file, or a folder with all that is in it, takes on the disk."""
    found = _blocks(path)
    for root, folders, names in os.walk(path):
        found += sum(_blocks(Path(root, name)) for name in (*folders, *names))
    return found * _BLOCK


def chain(entry: Entry, layers: Mapping[str, Entry]) -> Iterator[Entry]:
    """Yield what an entry's disk reads from, the nearest first; ``layers`` are by place."""
    while below := layers.get(entry.below or ""):
        yield below
        entry = below


def last_change(path: Path) -> float:
    """Return when a folder, or a file anywhere in it, last changed; 0 when it is not there."""
    times = [_modified(path)]
    for root, _, names in os.walk(path):
        times += [_modified(Path(root, name)) for name in names]
    return max(times)


# --- one of each kind -----------------------------------------------------------------------------


def _layer(store: Store, place: str, found: Image | str) -> Entry:
    folder, key = store.root / place, place.rpartition("/")[2]
    held, size = store.is_locked(key), own_bytes(folder)
    if not isinstance(found, Image):
        changed = max(last_change(folder), store.last_locked(key))
        return Entry(place, "broken", size, changed, changed, key, held=held, broken=found)
    record = found.record
    created = _seconds(record.created)
    used = max(created, store.last_locked(key), last_change(store.root / "verdicts" / key))
    return Entry(
        place=place,
        kind="checkpoint" if record.role else "image",
        bytes=size,
        used=used,
        created=created,
        key=key,
        variant=record.variant,
        stage=record.stage,
        role=record.role,
        below=stands_on(record),
        held=held,
    )


def _staging(store: Store, folder: Path) -> Entry:
    used = last_change(folder)
    held = not scratch.is_staging_abandoned(folder)
    return Entry(_place(store, folder), "staging", own_bytes(folder), used, held=held)


def _failed(store: Store, folder: Path) -> Entry:
    """Return the disk of a failed run; it reads from a checkpoint, or from the parent's image."""
    disk, below = folder / DISK, None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if name := disks.backing_in_header(disk):
            below = _place_of_disk(store, disk, name)
    return Entry(
        place=_place(store, folder),
        kind="failed",
        bytes=own_bytes(folder),
        used=max(last_change(folder), store.last_locked(f"failed-{folder.name}")),
        key=f"failed-{folder.name}",
        below=below,
        held=store.is_locked(f"failed-{folder.name}"),
    )


def _place_of_disk(store: Store, overlay: Path, name: str) -> str | None:
    """Return the place in the store of the disk that an overlay calls ``name``."""
    real, root = (overlay.parent / name).resolve(), store.root.resolve()
    return str(real.relative_to(root).parent) if real.is_relative_to(root) else None


def _alone(store: Store, kind: Kind, folder: Path) -> Entry:
    key = folder.name if kind == "verdicts" else ""
    return Entry(_place(store, folder), kind, own_bytes(folder), last_change(folder), key=key)


def _module(store: Store, path: Path) -> Entry:
    """Return a kernel module that a role compiled; a build that takes it only reads the file."""
    used = max(_modified(path), _read(path))
    return Entry(_place(store, path), "modules", own_bytes(path), used)


def _place(store: Store, folder: Path) -> str:
    """Return what a folder is called: its path in the store, or all of it where it is outside."""
    inside = folder.is_relative_to(store.root)
    return str(folder.relative_to(store.root) if inside else folder)


def _below(store: Store, name: str) -> list[Path]:
    return sorted((store.root / name).glob("*"))


def _blocks(path: Path) -> int:
    # Others work in the store meanwhile: what is gone by now takes nothing.
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_blocks
    return 0


def _modified(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_mtime
    return 0.0


def _read(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_atime
    return 0.0


def _seconds(created: str) -> float:
    """Return a record's time as a number; what is no time is long ago."""
    try:
        return dt.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0


# --- summed up ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Amount:
    """How many, and what they take."""

    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StageShare:
    """What a stage of a variant has in the store; ``current`` are the images runs would use."""

    variant: str
    stage: str
    images: Amount
    checkpoints: Amount
    old: Amount
    current: tuple[Entry, ...]


def amount(entries: Iterable[Entry]) -> Amount:
    """Count entries and add up their bytes."""
    found = list(entries)
    return Amount(len(found), sum(entry.bytes for entry in found))


def shares(entries: Sequence[Entry], current: Container[str]) -> tuple[StageShare, ...]:
    """Sum up images and checkpoints by variant and stage.

    ``current`` are the places of what runs would use; that, and what it stands on, is not old.
    """
    layers = {entry.place: entry for entry in entries if entry.is_layer}
    roots = [entry for entry in layers.values() if entry.place in current]
    fresh = {entry.place for root in roots for entry in (root, *chain(root, layers))}
    names = dict.fromkeys((entry.variant, entry.stage) for entry in layers.values())
    return tuple(
        _share(
            [each for each in layers.values() if (each.variant, each.stage) == name],
            current,
            fresh,
        )
        for name in sorted(names, key=lambda name: _rank(name, layers.values()))
    )


def _share(entries: Sequence[Entry], current: Container[str], fresh: Container[str]) -> StageShare:
    images = [entry for entry in entries if entry.kind == "image"]
    return StageShare(
        entries[0].variant,
        entries[0].stage,
        amount(images),
        amount(entry for entry in entries if entry.kind == "checkpoint"),
        amount(entry for entry in entries if entry.place not in fresh),
        tuple(image for image in images if image.place in current),
    )


def _rank(name: tuple[str, str], layers: Iterable[Entry]) -> tuple[str, float]:
    """Order stages as they are built, by what was made first."""
    return name[0], min(each.created for each in layers if (each.variant, each.stage) == name)


def to_json(
    entries: Sequence[Entry], current: Container[str], *, known: bool, root: Path
) -> dict[str, Any]:
    """Return what ``cache status --json`` tells of the store."""
    layers = {entry.place: entry for entry in entries if entry.is_layer}
    alone = {kind: [each for each in entries if each.kind == kind] for kind in KINDS_ALONE}
    return {
        "stages": [_share_json(share) for share in shares(entries, current)],
        "entries": [_layer_json(entry, layers, current) for entry in layers.values()],
        **{kind: _amount_json(amount(found)) for kind, found in alone.items()},
        "current_known": known,
        "total_bytes": amount(entries).bytes,
        "free_bytes": free_bytes(root),
    }


def free_bytes(root: Path) -> int:
    """Return what the store's file system has left."""
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    return shutil.disk_usage(place).free


def _share_json(share: StageShare) -> dict[str, Any]:
    return {
        "variant": share.variant,
        "stage": share.stage,
        "images": _amount_json(share.images),
        "checkpoints": _amount_json(share.checkpoints),
        "old": _amount_json(share.old),
        "current": [entry.key for entry in share.current],
    }


def _layer_json(
    entry: Entry, layers: Mapping[str, Entry], current: Container[str]
) -> dict[str, Any]:
    names = ("kind", "key", "variant", "stage", "role", "bytes", "below")
    return {
        **{name: getattr(entry, name) for name in names},
        "chain_bytes": amount(chain(entry, layers)).bytes,
        "created": round(entry.created),
        "used": round(entry.used),
        "current": entry.place in current,
    }


def _amount_json(found: Amount) -> dict[str, int]:
    return {"count": found.count, "bytes": found.bytes}
