"""Images and checkpoints on disk: found by key, committed by one rename, never changed after.

::

    cache/var/images/<key>/          disk.qcow2  record.json  logs/
    cache/var/checkpoints/<key>/     disk.qcow2  record.json
    cache/var/images/.staging-*/     a build in progress; one that nobody holds is garbage
    cache/var/quarantine/            what did not match its record, kept as evidence
    cache/var/latest/<variant>/      per stage: the key it had last
    cache/var/verdicts/<key>/        what checks said about an image
    cache/var/locks/                 one file per key, never removed

Each disk is an overlay that reads from another: an image from its stage's last checkpoint but one,
a checkpoint from the one before it, the first from the parent's image. So they share their bytes.
A backing file is named relative to the overlay (``../../images/<key>/disk.qcow2``), so a store can
be moved; a staging folder lies as deep as an image, so the name holds before and after the rename.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import files
from builder.digest import digest_file
from builder.errors import StoreError
from builder.record import BuildRecord, read_record
from builder.scratch import abandoned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_log = logging.getLogger(__name__)
DISK = "disk.qcow2"
_IMAGES = "images"
_CHECKPOINTS = "checkpoints"
_RECORD = "record.json"
_STAGING = ".staging-"


@dataclass(frozen=True, slots=True)
class Image:
    """A stage's finished disk in the store, or (where its record names a role) a checkpoint."""

    folder: Path
    record: BuildRecord

    @property
    def disk(self) -> Path:
        """The QCOW2 file."""
        return self.folder / DISK

    @property
    def key(self) -> str:
        """The key it was found by."""
        return self.record.key

    @property
    def place(self) -> str:
        """Where it lies in the store: ``images/<key>`` or ``checkpoints/<key>``."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def backing(self) -> str:
        """The name by which an overlay elsewhere in the store refers to this disk."""
        return backing_name(self.place)


def backing_name(place: str) -> str:
    """Return how an overlay refers to the disk at ``place``, which need not be there yet."""
    return f"../../{place}/{DISK}"


def stands_on(record: BuildRecord) -> str | None:
    """Return the place of what a disk reads from; None for the root's source."""
    if record.checkpoint:
        return f"{_CHECKPOINTS}/{record.checkpoint}"
    return f"{_IMAGES}/{record.parent}" if record.parent else None


def place_of(record: BuildRecord) -> str:
    """Return the place that a record's disk has in the store."""
    return f"{_CHECKPOINTS if record.role else _IMAGES}/{record.key}"


class Store:
    """The images and checkpoints below one folder, ``cache/var``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._images = root / _IMAGES
        self._trusted: set[str] = set()

    def find(self, key: str) -> Image | None:
        """Return the image named ``key``; None when there is none, or none that can be trusted.

        Cheap: the record must be readable and the disk must have its size. What is in the way of a
        later build is moved to quarantine, with a warning.
        """
        return self._find(f"{_IMAGES}/{key}")

    def checkpoint(self, key: str) -> Image | None:
        """Return the checkpoint named ``key``, as :meth:`find` returns an image."""
        return self._find(f"{_CHECKPOINTS}/{key}")

    def _find(self, place: str) -> Image | None:
        folder = self.root / place
        if not folder.is_dir():
            return None
        record, reason = read_record(folder / _RECORD)
        if record is None:
            self._quarantine(folder, reason or "unreadable record")
            return None
        if place_of(record) != place:
            self._quarantine(folder, f"its record is of another, {_short(place_of(record))}")
            return None
        below = stands_on(record)
        if below and not (self.root / below).is_dir():
            self._quarantine(folder, f"what it stands on is gone, {_short(below)}")
            return None
        disk = folder / DISK
        size = disk.stat().st_size if disk.exists() else 0
        if size != record.disk.bytes:
            reason = f"{DISK} has {size} bytes, its record says {record.disk.bytes}"
            self._quarantine(folder, reason)
            return None
        return Image(folder, record)

    def verified(self, key: str) -> Image:
        """Return the image named ``key`` after reading all its bytes, and all it stands on.

        What this store committed or verified since it was opened is not read again. Raises
        :class:`StoreError` when a byte differs from the record; the disk in question is then in
        quarantine and a next run builds it again.
        """
        return self._verified(f"{_IMAGES}/{key}")

    def verified_checkpoint(self, key: str) -> Image:
        """Return the checkpoint named ``key``, as :meth:`verified` returns an image."""
        return self._verified(f"{_CHECKPOINTS}/{key}")

    def _verified(self, place: str) -> Image:
        image = self._find(place)
        if image is None:
            raise StoreError(f"{_short(place)} is not in the store", hint="run the command again")
        if below := stands_on(image.record):
            self._verified(below)
        if place in self._trusted:
            return image
        found = digest_file(image.disk)
        if found != image.record.disk.sha256:
            wanted = image.record.disk.sha256
            self._quarantine(
                image.folder, f"SHA-256 is {found[:12]}, its record says {wanted[:12]}"
            )
            raise StoreError(
                f"{_short(place)} of stage {image.record.stage} was damaged after it was built",
                hint="it is in quarantine; run the command again to build it anew",
            )
        self._trusted.add(place)
        return image

    @contextlib.contextmanager
    def locked(self, key: str, *, waiting: Callable[[str], None] | None = None) -> Iterator[int]:
        """Hold the right to build ``key``; yield the lock's descriptor, for programs we start."""
        with files.lock(self.root / "locks" / f"{key}.lock", waiting=waiting) as descriptor:
            yield descriptor

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a fresh folder beside the images; it is removed unless it was committed."""
        self._images.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{_STAGING}{os.getpid()}-", dir=self._images))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, staged: Path, record: BuildRecord, *, replace: bool = False) -> Image:
        """Make ``staged`` the image or checkpoint of ``record``, durably, in one rename.

        With ``replace``, what is there and all that stands on it give way: an overlay on other
        bytes than those it was made on is no disk.
        """
        place = place_of(record)
        (staged / DISK).chmod(0o444)
        files.write_json(staged / _RECORD, record.to_json())
        if replace and (self.root / place).exists():
            self.discard(place)
        files.commit(staged, self.root / place)
        image = self._find(place)
        if image is None:
            raise StoreError(f"{_short(place)} vanished while it was committed")
        self._trusted.add(place)
        return image

    def discard(self, place: str) -> None:
        """Remove what is at ``place`` and all that stands on it, the furthest first."""
        for image in [each for each in self.entries() if stands_on(each.record) == place]:
            self.discard(image.place)
        self._trusted.discard(place)
        folder = self.root / place
        if folder.exists():
            trash = self._images / f"{_STAGING}{os.getpid()}-discard-{folder.name[:12]}"
            folder.rename(trash)
            shutil.rmtree(trash)

    def all(self) -> Iterator[Image]:
        """Yield every image that can be trusted."""
        return self._all(_IMAGES)

    def entries(self) -> Iterator[Image]:
        """Yield every image and every checkpoint that can be trusted."""
        yield from self._all(_IMAGES)
        yield from self._all(_CHECKPOINTS)

    def _all(self, kind: str) -> Iterator[Image]:
        for folder in sorted((self.root / kind).glob("[0-9a-f]*")):
            if image := self._find(f"{kind}/{folder.name}"):
                yield image

    def remember(self, variant: str, stage: str, documents: Sequence[Mapping[str, Any]]) -> None:
        """Note what ``stage`` was made from last, for a later plan to compare with."""
        noted = [dict(document) for document in documents]
        if noted != self.last(variant, stage):
            files.write_json(self._latest(variant, stage), noted, durable=False)

    def last(self, variant: str, stage: str) -> list[dict[str, Any]] | None:
        """Return what :meth:`remember` noted; None when nothing readable is there."""
        try:
            found: list[dict[str, Any]] = json.loads(self._latest(variant, stage).read_text())
        except (OSError, ValueError):
            return None
        return found

    def sweep(self) -> None:
        """Remove the staging folders of processes that are gone."""
        for folder in self._images.glob(f"{_STAGING}*"):
            if abandoned(folder.name.removeprefix(_STAGING)):
                shutil.rmtree(folder, ignore_errors=True)

    def _latest(self, variant: str, stage: str) -> Path:
        return self.root / "latest" / variant / f"{stage}.json"

    def _quarantine(self, folder: Path, reason: str) -> None:
        place = self.root / "quarantine" / f"{time.strftime('%Y%m%dT%H%M%S')}-{folder.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        where = _short(f"{folder.parent.name}/{folder.name}")
        _log.warning("%s moved to %s: %s", where, place, reason)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(place)
        self._trusted.discard(f"{folder.parent.name}/{folder.name}")
        # What stood on it is sound, but no rebuilt parent will have the same bytes below it:
        # looking at all finds those that stand on nothing, and they follow.
        for _ in self.entries():
            pass


def _short(place: str) -> str:
    """Return a place as a person reads it: ``image 0123456789ab``."""
    kind, _, key = place.partition("/")
    return f"{kind.removesuffix('s')} {key[:12]}"
