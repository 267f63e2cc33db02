"""Images and checkpoints on disk: found by key, committed by one rename, never changed after.

::

    cache/var/images/<key>/          disk.qcow2  record.json  logs/
    cache/var/checkpoints/<key>/     disk.qcow2  record.json
    cache/var/images/.staging-*/     a build in progress; one that nobody holds is garbage
    cache/var/quarantine/<time>/     what did not match its record, kept as evidence
    cache/var/latest/<variant>/      per stage: the documents of the image it had last
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
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import files, scratch
from builder.digest import digest_document, digest_file
from builder.errors import StoreError
from builder.record import BuildRecord, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_log = logging.getLogger(__name__)
DISK = "disk.qcow2"
_IMAGES = "images"
_CHECKPOINTS = "checkpoints"
_RECORD = "record.json"


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
        self._below: dict[str, tuple[int, str | None]] = {}

    def find(self, key: str) -> Image | None:
        """Return the image named ``key``; None when there is none, or none that can be trusted.

        Cheap: the record must be readable and the disk must have its size. Nothing is changed: what
        cannot be trusted is told, and goes to quarantine when a build finds it in its way.
        """
        return self._find(f"{_IMAGES}/{key}")

    def checkpoint(self, key: str) -> Image | None:
        """Return the checkpoint named ``key``, as :meth:`find` returns an image."""
        return self._find(f"{_CHECKPOINTS}/{key}")

    def _find(self, place: str) -> Image | None:
        found = self._examine(place)
        if isinstance(found, Image):
            return found
        if found:
            _log.warning("%s does not count: %s", _short(place), found)
        return None

    def _examine(self, place: str) -> Image | str | None:
        """Return what is at ``place``, or the reason why it cannot be trusted; None if nothing."""
        folder = self.root / place
        if not folder.is_dir():
            return None
        record, reason = read_record(folder / _RECORD)
        if record is None:
            return reason or "unreadable record"
        if place_of(record) != place:
            return f"its record is of another, {_short(place_of(record))}"
        below = stands_on(record)
        if below and not (self.root / below).is_dir():
            return f"what it stands on is gone, {_short(below)}"
        disk = folder / DISK
        size = disk.stat().st_size if disk.exists() else 0
        if size != record.disk.bytes:
            return f"{DISK} has {size} bytes, its record says {record.disk.bytes}"
        return Image(folder, record)

    def clear(self, key: str) -> None:
        """Move what is in the way of building ``key`` to quarantine. Hold the lock of the key."""
        for place in (f"{_IMAGES}/{key}", f"{_CHECKPOINTS}/{key}"):
            if isinstance(reason := self._examine(place), str):
                self._quarantine(place, reason)

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
        wrong = self._wrong(image)
        if wrong:
            self._quarantine(place, wrong)
            raise StoreError(
                f"{_short(place)} of stage {image.record.stage} was damaged after it was built",
                hint="it is in quarantine; run the command again to build it anew",
            )
        self._trusted.add(place)
        return image

    def _wrong(self, image: Image) -> str | None:
        """Read a disk; return what is wrong with it."""
        wanted = image.record.disk.sha256
        if (found := digest_file(image.disk)) != wanted:
            return f"SHA-256 is {found[:12]}, its record says {wanted[:12]}"
        if not self._same_below(image.record):
            return "what it stands on is not what it was built on"
        return None

    def _same_below(self, record: BuildRecord) -> bool:
        """Whether the disk below has the bytes that this one was made on."""
        below = stands_on(record)
        if below is None or record.below_sha256 is None:
            return True
        found = self._examine(below)
        return isinstance(found, Image) and found.record.disk.sha256 == record.below_sha256

    @contextlib.contextmanager
    def locked(
        self, key: str, *, waiting: Callable[[str], None] | None = None, shared: bool = False
    ) -> Iterator[int]:
        """Hold the right to build ``key``; yield the lock's descriptor, for programs we start.

        ``shared`` holds what is there, to build on it, together with others who do.
        """
        with files.lock(self._lock(key), waiting=waiting, shared=shared) as descriptor:
            yield descriptor

    @contextlib.contextmanager
    def using(
        self, image: Image, *, waiting: Callable[[str], None] | None = None
    ) -> Iterator[Image]:
        """Hold an image, so that nobody removes or replaces it; yield it as it is by then."""
        with self.locked(image.key, waiting=waiting, shared=True):
            found = self._find(image.place)
            if found is None:
                raise StoreError(f"{_short(image.place)} is gone", hint="run the command again")
            yield found

    def try_locked(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """Hold the right to remove ``key`` if nobody uses it; yield whether it is held."""
        return files.try_lock(self._lock(key))

    def is_locked(self, key: str) -> bool:
        """Whether somebody builds ``key``, or builds on it, or reads it."""
        return files.is_locked(self._lock(key))

    def last_locked(self, key: str) -> float:
        """Return when somebody last began to make or to use ``key``; 0 when nobody did."""
        try:
            found = self._lock(key).stat()
        except FileNotFoundError:
            return 0
        # Whoever only tried has written nothing.
        return found.st_mtime if found.st_size else 0

    def _lock(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a fresh folder beside the images; it is removed unless it was committed."""
        with scratch.staging(self._images) as folder:
            yield folder

    def commit(self, staged: Path, record: BuildRecord, *, replace: bool = False) -> Image:
        """Make ``staged`` the image or checkpoint of ``record``, durably, in one rename.

        With ``replace``, what is there and all that stands on it give way: an overlay on other
        bytes than those it was made on is no disk. Else what is there stays and is returned. Raises
        :class:`StoreError` when what ``staged`` was made on is there no more.
        """
        place = place_of(record)
        if not self._same_below(record):
            raise StoreError(
                f"what stage {record.stage} was built on was replaced meanwhile",
                hint="run the same command again",
            )
        (staged / DISK).chmod(0o444)
        files.write_json(staged / _RECORD, record.to_json())
        # Before anything gives way: a power cut during the long part must cost nothing.
        files.sync_tree(staged)
        self.clear(record.key)
        gone = self._set_aside(place) if replace else []
        if files.commit(staged, self.root / place):
            self._trusted.add(place)
        for folder in gone:
            shutil.rmtree(folder)
        image = self._find(place)
        if image is None:
            raise StoreError(f"{_short(place)} vanished while it was committed")
        return image

    def discard(self, place: str) -> None:
        """Remove what is at ``place`` and all that stands on it."""
        for folder in self._set_aside(place):
            shutil.rmtree(folder)

    def remove(self, place: str) -> None:
        """Remove what is at ``place``, on which nothing stands. Hold the lock of its key."""
        if standing := self.standing_on(place):
            raise StoreError(f"{_short(standing[0])} stands on {_short(place)}")
        if trash := self._rename(place):
            # Another run's sweep may take it for abandoned, and be faster.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(trash)

    def standing_on(self, place: str) -> list[str]:
        """Return the places of what reads from the disk at ``place``."""
        return [each for each in self._places() if self._what_is_below(each) == place]

    def _what_is_below(self, place: str) -> str | None:
        """Return what a disk stands on, reading a record once: they are many and never change."""
        try:
            changed = (self.root / place / _RECORD).stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if place not in self._below or self._below[place][0] != changed:
            found = self._examine(place)
            below = stands_on(found.record) if isinstance(found, Image) else None
            self._below[place] = (changed, below)
        return self._below[place][1]

    def _set_aside(self, place: str) -> list[Path]:
        """Rename what is at ``place``, and first all that stands on it; return their new names."""
        gone: list[Path] = []
        for image in [each for each in self.entries() if stands_on(each.record) == place]:
            _log.warning(
                "%s of stage %s goes too: it stands on %s",
                _short(image.place), image.record.stage, _short(place),
            )  # fmt: skip
            gone += self._set_aside(image.place)
        if trash := self._rename(place):
            gone.append(trash)
        return gone

    def _rename(self, place: str) -> Path | None:
        """Give what is at ``place`` the name of something abandoned, in one step."""
        self._trusted.discard(place)
        folder = self.root / place
        if not folder.exists():
            return None
        trash = scratch.trash(self._images, f"{folder.parent.name}-{folder.name}")
        return folder.rename(trash)

    def all(self) -> Iterator[Image]:
        """Yield every image that can be trusted."""
        return self._all(_IMAGES)

    def entries(self) -> Iterator[Image]:
        """Yield every image and every checkpoint that can be trusted."""
        yield from self._all(_IMAGES)
        yield from self._all(_CHECKPOINTS)

    def survey(self) -> Iterator[tuple[str, Image | str]]:
        """Yield every place that is taken, with what is there or why that cannot be trusted."""
        for place in self._places():
            if found := self._examine(place):
                yield place, found

    def _all(self, kind: str) -> Iterator[Image]:
        for place in self._places(kind):
            if image := self._find(place):
                yield image

    def _places(self, *kinds: str) -> Iterator[str]:
        for kind in kinds or (_IMAGES, _CHECKPOINTS):
            for folder in sorted((self.root / kind).glob("[0-9a-f]*")):
                yield f"{kind}/{folder.name}"

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

    def last_image(self, variant: str, stage: str) -> Image | None:
        """Return the image of what :meth:`remember` noted; None when it is not there any more."""
        documents = self.last(variant, stage)
        return self.find(digest_document(documents[-1])) if documents else None

    def remembered(self) -> Iterator[list[dict[str, Any]]]:
        """Yield what :meth:`remember` noted, of every stage of every variant."""
        for file in sorted((self.root / "latest").glob("*/*.json")):
            if documents := self.last(file.parent.name, file.stem):
                yield documents

    def sweep(self) -> None:
        """Remove the staging folders that nobody holds."""
        scratch.sweep_staging(self._images)

    def staging_folders(self) -> list[Path]:
        """Return the folders of builds in progress, and of those that did not end well."""
        return scratch.staging_folders(self._images)

    def _latest(self, variant: str, stage: str) -> Path:
        return self.root / "latest" / variant / f"{stage}.json"

    def _quarantine(self, place: str, reason: str) -> None:
        """Move what is at ``place`` out of the way, and all that stands on it.

        The latter is sound, but nothing rebuilt will have the same bytes below it.
        """
        standing = [each.place for each in self.entries() if stands_on(each.record) == place]
        folder = self.root / "quarantine"
        folder.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S")
        moved = Path(tempfile.mkdtemp(prefix=f"{stamp}-", dir=folder)) / place.rpartition("/")[2]
        _log.warning("%s moved to %s: %s", _short(place), moved, reason)
        with contextlib.suppress(FileNotFoundError):
            (self.root / place).rename(moved)
        self._trusted.discard(place)
        for each in standing:
            self._quarantine(each, f"what it stands on is gone, {_short(place)}")


def _short(place: str) -> str:
    """Return a place as a person reads it: ``image 0123456789ab``."""
    kind, _, key = place.partition("/")
    return f"{kind.removesuffix('s')} {key[:12]}"
