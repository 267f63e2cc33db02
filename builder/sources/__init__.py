"""What a root stage starts from: packages, a cloud image, or an installer's ISO.

Each source makes one bootable QCOW2 disk. It knows nothing of stages, keys or the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import disks
from builder.errors import VaultbuildError
from builder.sources import bootstrap, cloud_image

if TYPE_CHECKING:
    from pathlib import Path

    from builder.pipeline import Pipeline


def make_source(
    pipeline: Pipeline, disk: Path, *, identity: str, apt_proxy: str | None, logs: Path
) -> None:
    """Make the QCOW2 ``disk`` that the pipeline's root stage starts from.

    ``identity`` names the content, ``apt_proxy`` is the package cache. Raises
    :class:`VaultbuildError` when what it needs cannot be had.
    """
    source, size = pipeline.source, pipeline.resources.disk_bytes
    if source.kind == "bootstrap":
        raw = disk.with_suffix(".raw")
        log = logs / "mmdebstrap.log"
        bootstrap.make_disk(
            source.settings, raw, size=size, identity=identity, apt_proxy=apt_proxy, log=log
        )
        disks.import_raw(raw, disk)
        raw.unlink()
    elif source.kind == "cloud_image":
        cloud_image.make_disk(source.settings, disk, size=size, project=pipeline.project)
    else:
        raise VaultbuildError(
            "an ISO is installed in a VM, which this version renders and validates only",
            hint="see it with: vaultbuild render source; or use a bootstrap or cloud_image source",
        )
