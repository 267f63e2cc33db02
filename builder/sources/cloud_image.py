"""A root disk from somebody's cloud image: converted, and made larger.

Where the image comes from, and that it is the right one, is the business of the cache of images
(:mod:`builder.caches.isos`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import disks
from builder.errors import VaultbuildError

if TYPE_CHECKING:
    from pathlib import Path


def make_disk(image: Path, disk: Path, *, size: int) -> None:
    """Make the QCOW2 ``disk`` of at least ``size`` bytes from a cloud image.

    Raises :class:`VaultbuildError` when the image is larger than the disk asked for.
    """
    found = disks.info(image)
    if found.virtual_bytes > size:
        raise VaultbuildError(
            f"the cloud image needs {found.virtual_bytes} bytes of disk, resources.disk is {size}",
            hint="raise resources.disk in stages/pipeline.yml",
        )
    disks.import_image(image, disk, size=size)
