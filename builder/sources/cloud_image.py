"""A root disk from somebody's cloud image: fetched once, checked, converted, made larger.

The checksum is what counts; the address is only where the bytes may be had. An image that does not
match is never used and never kept.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from builder import disks
from builder.digest import digest_file
from builder.errors import StoreError, VaultbuildError
from builder.files import lock

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK = 1 << 20
_TIMEOUT_SECONDS = 60


def make_disk(settings: Mapping[str, Any], disk: Path, *, size: int, project: Path) -> None:
    """Make the QCOW2 ``disk`` of at least ``size`` bytes from a cloud image.

    Raises :class:`StoreError` when the bytes are not those of the checksum, and
    :class:`VaultbuildError` when they cannot be had or the image is larger than the disk asked for.
    """
    image = fetch(settings["url"], settings["sha256"], project)
    found = disks.info(image)
    if found.virtual_bytes > size:
        raise VaultbuildError(
            f"the cloud image needs {found.virtual_bytes} bytes of disk, resources.disk is {size}",
            hint="raise resources.disk in stages/pipeline.yml",
        )
    disks.import_image(image, disk, size=size)


def fetch(url: str, sha256: str, project: Path) -> Path:
    """Return a local file with the bytes of ``url``, from the cache where it is there.

    ``url`` may be a path, taken from the project's folder when relative.
    """
    local = _local(url, project)
    if local is not None:
        if not local.is_file():
            raise VaultbuildError(f"there is no file {local}", hint="see source.cloud_image.url")
        _require(digest_file(local), sha256, url)
        return local
    cached = project / "cache/var/isos" / sha256 / Path(urlsplit(url).path).name
    with lock(project / "cache/var/locks" / f"iso-{sha256}.lock"):
        if cached.is_file() and digest_file(cached) == sha256:
            return cached
        _download(url, sha256, cached)
    return cached


def _local(url: str, project: Path) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(parts.path)
    return None if parts.scheme else project / url


def _download(url: str, sha256: str, target: Path) -> None:
    """Fetch to a file beside the target, which appears only when its digest is right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        _require(_receive(url, partial), sha256, url)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _receive(url: str, target: Path) -> str:
    """Write the bytes of ``url`` to ``target`` and return their SHA-256."""
    # Late: brings SSL and e-mail, a tenth of what `vaultbuild plan` takes.
    import urllib.error
    import urllib.request

    digest = hashlib.sha256()
    try:
        # The scheme was validated with the pipeline: http or https.
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer,  # noqa: S310
            target.open("wb") as file,
        ):
            while block := answer.read(_BLOCK):
                digest.update(block)
                file.write(block)
    except (urllib.error.URLError, OSError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an open answer too
        hint = "is source.cloud_image.url right, and this host on the network?"
        raise VaultbuildError(f"cannot fetch {url}: {error}", hint=hint) from error
    return digest.hexdigest()


def _require(found: str, wanted: str, url: str) -> None:
    if found != wanted:
        raise StoreError(
            f"{url} has SHA-256 {found}\n       wanted {wanted}",
            hint="if the new image is meant, put its checksum into source.cloud_image.sha256",
        )
