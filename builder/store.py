"""Images on disk: found by key, committed by one rename, never changed after.

::

    cache/var/images/<key>/          disk.qcow2  record.json  logs/
    cache/var/images/.staging-*/     a build in progress; one that nobody holds is garbage
    cache/var/quarantine/            what did not match its record, kept as evidence
    cache/var/latest/<variant>/      per stage: the key it had last
    cache/var/verdicts/<key>/        what checks said about an image
    cache/var/locks/                 one file per key, never removed

A backing file is named relative to the overlay (``../<key>/disk.qcow2``), so a store can be moved,
and a staging folder lies beside the images, so that the name holds before and after the rename.
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
_RECORD = "record.json"
_STAGING = ".staging-"


@dataclass(frozen=True, slots=True)
class Image:
    """A stage's finished disk in the store."""

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


class Store:
    """The images below one folder, ``cache/var``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._images = root / "images"
        self._trusted: set[str] = set()

    def find(self, key: str) -> Image | None:
        """Return the image named ``key``; None when there is none, or none that can be trusted.

        Cheap: the record must be readable and the disk must have its size. What is in the way of a
        later build is moved to quarantine, with a warning.
        """
        folder = self._images / key
        if not folder.is_dir():
            return None
        record, reason = read_record(folder / _RECORD)
        if record is None:
            self._quarantine(folder, reason or "unreadable record")
            return None
        if record.key != key:
            self._quarantine(folder, f"its record names another key, {record.key[:12]}")
            return None
        if record.parent and not (self._images / record.parent).is_dir():
            self._quarantine(folder, f"the image it stands on is gone, {record.parent[:12]}")
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
        :class:`StoreError` when a byte differs from the record; the image is then in quarantine
        and a next run builds it again.
        """
        image = self.find(key)
        if image is None:
            raise StoreError(f"image {key[:12]} is not in the store", hint="run the command again")
        if image.record.parent:
            self.verified(image.record.parent)
        if key in self._trusted:
            return image
        found = digest_file(image.disk)
        if found != image.record.disk.sha256:
            wanted = image.record.disk.sha256
            self._quarantine(
                image.folder, f"SHA-256 is {found[:12]}, its record says {wanted[:12]}"
            )
            raise StoreError(
                f"image {key[:12]} of stage {image.record.stage} was damaged after it was built",
                hint="it is in quarantine; run the command again to build it anew",
            )
        self._trusted.add(key)
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
        """Make ``staged`` the image ``record.key``, durably, in one rename.

        With ``replace``, an image of this key and all that stand on it give way: an overlay on
        other bytes than those it was made on is no disk.
        """
        (staged / DISK).chmod(0o444)
        files.write_json(staged / _RECORD, record.to_json())
        place = self._images / record.key
        if replace and place.exists():
            self.discard(record.key)
        files.commit(staged, place)
        image = self.find(record.key)
        if image is None:
            raise StoreError(f"image {record.key[:12]} vanished while it was committed")
        self._trusted.add(record.key)
        return image

    def discard(self, key: str) -> None:
        """Remove an image and all that stand on it, the furthest first."""
        self._discard_children(key)
        self._trusted.discard(key)
        folder = self._images / key
        if folder.exists():
            trash = self._images / f"{_STAGING}{os.getpid()}-discard-{key[:12]}"
            folder.rename(trash)
            shutil.rmtree(trash)

    def _discard_children(self, key: str) -> None:
        for image in self.all():
            if image.record.parent == key:
                self.discard(image.key)

    def all(self) -> Iterator[Image]:
        """Yield every image that can be trusted."""
        for folder in sorted(self._images.glob("[0-9a-f]*")):
            if image := self.find(folder.name):
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
        _log.warning("image %s moved to %s: %s", folder.name[:12], place, reason)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(place)
        self._trusted.discard(folder.name)
        # What stood on it is sound, but no rebuilt parent will have the same bytes below it:
        # looking at all images finds those without a parent, and they follow.
        for _ in self.all():
            pass
