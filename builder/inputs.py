"""What a stage depends on: the documents, the keys that are their digests, and the snapshot.

::

    source ──► base ──► nvidia_driver ──► cuda_runtime ──► ...      one document each, in this order
       └─ key ──┴─ key ───────┴─ key ──────────┴─ key               each holds the key before it

A stage contributes one document for itself and one for each of its roles, in their order; the key
of the last is the stage's key. So the keys of a whole lineage are known before any work, and two
documents of one stage tell in words why its keys differ (:mod:`builder.plan`).

A document holds content, never circumstance: no time, no absolute path, no processor, port or
proxy, and no address where the same bytes may be had elsewhere.

A build works on a snapshot of exactly the files its documents name. What was not declared is not
there, so it cannot be used unnoticed, and an edit made while the build runs cannot get mixed in.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from builder.digest import digest_document
from builder.errors import Problem, ProjectError, VaultbuildError
from builder.pipeline import CLOUD_IMAGE_VERSION, INSTALLATION_VERSION, SEALING_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from builder.digest import Facts, StatCache
    from builder.pipeline import Pipeline, RoleUse, Stage

SCHEMA: Final = 1
"""The meaning of the documents. Raise it when that changes: every key changes with it."""

# What all roles share: how Ansible behaves, and which collections it has, in exact versions.
SHARED: Final = ("ansible/ansible.cfg", "ansible/requirements.yml")
TEMPLATES: Final = "packer"

_TEMPLATE_SUFFIX = ".j2"
_LINK = "link:"
_BLOCK = 1 << 20
_PEOPLE_READ = "README.md"
_ASKED_LATER = "checks"

# Settings that say where something is fetched, beside another that says what it must be (sha256),
# and how long that may take.
_WHEREABOUTS = {"bootstrap": (), "cloud_image": ("url",), "iso": ("url", "mirror", "timeout")}


class Described(Protocol):
    """What a stage's key holds of its template."""

    @property
    def digest(self) -> str:
        """The digest of the template, rendered without circumstance."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that the HCL names, relative to the project."""


@dataclass(frozen=True, slots=True)
class Template:
    """A description that was remembered."""

    digest: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Toolset:
    """What carries out a build, as far as it shapes the result.

    ``versions`` names packer, ansible-core, each collection and ``provisioning``;
    ``source_program`` is the version of the code that makes the root's source; ``installer`` tells
    the digest of the template that installs an ISO.
    """

    engine: str
    versions: Mapping[str, str]
    source_program: str | int
    template: Callable[[Stage], Described]
    installer: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class StageInputs:
    """What one stage depends on.

    ``documents`` and ``keys`` belong together one to one: for the root stage its source's, then
    the stage's, then one for each role. ``sources`` are the texts the template was rendered from:
    part of the snapshot, but not of the key, where the rendered template stands for them.
    """

    stage: str
    documents: tuple[Mapping[str, Any], ...]
    keys: tuple[str, ...]
    template: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of the stage's image."""
        return self.keys[-1]

    @property
    def roles(self) -> tuple[tuple[str, str], ...]:
        """Each role in order, with the key of the disk as it stands after it."""
        pairs = zip(self.documents, self.keys, strict=True)
        return tuple((each["role"], key) for each, key in pairs if each["kind"] == "role")

    @property
    def role_documents(self) -> tuple[Mapping[str, Any], ...]:
        """The document of each role in order."""
        return tuple(each for each in self.documents if each["kind"] == "role")

    @property
    def files(self) -> dict[str, str]:
        """All files of the snapshot and what they hold."""
        found = dict(self.sources)
        for document in self.documents:
            found.update(document.get("files", {}))
        return found


class EditedError(VaultbuildError):
    """Files were edited between the plan and the snapshot: plan again."""

    def __init__(self, paths: Sequence[str]) -> None:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        super().__init__(
            f"{paths[0]}{more} changed while this run was under way",
            hint="run the same command again; it goes by what the files hold now",
        )
        self.paths = tuple(paths)


def lineage_inputs(
    pipeline: Pipeline, name: str, *, tools: Toolset, cache: StatCache
) -> tuple[StageInputs, ...]:
    """Return what each stage from the root to ``name`` depends on, in this order.

    Raises :class:`ProjectError` for files that are missing, unreadable, or links to files that
    nobody declared.
    """
    reading = _Reading(pipeline, tools, cache)
    chain: list[StageInputs] = []
    for stage in pipeline.lineage(name):
        chain.append(reading.stage_inputs(stage, chain[-1].key if chain else None))
    return tuple(chain)


def source_document(pipeline: Pipeline, *, tools: Toolset, cache: StatCache) -> dict[str, Any]:
    """Return the document of what the root stage starts from.

    Where a checksum says what is fetched, the address does not count: a mirror is as good.
    """
    source = pipeline.source
    program, template = tools.source_program, {}
    if source.kind == "iso":
        program, template = INSTALLATION_VERSION, {"template": tools.installer()}
    elif source.kind == "cloud_image":
        program = CLOUD_IMAGE_VERSION
    whereabouts = _WHEREABOUTS[source.kind]
    return {
        "schema": SCHEMA,
        "kind": "source",
        "source": source.kind,
        "settings": {k: v for k, v in source.settings.items() if k not in whereabouts},
        "files": _entries(cache, _names(source.paths.values())),
        "disk": pipeline.resources.disk_bytes,
        "program": program,
        **template,
    }


def remembered_templates(
    render: Callable[[Stage], Described],
    context: Mapping[str, Any],
    *,
    cache: StatCache,
    facts: Facts,
) -> Callable[[Stage], Template]:
    """Return a ``Toolset.template`` that renders only when something it reads has changed.

    ``context`` is all that the rendering depends on beside the template's texts and the stage's
    name and network: the variant, the engine, the variables, versions, the program's own code. An
    unchanged plan then needs no Jinja2.
    """

    def template(stage: Stage) -> Template:
        sources = _template_sources(stage, cache)
        given = [dict(context), stage.template.as_posix(), stage.network]
        inputs = digest_document([given, sources])
        name = f"template {context.get('variant')} {stage.name}"
        digest, files = facts.remember(name, inputs, lambda: _as_pair(render(stage)))
        return Template(digest, tuple(map(Path, files)))

    return template


def remembered_installer(
    render: Callable[[], str],
    context: Mapping[str, Any],
    *,
    root: Stage,
    cache: StatCache,
    facts: Facts,
) -> Callable[[], str]:
    """Return a ``Toolset.installer`` that renders only when something it reads has changed."""

    def installer() -> str:
        inputs = digest_document([dict(context), _template_sources(root, cache)])
        return str(facts.remember(f"installer {context.get('variant')}", inputs, render))

    return installer


def snapshot(project: Path, inputs: StageInputs, folder: Path) -> None:
    """Copy the stage's input files to ``folder``, each at its path relative to the project.

    ``folder`` must not exist yet. Every copy is digested while it is made; raises
    :class:`EditedError` when one is not what the key says.
    """
    folder.mkdir(parents=True)
    copy_files(project, inputs.files, folder)


def copy_files(project: Path, files: Mapping[str, str], folder: Path) -> None:
    """Copy ``files``, each with what it holds, to ``folder``; raises :class:`EditedError`."""
    edited = [path for path, value in files.items() if _copy(project, path, value, folder) != value]
    if edited:
        raise EditedError(edited)


class _Reading:
    """Reads stages of one pipeline, for one set of tools, through one cache."""

    def __init__(self, pipeline: Pipeline, tools: Toolset, cache: StatCache) -> None:
        self._pipeline = pipeline
        self._tools = tools
        self._cache = cache

    def stage_inputs(self, stage: Stage, parent: str | None) -> StageInputs:
        """Return the inputs of ``stage`` on top of the key ``parent``; the root has none."""
        documents: list[dict[str, Any]] = []
        keys = [parent] if parent else []

        def add(document: dict[str, Any]) -> None:
            documents.append(document)
            keys.append(digest_document(document))

        if not parent:
            add(source_document(self._pipeline, tools=self._tools, cache=self._cache))
        add(self._stage_document(stage, keys[-1]))
        for role in stage.roles:
            add({**self._role_document(role, keys[-1]), **_sealing(role, stage)})
        return StageInputs(
            stage=stage.name,
            documents=tuple(documents),
            keys=tuple(keys[-len(documents) :]),
            template=stage.template.as_posix(),
            sources=_template_sources(stage, self._cache),
        )

    def _stage_document(self, stage: Stage, parent: str) -> dict[str, Any]:
        template = self._tools.template(stage)
        shared = [path for path in SHARED if (self._cache.root / path).exists()]
        return {
            "schema": SCHEMA,
            "kind": "stage",
            "parent": parent,
            "stage": stage.name,
            "engine": self._tools.engine,
            "network": {"mode": stage.network, "hosts": sorted(stage.hosts)}
            if stage.hosts
            else stage.network,
            "template": template.digest,
            "files": _entries(self._cache, [*shared, *_names(template.files)]),
            "tools": self._tools.versions,
        }

    def _role_document(self, role: RoleUse, parent: str) -> dict[str, Any]:
        paths = {option: path.as_posix() for option, path in role.paths.items()}
        return {
            "schema": SCHEMA,
            "kind": "role",
            "parent": parent,
            "role": role.name,
            "files": self._role_files(role.role, paths.values()),
            "variables": {**role.variables, **paths},
        }

    def _role_files(self, role: str, paths: Iterable[str]) -> dict[str, str]:
        """Digest the role's folder, those of the roles it depends on, and the files it is given."""
        files = _entries(self._cache, paths)
        for name in (*self._pipeline.role_dependencies(role), role):
            files.update(self._tree(self._pipeline.role_folder(name)))
        require_links_inside(files, "role")
        return files

    def _tree(self, folder: Path) -> dict[str, str]:
        try:
            found = self._cache.tree(folder.as_posix())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ProjectError([Problem(folder, "there is no such role")]) from error
        # What people read of a role, and its checks: in no snapshot, so no task can read them.
        found.pop((folder / _PEOPLE_READ).as_posix(), None)
        checks = f"{(folder / _ASKED_LATER).as_posix()}/"
        return {path: value for path, value in found.items() if not path.startswith(checks)}


def _sealing(role: RoleUse, stage: Stage) -> dict[str, Any]:
    """Only what is sealed is made anew when sealing does something else; no checkpoint is."""
    return {"tools": {"sealing": str(SEALING_VERSION)}} if role is stage.sealed else {}


def _template_sources(stage: Stage, cache: StatCache) -> dict[str, str]:
    """Digest the texts that rendering may read: those beside the template, and the shared ones."""
    folders = {stage.template.parent.as_posix(), TEMPLATES}
    trees = [cache.tree(folder) for folder in folders if (cache.root / folder).is_dir()]
    texts = {
        p: value for tree in trees for p, value in tree.items() if p.endswith(_TEMPLATE_SUFFIX)
    }
    return {**texts, **_entries(cache, _names([stage.template]))}


def _as_pair(template: Described) -> tuple[str, list[str]]:
    return template.digest, _names(template.files)


def _names(paths: Iterable[Path]) -> list[str]:
    return [path.as_posix() for path in paths]


def _entries(cache: StatCache, paths: Iterable[str]) -> dict[str, str]:
    return dict(sorted((path, _entry(cache, path)) for path in paths))


def _entry(cache: StatCache, path: str) -> str:
    try:
        return cache.entry(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ProjectError([Problem(Path(path), "there is no such file")]) from error


def require_links_inside(files: Mapping[str, str], what: str) -> None:
    """Refuse links to what is not among ``files``: no digest would notice when that changes.

    ``what`` is what the files make up: a role, a folder of checks.
    """
    links = {path: value[len(_LINK) :] for path, value in files.items() if value.startswith(_LINK)}
    if not links:
        return
    places = set(files) | {parent for path in files for parent in _folders_above(path)}
    problems = [
        Problem(
            Path(path),
            f"is a link to {target}, which is not among the files of its {what}",
            hint=f"put a copy there, or link to a file of the same {what}",
        )
        for path, target in links.items()
        if posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) not in places
    ]
    if problems:
        raise ProjectError(problems)


def _folders_above(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _copy(project: Path, path: str, value: str, folder: Path) -> str:
    """Copy one file; return what the copy holds, or "" where there is no such file any more."""
    source, target = project / path, folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if value.startswith(_LINK):
        return _copy_link(source, target)
    try:
        reader = source.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
    with reader:
        return _copy_content(reader, target)


def _copy_link(source: Path, target: Path) -> str:
    try:
        pointed = source.readlink()
    except OSError:
        return ""  # gone, or no link any more
    target.symlink_to(pointed)
    return f"{_LINK}{pointed}"


def _copy_content(reader: BinaryIO, target: Path) -> str:
    """Copy bytes and the one bit of mode that counts, whatever this user's umask is."""
    digest = hashlib.sha256()
    with target.open("xb") as writer:
        executable = bool(os.fstat(reader.fileno()).st_mode & 0o100)
        while block := reader.read(_BLOCK):
            digest.update(block)
            writer.write(block)
        os.fchmod(writer.fileno(), 0o755 if executable else 0o644)
    return f"{'exec' if executable else 'file'}:{digest.hexdigest()}"
