"""The cache of models: files of commits, in the layout of huggingface_hub's own cache.

::

    cache/var/models/hub/models--org--name/
        blobs/<etag>, snapshots/<commit>/<path>, refs/<revision>    as huggingface_hub has them
    cache/var/models/pinned/models--org--name/<commit>/
        files.json    the digests of all files that lock files name
        checked.json  when the hub last said that the commit is there

A full commit never changes, so nothing is asked of the hub while all files of a lock are there with
the bytes that the lock says. Older than its time to live, a commit is confirmed: is it there still,
and where does the revision stand that it was pinned from? When the hub cannot be reached, what is
there is used, and said to be stale. When the hub says no, somebody withdrew the model or this
host's rights to it, and a person has to decide: that is an error.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from builder import files
from builder.caches import shelf
from builder.caches.models_lock import Model, ModelFile, ModelsLock, is_lock, parse_lock
from builder.caches.shelf import STAMP, TTL, Kept, Shelf, Stamp
from builder.errors import VaultbuildError
from builder.fetch.transient import PermanentError, TransientError
from builder.fetch.urls import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from builder.caches import kept
    from builder.caches.hub import Hub
    from builder.fetch import Fetcher

__all__ = ["Model", "ModelFile", "ModelGot", "ModelsLock", "ensure", "is_lock", "parse_lock"]

_SCHEMA = 1
_FILES = "files.json"


_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}")


@dataclass(frozen=True, slots=True)
class ModelGot:
    """A model that is there, read through. ``folder`` holds its files at their paths.

    ``checked``, ``stale`` and ``trouble`` are as of :class:`~builder.caches.isos.IsoGot`; ``moved``
    is the commit at which the revision stood when the hub was last asked, where that is another.
    ``fetched`` are the files that came now, by digest, with the seconds that each took.
    """

    repo: str
    commit: str
    revision: str | None
    folder: Path
    bytes: int
    received: int = 0
    fetched: tuple[tuple[str, float], ...] = ()
    spoiled: int = 0
    stale: bool = False
    checked: float | None = None
    trouble: str | None = None
    moved: str | None = None


def ensure(
    lock: ModelsLock,
    *,
    folder: Path,
    hub: Hub | None,
    fetcher: Fetcher | None,
    offline: bool = False,
    ttl: float = TTL,
    progress: Callable[[int], None] | None = None,
    now: Callable[[], float] = time.time,
) -> tuple[ModelGot, ...]:
    """Have every file of a lock, read through, fetched where it is not there.

    ``folder`` is the project's ``cache/var``. Raises
    :class:`~builder.caches.shelf.NotCachedError` when files are missing that may not be fetched,
    and what hub and fetcher raise when they cannot be had.
    """
    store = Shelf("models", folder)
    asked = None if offline or hub is None or fetcher is None or hub.closed else hub
    got = []
    missing: list[str] = []
    for model in lock.models:
        place = _Place(store, model)
        keep = partial(place.keep, hub=asked, fetcher=fetcher)
        kept = shelf.side_by_side(keep, model.files, progress)
        absent = [each.path for each, one in zip(model.files, kept, strict=True) if one is None]
        missing += [f"{model}: {path}" for path in absent]
        if not absent:
            found = [one for one in kept if one is not None]
            with store.locked(model.commit, str(model)):
                place.note()
                got.append(_confirmed(place, found, asked, ttl=ttl, now=now()))
    if missing:
        raise shelf.not_cached("files of models are", missing, cache="models")
    return tuple(got)


class _Place:
    """Where one model is."""

    def __init__(self, store: Shelf, model: Model) -> None:
        self.store, self.model = store, model
        name = "models--" + model.repo.replace("/", "--")
        self.repo = store.folder / "hub" / name
        self.snapshot = self.repo / "snapshots" / model.commit
        self.pinned = store.folder / "pinned" / name / model.commit

    def keep(
        self,
        file: ModelFile,
        told: Callable[[int], None],
        *,
        hub: Hub | None,
        fetcher: Fetcher | None,
    ) -> Kept | None:
        """Have one file; None when it would have to be fetched and there is no hub to ask."""
        pointer = self.snapshot / file.path
        with self.store.locked(file.sha256, f"{self.model}, {file.path}"):
            spoiled = False
            # Under its digest it may be there from another commit.
            for path in (pointer, self.repo / "blobs" / file.sha256):
                if path.is_file():
                    if self.store.verified(path, file.sha256):
                        shelf.relative_link(pointer, path.resolve())
                        return Kept(pointer, file.sha256, file.size, spoiled=spoiled)
                    spoiled = True
            if hub is None or fetcher is None:
                return None
            return self._fetched(pointer, file, hub, fetcher, told, spoiled=spoiled)

    def _fetched(
        self,
        pointer: Path,
        file: ModelFile,
        hub: Hub,
        fetcher: Fetcher,
        told: Callable[[int], None],
        *,
        spoiled: bool,
    ) -> Kept:
        model = self.model
        said = hub.describe(model.repo, model.commit, file.path)
        if said.size not in {None, file.size}:
            raise PermanentError(
                f"{model}, {file.path}: the hub has {said.size} bytes, the lock says {file.size}",
                hint="that commit and that digest do not belong together: vaultbuild lock",
            )
        blob = self.repo / "blobs" / _safe(said.etag)
        if blob.is_file() and not self.store.verified(blob, file.sha256):
            spoiled = True
        blob.parent.mkdir(parents=True, exist_ok=True)
        got = fetcher.file(
            hub.url(model.repo, model.commit, file.path),
            blob,
            sha256=file.sha256,
            size=file.size,
            headers=hub.headers(),
            progress=shelf.growing(told),
        )
        self.store.note(blob, file.sha256)
        shelf.relative_link(pointer, blob)
        return Kept(pointer, file.sha256, got.bytes, got.received, got.seconds, spoiled=spoiled)

    def note(self) -> None:
        """Write down which files of this commit can be relied on, and where its revision stands."""
        known = pinned_files(self.pinned)
        files_now = {file.path: {"sha256": file.sha256, "size": file.size}
                     for file in self.model.files}  # fmt: skip
        document = {
            "schema": _SCHEMA,
            "repo": self.model.repo,
            "commit": self.model.commit,
            "files": {path: asdict_of(one) for path, one in known.items()} | files_now,
        }
        _write(self.pinned / _FILES, document)
        if (revision := self.model.revision) and revision != self.model.commit:
            ref = self.repo / "refs" / revision
            if not ref.is_file() or ref.read_text(encoding="utf-8") != self.model.commit:
                # No line end: huggingface_hub compares the whole file.
                files.write_text(ref, self.model.commit, durable=False)


# --- is it still there? ---------------------------------------------------------------------------


def _confirmed(
    place: _Place, kept: Iterable[Kept], hub: Hub | None, *, ttl: float, now: float
) -> ModelGot:
    """Say when the hub confirmed a commit, after asking it where that is too long ago."""
    found = list(kept)
    model, file = place.model, place.pinned / STAMP
    stamp = Stamp.read(file) or Stamp("")
    if hub is not None:
        url = redacted(f"{hub.endpoint}/{model.repo}")
        if stamp.url != url:
            stamp = Stamp(url)  # another hub was asked then
        if not stamp.fresh(ttl, now):
            stamp = _asked(stamp, model, hub, now)
            stamp.write(file)
    stale = not stamp.fresh(ttl, now)
    return ModelGot(
        repo=model.repo,
        commit=model.commit,
        revision=model.revision,
        folder=place.snapshot,
        bytes=sum(one.bytes for one in found),
        received=sum(one.received for one in found),
        fetched=tuple((one.sha256, one.seconds) for one in found if one.received),
        spoiled=sum(one.spoiled for one in found),
        stale=stale,
        checked=stamp.checked,
        trouble=(stamp.trouble or "offline: not asked") if stale else None,
        moved=stamp.more.get("moved"),
    )


def _asked(stamp: Stamp, model: Model, hub: Hub, now: float) -> Stamp:
    """Ask the hub for the commit. Silence is no answer; a no is."""
    try:
        hub.commit_of(model.repo, model.commit)
    except TransientError as error:
        return replace(stamp, trouble=error.message)
    return Stamp(stamp.url, now, more={"moved": _moved(model, hub)})


def _moved(model: Model, hub: Hub) -> str | None:
    if model.revision in {None, model.commit}:
        return None
    try:
        stands = hub.commit_of(model.repo, str(model.revision))
    except VaultbuildError:
        return None  # the branch may be gone; the commit is what counts
    return stands if stands != model.commit else None


# --- what there is --------------------------------------------------------------------------------


def pinned_files(pinned: Path) -> dict[str, ModelFile]:
    """Return the files of a commit that lock files name, by path."""
    document = _document(pinned)
    return {path: ModelFile(path, **one) for path, one in document.get("files", {}).items()}


def pinned_commits(models: Path, repo: str) -> list[str]:
    """Return the commits of a repository that the cache in the folder ``models`` has."""
    place = models / "pinned" / ("models--" + repo.replace("/", "--"))
    return sorted(path.parent.name for path in place.glob(f"*/{_FILES}"))


def commit_of(models: Path, repo: str, revision: str) -> str | None:
    """Return the commit that a guest means: one that is pinned, or a branch that stands at one."""
    known = pinned_commits(models, repo)
    if revision in known:
        return revision
    if not _BRANCH.fullmatch(revision):
        return None  # it is joined to a path, and guests write it
    ref = models / "hub" / ("models--" + repo.replace("/", "--")) / "refs" / revision
    stands = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    return stands if stands in known else None


def snapshot_file(models: Path, repo: str, commit: str, path: str) -> tuple[Path, ModelFile] | None:
    """Return a file of a pinned commit, and what it must hold."""
    name = "models--" + repo.replace("/", "--")
    file = pinned_files(models / "pinned" / name / commit).get(path)
    place = models / "hub" / name / "snapshots" / commit / path
    return (place, file) if file and place.is_file() else None


def items(folder: Path) -> list[shelf.Item]:
    """Return each commit of the cache; ``folder`` is the project's ``cache/var``.

    Its bytes are those of the blobs that no commit listed before it has.
    """
    store = Shelf("models", folder)
    seen: set[Path] = set()
    return [_item(store, file.parent, seen) for file in _manifests(store)]


def drop(folder: Path, item: kept.Item) -> bool:
    """Remove a commit, and the blobs that no other one has; say whether it is gone."""
    store = Shelf("models", folder)
    pinned = _pinned_of(store, folder / item.place)
    digests = sorted({file.sha256 for file in pinned_files(pinned).values()})
    # Looked up now: since the item was looked at, another commit may have come to share a blob.
    repo = store.folder / "hub" / pinned.parent.name
    parts = (*_unshared(folder, repo, folder / item.place), str(pinned.relative_to(folder)))
    return shelf.drop(store, replace(item, parts=parts), digests)


def _manifests(store: Shelf) -> list[Path]:
    return sorted(store.folder.glob(f"pinned/*/*/{_FILES}"))


def _pinned_of(store: Shelf, snapshot: Path) -> Path:
    return store.folder / "pinned" / snapshot.parent.parent.name / snapshot.name


def _item(store: Shelf, pinned: Path, seen: set[Path]) -> shelf.Item:
    repo = store.folder / "hub" / pinned.parent.name
    snapshot = repo / "snapshots" / pinned.name
    wanted = pinned_files(pinned)
    blobs = {(snapshot / path).resolve() for path in wanted} - seen
    begun = 0 if repo in seen else shelf.partial_bytes(repo / "blobs")
    seen |= {*blobs, repo}
    stamp = Stamp.read(pinned / STAMP)
    locks = [store.lock_file(file.sha256) for file in wanted.values()]
    return shelf.Item(
        cache="models",
        place=str(snapshot.relative_to(store.var)),
        digest=pinned.name,
        bytes=sum(blob.stat().st_size for blob in blobs if blob.is_file()) + begun,
        used=shelf.last_used(pinned / _FILES, *locks),
        checked=stamp.checked if stamp else None,
        partial_bytes=begun,
        held=any(files.is_locked(lock) for lock in locks),
    )


def _unshared(folder: Path, repo: Path, snapshot: Path) -> list[str]:
    """Return the blobs that go when a commit goes: those that no other one has."""
    links = {path for path in repo.glob("snapshots/*/**/*") if path.is_symlink()}
    mine = {path for path in links if path.is_relative_to(snapshot)}
    blobs = {path.resolve() for path in mine} - {path.resolve() for path in links - mine}
    return sorted(str(blob.relative_to(folder.resolve())) for blob in blobs)


def asdict_of(file: ModelFile) -> dict[str, Any]:
    """Return what a lock file says of a file."""
    return {name: value for name, value in asdict(file).items() if name != "path"}


def _safe(etag: str) -> str:
    """Return an etag as the name of a file, which a hub could choose to be a path."""
    if not etag.replace("-", "").replace("_", "").replace(".", "").isalnum() or ".." in etag:
        raise PermanentError(f"the hub gives a file the strange name {etag[:80]!r}")
    return etag


def _write(path: Path, document: Mapping[str, Any]) -> None:
    if _document(path.parent) != document:
        files.write_json(path, document, durable=False)


def _document(pinned: Path) -> dict[str, Any]:
    try:
        document = json.loads((pinned / _FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    usable = isinstance(document, dict) and document.get("schema") == _SCHEMA
    return document if usable else {}
