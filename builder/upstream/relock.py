"""New pins for a project (``vaultbuild lock``): all are found first, then written, as a diff shows.

======== ================================================ =========================================
kind     what is pinned                                   what says what is new
======== ================================================ =========================================
packages ``name=version``, variables that are a version   the archives of the pipeline's variants
image    ``sha256`` of a cloud image                      ``SHA256SUMS`` beside the image
wheels   ``*.lock`` beside an ``*.in``                    the package index of the host's pip
models   the same, with ``models:``                       the hub
======== ================================================ =========================================
"""

from __future__ import annotations

import difflib
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from builder import files
from builder.compat.stack import Stack
from builder.digest import digest_document
from builder.errors import StoreError
from builder.fetch.urls import redacted
from builder.kernel import Kernel, kernel_among
from builder.pipeline import PIPELINE_FILE
from builder.project import Project
from builder.sources.bootstrap import host_mirrors
from builder.suggest import suggestion
from builder.upstream import archive, checksum_beside, kernels, models_in, pins, requirements_in
from builder.upstream.kernels import Booting
from builder.upstream.pins import Edit, Note, Place, Scope
from builder.upstream.suites import Suites

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from builder.pipeline import Pipeline
    from builder.upstream import Sources
    from builder.upstream.archive import Origin, Package

KINDS: Final = ("packages", "image", "wheels", "models")
# Roots are made for this one.
_ARCHITECTURE = "amd64"
_MODELS_HEADER = "# Made by: vaultbuild lock\n"


@dataclass(frozen=True, slots=True)
class Change:
    """A file that becomes another. ``before`` is None where there is none yet."""

    path: Path
    before: str | None
    after: str

    def diff(self) -> str:
        """Return the change as ``git apply`` takes it."""
        old, new = (text.splitlines(keepends=True) for text in (self.before or "", self.after))
        source = "/dev/null" if self.before is None else f"a/{self.path}"
        lines = difflib.unified_diff(old, new, source, f"b/{self.path}")
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        )


@dataclass(slots=True)
class Relock:
    """What to change: whole files, and in YAML files the places; ``notes`` tell what stays."""

    changes: list[Change] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def to_json(self, *, written: bool) -> dict[str, Any]:
        """Return the document of ``vaultbuild lock --json``."""
        return {
            "schema": 1,
            "written": written and bool(self.changes),
            "files": [{"file": str(one.path), "diff": one.diff()} for one in self.changes],
            "edits": [pins.summary(edit) for edit in self.edits],
            "notes": [{"what": note.what, "why": note.why} for note in self.notes],
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: kinds, locks by their path, and packages or variables by name."""

    kinds: frozenset[str] = frozenset(KINDS)
    locks: frozenset[Path] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, words: Sequence[str]) -> Wanted:
        """Read the words of the command line; none mean everything."""
        if not words:
            return cls()
        kinds = {word for word in words if word in KINDS}
        locks = {Path(word) for word in words if "/" in word or word.endswith((".lock", ".in"))}
        names = {word for word in words if word not in kinds and Path(word) not in locks}
        return cls(frozenset(kinds), frozenset(locks), frozenset(names))

    def kind(self, name: str) -> bool:
        """Whether something of a kind may be asked for."""
        return name in self.kinds

    def pair(self, kind: str, *paths: Path) -> bool:
        """Whether a lock is asked for, by its kind or by one of its paths."""
        return kind in self.kinds or any(path in self.locks for path in paths)


def relock(folder: Path, sources: Sources, wanted: Wanted) -> Relock:
    """Find new pins for the project in ``folder``; nothing is written.

    Raises :class:`builder.errors.VaultbuildError` when one of those that know cannot be asked.
    """
    found = Relock()
    project = Project(folder)
    default = project.pipeline
    projects = [Project(folder, variant=name) for name in default.variants]
    _yaml_files(projects, sources, wanted, found)
    locks = {*_wheels(project.folder, sources, wanted, found)}
    locks |= {*_models(project.folder, sources, wanted, found)}
    if unknown := sorted(map(str, wanted.locks - locks)):
        raise StoreError(
            f"{unknown[0]} is no lock that has a list of wishes (*.in) beside it",
            hint=f"there are: {', '.join(sorted(map(str, locks))) or 'none'}",
        )
    return found


def write(folder: Path, found: Relock) -> None:
    """Write what was found; raises when a file is not what it was when it was read."""
    for change in found.changes:
        path = folder / change.path
        now = path.read_text(encoding="utf-8") if path.exists() else None
        if now != change.before:
            raise StoreError(f"{change.path} was edited meanwhile", hint="run the command again")
    for change in found.changes:
        path = folder / change.path
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        files.write_text(path, change.after, mode=mode)


# --- pipeline.yml and stage.yml -------------------------------------------------------------------


def _yaml_files(
    projects: Sequence[Project], sources: Sources, wanted: Wanted, found: Relock
) -> None:
    folder, pipeline = projects[0].folder, projects[0].pipeline
    paths = [PIPELINE_FILE, *(stage.folder / "stage.yml" for stage in pipeline.stages)]
    texts = {path: (folder / path).read_text(encoding="utf-8") for path in paths}
    places = {path: pins.places_in(path, text) for path, text in texts.items()}
    edits = [*_images(projects, places[PIPELINE_FILE], sources, wanted, found)]
    if wanted.names or wanted.kind("packages"):
        whole = [place for each in places.values() for place in each]
        chosen = [place for place in whole if _may_be_pin(place)]
        _require_named(wanted, chosen)
        scopes = _Scopes(Suites(sources.packages))
        edits += _packages(projects, chosen, scopes, wanted, found)
        edits += _kernels(projects, whole, scopes, wanted, found)
    for path, text in texts.items():
        mine = [edit for edit in edits if edit.place.path == path]
        if mine:
            found.changes.append(Change(path, text, pins.edited(path, text, mine)))
    found.edits += edits


def _may_be_pin(place: Place) -> bool:
    """Whether a text is where versions are pinned: packages of a root, variables of roles."""
    if "variables" in place.key:
        return bool(place.pin) or place.value[:1].isdigit()
    return bool(place.pin) and "packages" in place.key


def _require_named(wanted: Wanted, places: Iterable[Place]) -> None:
    known = {place.pin[0] for place in places if place.pin}
    known |= {str(place.key[-1]) for place in places if "variables" in place.key}
    for name in sorted(wanted.names - known):
        hint = suggestion(name, {*known, *KINDS})
        raise StoreError(f"nothing here is pinned by the name {name}", hint=hint)


def _packages(
    projects: Sequence[Project],
    places: Sequence[Place],
    scopes_of: _Scopes,
    wanted: Wanted,
    found: Relock,
) -> Iterator[Edit]:
    by_variant: dict[str | None, list[Place]] = {}
    for place in places:
        by_variant.setdefault(_variant_of(place), []).append(place)
    needed = [
        each for each in projects if None in by_variant or each.pipeline.variant in by_variant
    ]
    scopes = {each.pipeline.variant: scopes_of.of(each) for each in needed}
    for variant, mine in by_variant.items():
        among = [scopes[variant]] if variant in scopes else list(scopes.values())
        if any(scope.offers for scope in among):
            edits, notes = pins.new_pins(mine, among, wanted.names)
            found.notes += [note for note in notes if note not in found.notes]
            yield from edits


def _kernels(
    projects: Sequence[Project],
    places: Sequence[Place],
    scopes: _Scopes,
    wanted: Wanted,
    found: Relock,
) -> Iterator[Edit]:
    """Yield the change to a newer kernel, pin by pin, where one goes with the drivers."""
    pinned = {} if wanted.names else _kernels_of(projects)
    of_variant = {
        variant: [place for place in places if _variant_of(place) in {variant, None}]
        for variant in pinned
    }
    owners = [variant for variant, mine in of_variant.items() if kernels.names_kernel(mine)]
    done: set[Place] = set()
    for owner in owners:
        project, kernel = pinned[owner]
        # By reference they have the pin of another variant, in a flavour of their own.
        sharing = [
            other
            for name, other in pinned.items()
            if name not in owners and other[1].bare == kernel.bare
        ]
        among = [_booting(*each, scopes) for each in ((project, kernel), *sharing)]
        if among[0].stack.driver is None:
            found.notes += _told_by_hand(kernel, scopes.of(project), found.notes)
            continue
        edits, notes = kernels.new_kernel(of_variant[owner], among, project.judge.table)
        found.notes[:] = [note for note in found.notes if note.what not in kernel.names]
        found.notes += [note for note in notes if note not in found.notes]
        yield from (edit for edit in edits if edit.place not in done)
        done |= {edit.place for edit in edits}


def _kernels_of(projects: Sequence[Project]) -> dict[str, tuple[Project, Kernel]]:
    """Return by variant the kernel that its source's packages pin, where they do."""
    of_source = (
        (each, kernel_among(each.pipeline.source.settings.get("packages", ()))) for each in projects
    )
    return {each.pipeline.variant: (each, kernel) for each, kernel in of_source if kernel}


def _booting(project: Project, kernel: Kernel, scopes: _Scopes) -> Booting:
    stages = [stage.name for stage in project.pipeline.stages]
    stack = project.judge.stack(stages) if project.judge.has_table else Stack()
    return Booting(kernel, scopes.of(project).offers, stack)


def _told_by_hand(kernel: Kernel, scope: Scope, known: Sequence[Note]) -> Iterator[Note]:
    note = pins.newer_kernel(kernel.names[0], kernel.version, [scope])
    yield from (each for each in (note,) if each and each not in known)


class _Scopes:
    """What each variant knows, asked of its archives once."""

    def __init__(self, suites: Suites) -> None:
        self._suites = suites
        self._known: dict[str, Scope] = {}

    def of(self, project: Project) -> Scope:
        """Return what a variant knows."""
        variant = project.pipeline.variant
        if variant not in self._known:
            self._known[variant] = _scope(project, self._suites)
        return self._known[variant]


def _variant_of(place: Place) -> str | None:
    of_variant = place.path == PIPELINE_FILE and place.key[0] == "variants"
    return str(place.key[1]) if of_variant else None


def _scope(project: Project, suites: Suites) -> Scope:
    pipeline = project.pipeline
    offers = archive.newest(
        package for origin in _origins(pipeline) for package in _offered(origin, suites)
    )
    held = pipeline.source.settings.get("hold", ())
    return Scope(
        pipeline.variant,
        {name: package.version for name, package in offers.items()},
        frozenset(name.partition("=")[0] for name in held),
        dict(_installed(project)),
    )


def _origins(pipeline: Pipeline) -> Iterator[Origin]:
    settings = pipeline.source.settings
    if pipeline.source.kind == "bootstrap":
        lines = settings["mirrors"] or host_mirrors(settings["suite"], settings["components"])
        origins = (archive.read_source(line, _ARCHITECTURE) for line in lines)
        yield from filter(None, origins)


def _offered(origin: Origin, suites: Suites) -> Iterator[Package]:
    current = suites.release(f"{origin.suite}/InRelease")
    for name in origin.folders:
        # A suite of security updates need not have every component.
        if current.release.packages_in(name):
            yield from suites.packages(current, name)


def _installed(project: Project) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield by stage the packages of the image that was made last, parents first."""
    for stage in project.pipeline.stages:
        documents = project.store.last(project.pipeline.variant, stage.name)
        image = project.store.find(digest_document(documents[-1])) if documents else None
        if image:
            yield stage.name, image.record.packages.get("dpkg", {})


def _images(
    projects: Sequence[Project],
    places: Sequence[Place],
    sources: Sources,
    wanted: Wanted,
    found: Relock,
) -> Iterator[Edit]:
    if not wanted.kind("image"):
        return
    for pipeline in (each.pipeline for each in projects):
        settings, kind = pipeline.source.settings, pipeline.source.kind
        url = settings.get("url", "")
        if urlsplit(url).scheme not in {"http", "https"}:
            continue
        key = ("variants", pipeline.variant, "source", kind, "sha256")
        place = next((each for each in places if each.key == key), None)
        listed = checksum_beside(url, sources.reads)
        if listed is None:
            found.notes.append(Note(redacted(url), "no SHA256SUMS beside it has a checksum for it"))
        elif place and listed != settings["sha256"]:
            yield Edit(place, redacted(url), place.value, listed)


# --- locks with wishes beside them ----------------------------------------------------------------


def _wheels(folder: Path, sources: Sources, wanted: Wanted, found: Relock) -> Iterator[Path]:
    """Make the locks of requirements anew; yield every path by which one can be asked for."""
    for pair in requirements_in.pairs_in(folder):
        yield from (pair.lock, pair.wishes)
        if wanted.pair("wheels", pair.lock, pair.wishes):
            _note_change(folder, pair.lock, sources.resolve(pair), found)


def _models(folder: Path, sources: Sources, wanted: Wanted, found: Relock) -> Iterator[Path]:
    for wishes in models_in.wishes_in(folder):
        lock = wishes.with_suffix(".lock")
        yield from (lock, wishes)
        if wanted.pair("models", lock, wishes):
            old = folder / lock
            text = old.read_text(encoding="utf-8") if old.exists() else _MODELS_HEADER
            first = requirements_in.first_lines(text)
            asked = models_in.read_wishes(wishes, (folder / wishes).read_bytes())
            new = models_in.make_lock(first, asked, sources.hub(), sources.reads)
            _note_change(folder, lock, new, found)


def _note_change(folder: Path, path: Path, after: str, found: Relock) -> None:
    file = folder / path
    before = file.read_text(encoding="utf-8") if file.exists() else None
    if before != after:
        found.changes.append(Change(path, before, after))
