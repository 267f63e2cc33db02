"""The cache of cloud images and ISOs: files by their checksum, ``cache/var/isos/<sha256>/<name>``.

The checksum is what counts; the address is only where the bytes may be had. A file that does not
match is never used. One that matches may be used for ever: when it has not been confirmed for
longer than its time to live, upstream is asked whether it still gives that file, and what it says
is told, but nothing is thrown away. Old images leave their servers every few weeks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder import files
from builder.caches import shelf
from builder.caches.shelf import STAMP, TTL, Shelf, Stamp
from builder.digest import digest_file
from builder.errors import StoreError, VaultbuildError
from builder.fetch.transient import PermanentError, TransientError
from builder.fetch.urls import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.caches import kept
    from builder.fetch import Answer, Fetcher, Got

_ADDRESS = "is source.cloud_image.url, or source.iso.url, right, and this host on the network?"
_CHECKSUM = (
    "if the new image is meant, put its checksum into source.cloud_image.sha256, or "
    "source.iso.sha256"
)


@dataclass(frozen=True, slots=True)
class IsoGot:
    """A file with the bytes that were asked for, and what is known of where they came from.

    ``checked`` is when upstream last confirmed that it gives this file, in seconds since 1970; None
    when it never did, or the file is the project's own. ``stale``: that was longer ago than the
    time to live, and ``trouble`` says why it is not newer.
    """

    path: Path
    sha256: str
    bytes: int
    url: str
    received: int = 0
    seconds: float = 0.0
    stale: bool = False
    checked: float | None = None
    trouble: str | None = None
    spoiled: bool = False


def ensure(
    url: str,
    sha256: str,
    *,
    project: Path,
    fetcher: Fetcher | None,
    cache_url: str | None = None,
    offline: bool = False,
    ttl: float = TTL,
    now: Callable[[], float] = time.time,
    progress: Callable[[int], None] | None = None,
) -> IsoGot:
    """Return a local file with the bytes of ``url``, read through, fetched where it is not there.

    ``url`` may be a path, taken from the project's folder when relative; such a file is used where
    it is. ``cache_url`` is a cache of the team, asked first. Raises :class:`StoreError` when the
    bytes are not those of the checksum, :class:`~builder.caches.shelf.NotCachedError` when they
    would have to be fetched ``offline``, and :class:`VaultbuildError` when they cannot be had.
    """
    local = _local(url, project)
    if local is not None:
        return _own(local, url, sha256)
    store = Shelf("isos", project / "cache/var")
    place = _there(store.folder / sha256) or store.folder / sha256 / _name(url)
    team = f"{cache_url.rstrip('/')}/{sha256}/{_name(url)}" if cache_url else None
    sources = [team, url] if team else [url]
    stamp = place.with_name(STAMP)

    def fetch(path: Path) -> Got:
        assert fetcher is not None  # noqa: S101 - for the type checker: see below
        got = _fetched(sources, path, sha256, fetcher, progress)
        # What a cache of the team calls a version is no word of upstream's.
        version = (None, None) if team else (got.etag, got.modified)
        # Under the lock: whoever waits for it finds the file confirmed.
        Stamp(redacted(url), now(), *version).write(stamp)
        return got

    kept = store.obtain(place, sha256, None if offline or fetcher is None else fetch)
    if kept is None:
        missing = [f"{redacted(url)} with SHA-256 {sha256}"]
        raise shelf.not_cached("an image is", missing, cache="isos")
    got = IsoGot(
        path=kept.path,
        sha256=sha256,
        bytes=kept.bytes,
        url=redacted(url),
        received=kept.received,
        seconds=kept.seconds,
        spoiled=kept.spoiled,
    )
    if kept.fetched:
        written = Stamp.read(stamp)
        return replace(got, checked=written.checked if written else None)
    return _confirmed(got, url, stamp, None if offline else fetcher, ttl=ttl, now=now())


def items(folder: Path) -> list[shelf.Item]:
    """Return each file of the cache; ``folder`` is the project's ``cache/var``."""
    store = Shelf("isos", folder)
    return [_item(store, path) for path in sorted(store.folder.glob("[!.]*")) if path.is_dir()]


def drop(folder: Path, item: kept.Item) -> bool:
    """Remove a file with all that is beside it; say whether it is gone."""
    return shelf.drop(Shelf("isos", folder), item, [Path(item.place).name])


def _item(store: Shelf, place: Path) -> shelf.Item:
    whole = [path for path in place.iterdir() if shelf.is_whole(path)]
    stamp, begun = Stamp.read(place / STAMP), shelf.partial_bytes(place)
    return shelf.Item(
        cache="isos",
        place=str(place.relative_to(store.var)),
        digest=place.name,
        bytes=sum(path.stat().st_size for path in whole) + begun,
        used=shelf.last_used(*(whole or [place]), store.lock_file(place.name)),
        checked=stamp.checked if stamp else None,
        partial_bytes=begun,
        held=files.is_locked(store.lock_file(place.name)),
    )


def _confirmed(
    got: IsoGot,
    url: str,
    file: Path,
    fetcher: Fetcher | None,
    *,
    ttl: float,
    now: float,
) -> IsoGot:
    """Say when upstream confirmed a file, after asking it where that is too long ago."""
    stamp = Stamp.read(file) or Stamp(redacted(url))
    if stamp.url != redacted(url):
        stamp = Stamp(redacted(url))  # another server was asked then
    if not stamp.fresh(ttl, now) and fetcher is not None:
        stamp = _asked(stamp, url, fetcher, size=got.bytes, now=now)
        stamp.write(file)
    stale = not stamp.fresh(ttl, now)
    return replace(
        got,
        checked=stamp.checked,
        stale=stale,
        trouble=(stamp.trouble or "offline: not asked") if stale else None,
    )


def _asked(stamp: Stamp, url: str, fetcher: Fetcher, *, size: int, now: float) -> Stamp:
    """Ask whether upstream still gives the file. Whatever it says, the bytes are the right ones."""
    try:
        answer = fetcher.head(url)
    except (TransientError, PermanentError) as error:
        return replace(stamp, trouble=error.message)
    if differs := _difference(stamp, answer, size):
        return replace(stamp, trouble=f"{redacted(url)} is another file now: {differs}")
    headers = _lower(answer)
    return Stamp(stamp.url, now, headers.get("etag"), headers.get("last-modified"))


def _difference(stamp: Stamp, answer: Answer, size: int) -> str | None:
    """Say what shows that a server has another file than the one that was fetched."""
    headers = _lower(answer)
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) != size:
        return f"{length} bytes, not {size}"
    for name, known in (("etag", stamp.etag), ("last-modified", stamp.modified)):
        if known and (said := headers.get(name)):
            # The first of the two that both know decides: mirrors agree on tags or on neither.
            return None if said == known else f"its {name} is {said}, was {known}"
    return None


def _lower(answer: Answer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}


def _fetched(
    sources: Sequence[str],
    path: Path,
    sha256: str,
    fetcher: Fetcher,
    progress: Callable[[int], None] | None,
) -> Got:
    first, *others = sources
    told = shelf.growing(progress)
    try:
        return fetcher.file(first, path, sha256=sha256, mirrors=others, progress=told)
    except (TransientError, PermanentError) as error:
        if f"wanted {sha256}" in error.message:
            raise StoreError(error.message, hint=_CHECKSUM) from error
        kind = TransientError if isinstance(error, TransientError) else PermanentError
        message = f"cannot fetch {redacted(sources[-1])}: {error.message}"
        raise kind(message, hint=_hinted(error)) from error


def _hinted(error: VaultbuildError) -> str:
    return f"{error.hint}\n{_ADDRESS}" if error.hint else _ADDRESS


def _own(local: Path, url: str, sha256: str) -> IsoGot:
    if not local.is_file():
        raise VaultbuildError(
            f"there is no file {local}", hint="see source.cloud_image.url, or source.iso.url"
        )
    if (found := digest_file(local)) != sha256:
        message = f"{url} has SHA-256 {found}\n       wanted {sha256}"
        raise StoreError(message, hint=_CHECKSUM)
    return IsoGot(local, sha256, local.stat().st_size, url)


def _there(place: Path) -> Path | None:
    """Return the file that is there, which another address may have given another name."""
    found = (path for path in sorted(place.glob("*")) if shelf.is_whole(path))
    return next(found, None)


def _local(url: str, project: Path) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(parts.path)
    return None if parts.scheme else project / url


def _name(url: str) -> str:
    """Return what the file is called: the last part of the address, as a name and not as a path."""
    name = Path(urlsplit(url).path).name.lstrip(".")
    return "image" if name in {"", STAMP} else name
