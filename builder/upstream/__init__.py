"""Asking upstream what moved since the images in the store were made (``plan --refresh``).

Cheap first: of each suite that a stage's network lock names, its own file of 200 kB; where that is
the same, nothing moved. An upstream that does not answer is told and counts as unmoved: a nightly
job must not build everything because a mirror was down.

What was said is kept in ``cache/var/index/refresh.json``, for ``--max-age`` and to notice when a
package does not move although its stage was built again.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from builder import files, network
from builder.caches.models_lock import parse_lock
from builder.errors import HostError, VaultbuildError
from builder.fetch.transient import PermanentError
from builder.fetch.urls import redacted
from builder.record import utc_now
from builder.upstream import models_in, requirements_in
from builder.upstream import moved as moves
from builder.upstream.moved import Built, Moved, Refresh, Unknown
from builder.upstream.suites import Suites

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.inputs import StageInputs
    from builder.network import Handed
    from builder.pipeline import Pipeline
    from builder.project import Project
    from builder.store import Image
    from builder.upstream.archive import Package
    from builder.upstream.suites import Reads

_FILE = "refresh.json"
_SUMS = "SHA256SUMS"
_SHOWN_DIGITS = 12
_MOST_TOLD = 300  # characters of an error, which may have the last lines of a program


@dataclass(frozen=True, slots=True)
class Sources:
    """Through what upstream is asked.

    ``reads`` fetches; ``packages`` does so as the host's apt would, through its proxy. ``resolve``
    makes the lock of a pair anew. ``hub`` is where models come from.
    """

    reads: Reads
    packages: Reads
    resolve: Callable[[requirements_in.Pair], str]
    hub: Callable[[], models_in.Hub]


def sources_of(project: Project, *, told: Callable[[str], None]) -> Sources:
    """Return what a project asks upstream through; ``told`` hears of every retry."""
    from builder.caches.apt import upstream_proxy
    from builder.caches.hub import Hub
    from builder.caches.pypi import pip_settings
    from builder.fetch import Fetcher
    from builder.fetch.breaker import Breakers  # late: HTTP clients take longer than a plan

    breakers = Breakers.under(project.var)
    caches = project.pipeline.caches
    proxy = caches.get("apt", {}).get("url") or upstream_proxy()
    environment = {**os.environ, "http_proxy": proxy} if proxy else dict(os.environ)

    def resolve(pair: requirements_in.Pair) -> str:
        pip = pip_settings()
        if index := caches.get("pypi", {}).get("url"):
            pip["index-url"] = index
        found = requirements_in.resolver_environment(pip)
        cache = project.var / "uv"
        return requirements_in.resolve(project.folder, pair, environment=found, cache=cache)

    return Sources(
        reads=Fetcher(breakers=breakers, told=told),
        packages=Fetcher(breakers=breakers, told=told, environment=environment),
        resolve=resolve,
        hub=lambda: Hub(caches.get("models", {}).get("upstream"), breakers=breakers, told=told),
    )


def refresh(
    project: Project,
    inputs: Sequence[StageInputs],
    *,
    sources: Callable[[], Sources],
    max_age: float | None = None,
    offline: bool = False,
) -> Refresh:
    """Return what moved upstream since the images of a lineage were made.

    ``max_age``: an answer about these very images that is younger, in seconds, is good enough.
    """
    if offline:
        raise HostError(
            "whether upstream moved cannot be asked offline",
            hint="leave out --refresh or --offline",
        )
    lineage = built(project, inputs)
    disks = {each.stage: each.disk for each in lineage}
    memory = _Memory(project.index / _FILE, project.pipeline.variant)
    if max_age is not None and (known := memory.recent(disks, max_age)):
        return known
    asking = _Asking(project.pipeline, project.folder, sources(), memory)
    found = Refresh(utc_now(), tuple(asking.moved(lineage)), tuple(asking.unknown))
    settled = moves.settle(found, memory.refresh, memory.renewed(asking.seen))
    memory.keep(settled, disks, asking.outdated)
    return settled


# --- what is there --------------------------------------------------------------------------------


def built(project: Project, inputs: Sequence[StageInputs]) -> tuple[Built, ...]:
    """Return what the store knows of each stage of a lineage as it stands now."""
    source = project.store.find(inputs[0].keys[0])
    found: list[Built] = []
    for each in inputs:
        image = project.store.find(each.key)
        found.append(
            Built(
                stage=each.stage,
                packages=image.record.packages.get("dpkg", {}) if image else None,
                handed=_handed(image),
                source=_handed(source) if not found else None,
                disk=" ".join(
                    one.record.disk.sha256 for one in (image, source if not found else None) if one
                ),
            )
        )
    return tuple(found)


def _handed(image: Image | None) -> tuple[Handed, ...] | None:
    lock = network.read(image.folder / network.LOCK) if image else None
    return lock.handed if lock else None


# --- asking ---------------------------------------------------------------------------------------


class _Asking:
    """One round of questions; what could not be asked is in ``unknown``."""

    def __init__(self, pipeline: Pipeline, folder: Path, sources: Sources, memory: _Memory) -> None:
        self.unknown: list[Unknown] = []
        # By stage, digests of lists of packages: what it saw, and what of that is old now.
        self.seen: dict[str, set[str]] = {}
        self.outdated: dict[str, set[str]] = {}
        self._pipeline = pipeline
        self._folder = folder
        self._sources = sources
        self._memory = memory
        self._suites = Suites(sources.packages)

    def moved(self, lineage: Sequence[Built]) -> Iterator[Moved]:
        """Yield what moved, by stage."""
        yield from self._packages(lineage)
        yield from self._image(lineage[0].stage)
        stages = [self._pipeline.stage(each.stage) for each in lineage]
        for stage in stages:
            for pair in requirements_in.pairs_in(self._folder):
                if pair.lock.is_relative_to(stage.folder):
                    yield from self._wheels(stage.name, pair)
            for lock in models_in.locks_in(self._folder, stage.folder):
                yield from self._models(stage.name, lock)

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Note that ``what`` is unknown when it cannot be asked."""
        try:
            yield
        except VaultbuildError as error:
            self._note(what, " ".join(error.message.split())[:_MOST_TOLD])

    def _note(self, what: str, why: str) -> None:
        """Tell it once: several stages may see one suite."""
        if (told := Unknown(what, why)) not in self.unknown:
            self.unknown.append(told)

    # --- packages ---

    def _packages(self, lineage: Sequence[Built]) -> Iterator[Moved]:
        seen: dict[str, moves.Suite] = {}
        bootstrapped = self._pipeline.source.kind == "bootstrap"
        for each, packages in moves.brought(lineage, bootstrapped=bootstrapped):
            seen = moves.suites_of(each.all_handed, seen)
            self.seen[each.stage] = {
                digest
                for suite in seen.values()
                for lists in suite.lists.values()
                for digest in lists
            }
            self.outdated[each.stage] = set()
            missing = _missing_lock(each, bootstrapped=bootstrapped and each is lineage[0])
            if missing:
                self._note(each.stage, missing)
            if packages and seen:
                offers = [
                    offer for suite in seen.values() for offer in self._offers(each.stage, suite)
                ]
                pinned = moves.pinned_by(
                    self._pipeline.source.settings, self._pipeline.variables_of(each.stage)
                )
                epochs = each.packages is not None
                yield from moves.moved_packages(each.stage, packages, offers, pinned, epochs=epochs)

    def _offers(self, stage: str, suite: moves.Suite) -> list[tuple[bool, Package]]:
        """Return what lists offer that are not those which the stage saw."""
        found: list[tuple[bool, Package]] = []
        with self._asked(redacted(suite.url)):
            current = self._suites.release(suite.url)
            if suite.digests == {current.sha256}:
                return []
            for folder, old in suite.outdated(current.release).items():
                offered = self._suites.packages(current, folder)
                found += [(current.release.optional, package) for package in offered]
                self.outdated[stage] |= old
        return found

    # --- the image that the root starts from ---

    def _image(self, root: str) -> Iterator[Moved]:
        settings = self._pipeline.source.settings
        url = settings.get("url")
        if not url or urlsplit(url).scheme not in {"http", "https"}:
            return
        with self._asked(redacted(url)):
            name, wanted = posixpath.basename(urlsplit(url).path), settings["sha256"]
            listed = checksum_beside(url, self._sources.reads)
            if listed is None:
                yield from self._image_by_head(root, url, wanted)
            elif listed != wanted:
                before, after = wanted[:_SHOWN_DIGITS], listed[:_SHOWN_DIGITS]
                yield Moved(root, "image", name, before, after, pinned=True)

    def _image_by_head(self, root: str, url: str, wanted: str) -> Iterator[Moved]:
        """Tell by what a server says of a file whether it is still the one it was."""
        headers = {k.lower(): v for k, v in self._sources.reads.head(url).headers.items()}
        names = ("etag", "last-modified", "content-length")
        now = {name: headers[name] for name in names if name in headers}
        before = self._memory.seen.get(wanted)
        if not now:
            raise VaultbuildError("its server does not say whether it changed")
        if before is None:
            self._memory.seen[wanted] = now
            raise VaultbuildError("how it looks is remembered from now on, to compare with")
        if before != now:
            told = next(name for name in names if before.get(name) != now.get(name))
            name = posixpath.basename(urlsplit(url).path)
            was, is_now = (str(each.get(told, "none")) for each in (before, now))
            yield Moved(root, "image", name, f"{told} {was}", f"{told} {is_now}", pinned=True)

    # --- locks ---

    def _wheels(self, stage: str, pair: requirements_in.Pair) -> Iterator[Moved]:
        with self._asked(str(pair.lock)):
            old = requirements_in.pins_of((self._folder / pair.lock).read_text(encoding="utf-8"))
            new = requirements_in.pins_of(self._sources.resolve(pair))
            for name in sorted(old.keys() | new.keys()):
                before, after = old.get(name, "none"), new.get(name, "none")
                if before != after:
                    what = f"{name} of {pair.lock}"
                    yield Moved(stage, "wheels", what, before, after, pinned=True)

    def _models(self, stage: str, lock: Path) -> Iterator[Moved]:
        for model in parse_lock(lock, (self._folder / lock).read_bytes()).models:
            if model.revision in {None, model.commit}:
                continue
            with self._asked(f"{model.repo} of {lock}"):
                now = self._sources.hub().commit_of(model.repo, str(model.revision))
                if now != model.commit:
                    before, after = model.commit[:_SHOWN_DIGITS], now[:_SHOWN_DIGITS]
                    what = f"{model.repo} of {lock}"
                    yield Moved(stage, "model", what, before, after, pinned=True)


def _missing_lock(each: Built, *, bootstrapped: bool) -> str | None:
    """Say what of a stage cannot be known because an image has no network lock."""
    if each.packages is None:
        lost = bootstrapped and each.disk and each.source is None
        return "its source has no network lock: what it came from is unknown" if lost else None
    if each.handed is None:
        return "its image was made before network locks were kept: what it came from is unknown"
    if bootstrapped and each.source is None:
        return "its source is gone or has no network lock: what it came from is unknown"
    return None


def checksum_beside(url: str, reads: Reads) -> str | None:
    """Return the SHA-256 that a list beside a file gives it; None when there is no such list.

    Raises :class:`VaultbuildError` when nobody can be asked whether there is one.
    """
    name = posixpath.basename(urlsplit(url).path)
    parts = urlsplit(url)
    beside = parts._replace(path=posixpath.join(posixpath.dirname(parts.path), _SUMS)).geturl()
    try:
        text = reads.read(beside).body.decode(errors="replace")
    except PermanentError:
        return None
    for line in text.splitlines():
        digest, _, file = line.strip().partition(" ")
        if file.lstrip(" *").removeprefix("./") == name:
            return digest.lower()
    return None


# --- memory ---------------------------------------------------------------------------------------


class _Memory:
    """What upstream said before, of one variant. What cannot be read was never said."""

    def __init__(self, path: Path, variant: str) -> None:
        self._path = path
        self._variant = variant
        self._whole = _read(path)
        known = self._whole.get(variant, {})
        self.seen: dict[str, dict[str, str]] = dict(known.get("seen", {}))
        self.disks: dict[str, str] = dict(known.get("disks", {}))
        self.outdated = {stage: set(old) for stage, old in known.get("outdated", {}).items()}
        self.refresh: Refresh | None = None
        with contextlib.suppress(KeyError, TypeError):
            self.refresh = Refresh.from_json(known["refresh"])

    def recent(self, disks: Mapping[str, str], max_age: float) -> Refresh | None:
        """Return the last answer, if it is about these images and young enough."""
        if self.refresh is None or self.disks != disks:
            return None
        asked = time.strptime(self.refresh.asked, "%Y-%m-%dT%H:%M:%SZ")
        age = time.time() - _seconds(asked)
        return self.refresh if 0 <= age <= max_age else None

    def renewed(self, seen: Mapping[str, set[str]]) -> set[str]:
        """Return the stages that saw nothing any more of what was old at that time.

        An image that is another need not be of newer packages: one that was forced stands on the
        old root disk, one that was resumed on an old checkpoint.
        """
        return {stage for stage, old in self.outdated.items() if not seen.get(stage, set()) & old}

    def keep(
        self, found: Refresh, disks: Mapping[str, str], outdated: Mapping[str, set[str]]
    ) -> None:
        """Write down what was said."""
        told = {
            "refresh": found.to_json(),
            "disks": dict(disks),
            "outdated": {stage: sorted(old) for stage, old in outdated.items()},
            "seen": self.seen,
        }
        document = {**self._whole, "schema": moves.SCHEMA, self._variant: told}
        files.write_json(self._path, document, durable=False)


def _seconds(moment: time.struct_time) -> float:
    import calendar  # late: only here

    return calendar.timegm(moment)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(document, dict) and document.get("schema") == moves.SCHEMA
    return dict(document) if known else {}


def remembered(project: Project, image: Image) -> Refresh | None:
    """Return what upstream said when it was asked last, if that was about this very image."""
    memory = _Memory(project.index / _FILE, project.pipeline.variant)
    stage, disk = image.record.stage, image.record.disk.sha256
    return memory.refresh if memory.disks.get(stage, "").startswith(disk) else None
