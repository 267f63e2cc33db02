"""A root disk from somebody's cloud image: converted, and made larger with its root.

Where the image comes from, and that it is the right one, is the business of the cache of images
(:mod:`builder.caches.isos`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import disks
from builder.errors import VaultbuildError
from builder.sources import growth

if TYPE_CHECKING:
    from pathlib import Path


def make_disk(image: Path, disk: Path, *, size: int) -> None:
    """Make the QCOW2 ``disk`` of at least ``size`` bytes from a cloud image, and its root as large.

    The root of an image whose layout :mod:`.growth` cannot change is left to cloud-init.
    Raises :class:`VaultbuildError` when the image is larger than the disk asked for.
    """
    found = disks.info(image)
    if found.virtual_bytes > size:
        raise VaultbuildError(
            f"the cloud image needs {found.virtual_bytes} bytes of disk, resources.disk is {size}",
            hint="raise resources.disk in stages/pipeline.yml",
        )
    if found.virtual_bytes == size or not _grown(image, disk, size):
        disks.import_image(image, disk, size=size)


def _grown(image: Path, disk: Path, size: int) -> bool:
    """Make the disk with a root that fills it; False where the image's root cannot grow here."""
    raw = disk.with_suffix(".raw")
    try:
        disks.unpack(image, raw)
        if not growth.grow(raw, size):
            return False
        disks.import_raw(raw, disk)
        return True
    finally:
        raw.unlink(missing_ok=True)
