"""What a root stage starts from: packages, a cloud image, or an installer's ISO.

Each source makes one bootable QCOW2 disk. It knows nothing of stages, keys or the store. An ISO is
installed by :mod:`builder.installation`, which needs a VM and Packer; its parts are here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import disks
from builder.sources import bootstrap, cloud_image

if TYPE_CHECKING:
    from pathlib import Path

    from builder.caches.isos import IsoGot
    from builder.fetch import Fetcher
    from builder.pipeline import Pipeline


def make_source(
    pipeline: Pipeline,
    disk: Path,
    *,
    identity: str,
    apt_proxy: str | None,
    logs: Path,
    fetcher: Fetcher | None = None,
    offline: bool = False,
) -> IsoGot | None:
    """Make the QCOW2 ``disk`` that the pipeline's root stage starts from, if that is no ISO.

    ``identity`` names the content, ``apt_proxy`` is the package cache. Returns the image that it
    was made from, where there is one. Raises :class:`VaultbuildError` when what it needs cannot be
    had; ``offline``, that is what the caches do not have.
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
        return None
    image = image_of(pipeline, fetcher, offline=offline)
    cloud_image.make_disk(image.path, disk, size=size)
    return image


def image_of(pipeline: Pipeline, fetcher: Fetcher | None, *, offline: bool) -> IsoGot:
    """Return the cloud image or the ISO of a pipeline, fetched where it is not there."""
    # Late: only these have to be fetched, and every plan imports this package.
    from builder.caches import isos
    from builder.caches.shelf import TTL
    from builder.fetch import Fetcher
    from builder.fetch.breaker import Breakers

    project, settings = pipeline.project, pipeline.source.settings
    if fetcher is None:
        fetcher = Fetcher(breakers=Breakers.under(project / "cache/var"))
    cache = pipeline.caches.get("isos", {})
    return isos.ensure(
        settings["url"],
        settings["sha256"],
        project=project,
        fetcher=fetcher,
        cache_url=cache.get("url"),
        offline=offline,
        ttl=cache.get("ttl", TTL),
    )
