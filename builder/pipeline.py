"""The stages of a project, for one variant, and what lies between the root and any of them.

Values only: nothing here changes, and nothing reads a file except :func:`load_pipeline`. Once the
project's files were found right, the answer is kept, and while they stay the same neither YAML nor
pydantic is loaded again: ``vaultbuild plan`` runs after every keystroke that matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from builder.errors import Problem, ProjectError
from builder.memo import Tree, keep, program_digest, recall
from builder.role_names import role_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PIPELINE_FILE = Path("stages/pipeline.yml")
ROLES_FOLDER = Path("ansible/roles")
SEAL = "seal"
"""The role that ends a sealed stage: its program runs again on the disk of the stopped machine."""
SEALING_VERSION = 1
"""Of what :mod:`builder.sealing` does to a disk; part of the key of every stage that is sealed."""

INSTALLATION_VERSION = 1
"""Of what :mod:`builder.sources.iso` does beside an installer; part of the key of what it makes."""
CLOUD_IMAGE_VERSION = 2
"""Of what :mod:`builder.sources.cloud_image` makes of an image; part of the key of that disk."""

# The modules that turn files into the answer: when one of them changes, kept answers are void.
_DECIDING = (
    "config", "kernel", "memo", "open_pins", "pipeline", "resolve", "role_names", "role_schema",
    "schema", "settings", "values", "yamlfile",
)  # fmt: skip
_MIB = 2**20

SourceKind = Literal["bootstrap", "cloud_image", "iso"]
Network = Literal["caches", "open"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What a guest gets. Never in a key, except the disk's size, in the source's."""

    cpus: int
    memory_mib: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class RoleUse:
    """A role as a stage uses it, with the variables that it and its dependencies declare.

    ``name`` is what the stage calls it: a role may be used several times. ``paths`` are the
    variables that name a file of the stage's folder, relative to the project; ``variables`` are all
    others. Neither has what is only a default.
    """

    name: str
    variables: Mapping[str, Any]
    paths: Mapping[str, Path]

    @property
    def role(self) -> str:
        """The role that is used."""
        return role_of(self.name)


@dataclass(frozen=True, slots=True)
class Role:
    """A role as the project has it.

    ``dependencies`` are all roles that run before it, transitively, in their order; ``defaults``
    are the values of its own declared variables where a stage gives none.
    """

    name: str
    dependencies: tuple[str, ...]
    defaults: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of the role, relative to the project."""
        return ROLES_FOLDER / self.name


@dataclass(frozen=True, slots=True)
class Stage:
    """A named step whose result is an image. ``folder`` and ``template`` are project-relative.

    ``hosts`` are names that its roles may reach beside the caches.
    """

    name: str
    parent: str | None
    roles: tuple[RoleUse, ...]
    template: Path
    network: Network
    resources: Resources
    folder: Path
    hosts: tuple[str, ...] = ()

    @property
    def sealed(self) -> RoleUse | None:
        """The role that seals its disk; None where that is not the last one."""
        last = self.roles[-1] if self.roles else None
        return last if last and last.name == SEAL else None

    @property
    def reach(self) -> str:
        """In a word, what its roles may reach: caches, hosts or open."""
        return "hosts" if self.hosts and self.network == "caches" else self.network


@dataclass(frozen=True, slots=True)
class Source:
    """What the root stage starts from.

    ``settings`` have their defaults filled in; ``paths`` are the files of the root stage's folder
    that they name, relative to the project.
    """

    kind: SourceKind
    settings: Mapping[str, Any]
    paths: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """All stages of one variant, parents first.

    ``accept``: rules of what goes together that the variant need not keep. ``open_pins``: where it
    has values that nobody filled in, and what to type to know them. ``default``: the variant that
    is meant where none is named.
    """

    project: Path
    name: str
    version: str
    variant: str
    variants: tuple[str, ...]
    source: Source
    stages: tuple[Stage, ...]
    roles: Mapping[str, Role]
    resources: Resources
    caches: Mapping[str, Mapping[str, Any]]
    accept: tuple[str, ...] = ()
    open_pins: tuple[Problem, ...] = ()
    default: str = ""

    def command(self, words: str) -> str:
        """Return what to type, such as ``stage final``, so that it means this variant."""
        named = "" if self.variant == self.default else f" --variant {self.variant}"
        return f"vaultbuild {words}{named}"

    def require_filled(self) -> None:
        """Raise :class:`ProjectError` when the variant has pins that nobody filled in."""
        if self.open_pins:
            raise ProjectError(
                self.open_pins,
                hint=f"the variant {self.variant} is built once these are filled in; "
                "the others are not concerned",
            )

    def stage(self, name: str) -> Stage:
        """Return a stage; raise :class:`ProjectError` that names the nearest one."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise _unknown("stage", name, (stage.name for stage in self.stages))

    def lineage(self, name: str) -> tuple[Stage, ...]:
        """Return the stages from the root to ``name``."""
        stage = self.stage(name)
        above = self.lineage(stage.parent) if stage.parent else ()
        return (*above, stage)

    def role_folder(self, name: str) -> Path:
        """Return the folder of a role, relative to the project."""
        return self.roles[name].folder

    def role_dependencies(self, name: str) -> tuple[str, ...]:
        """Return all roles that run before ``name``, transitively, in their order."""
        return self.roles[name].dependencies

    def variables_of(self, name: str) -> dict[str, Any]:
        """Return the values in force in a stage's image: of its roles and its ancestors'.

        A stage's own values win over its ancestors', given ones over defaults, and those of a use
        without a name of its own over those of other uses of that role.
        """
        values: dict[str, Any] = {}
        for stage in self.lineage(name):
            for use in sorted(stage.roles, key=lambda use: use.name == use.role):
                values |= self._in_force(use)
        return values

    def uses_of(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the values in force of each use of a role in a stage and its ancestors, by name.

        Where two stages call a use the same, the later one's.
        """
        return dict(self.every_use(name))

    def every_use(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each use of a role in a stage and its ancestors, with its values in force."""
        for stage in self.lineage(name):
            for use in stage.roles:
                yield use.name, self._in_force(use)

    def _in_force(self, use: RoleUse) -> dict[str, Any]:
        """Return what a use is given, and defaults. Files are named relative to the project."""
        values: dict[str, Any] = {}
        for role in (*self.role_dependencies(use.role), use.role):
            values |= self.roles[role].defaults
        paths = {name: str(path) for name, path in use.paths.items()}
        return {**values, **use.variables, **paths}


def load_pipeline(
    project: Path, variant: str | None = None, *, cache: Path | None = None
) -> Pipeline:
    """Return the pipeline of a variant, or of the default one.

    Raises :class:`ProjectError` with every mistake of every file. ``cache`` is a file where the
    answer is kept for as long as the files are the same; a cache that is broken is not there.
    """
    answer = _recall(project, cache) or _resolve(project, cache)
    chosen = variant or answer["variant"]
    if chosen not in answer["variants"]:
        raise _unknown("variant", chosen, answer["variants"])
    return _pipeline(project, chosen, answer)


def _recall(project: Path, cache: Path | None) -> dict[str, Any] | None:
    return recall(cache, project, program=_program()) if cache else None


def _resolve(project: Path, cache: Path | None) -> dict[str, Any]:
    # Late: YAML and pydantic take longer to import than a plan with nothing changed may take.
    from builder.config import read_project
    from builder.resolve import resolve

    tree = Tree(project)
    answer = resolve(read_project(tree), tree)
    if cache:
        keep(cache, tree, answer, program=_program())
    return answer


def _program() -> str:
    folder = Path(__file__).parent
    return program_digest(folder / f"{module}.py" for module in _DECIDING)


def _unknown(kind: str, name: str, known: Iterable[str]) -> ProjectError:
    from builder.suggest import suggestion  # late: only a mistake needs it

    hint = suggestion(name, known)
    return ProjectError([Problem(PIPELINE_FILE, f'there is no {kind} "{name}"', hint=hint)])


# --- from the answer's document to values ---------------------------------------------------------


def _pipeline(project: Path, variant: str, answer: Mapping[str, Any]) -> Pipeline:
    chosen = answer["variants"][variant]
    return Pipeline(
        project=project.absolute(),
        name=answer["name"],
        version=answer["version"],
        variant=variant,
        variants=tuple(answer["variants"]),
        source=_source(chosen["source"]),
        stages=tuple(_stage(stage) for stage in chosen["stages"]),
        roles={name: _role(name, role) for name, role in answer["roles"].items()},
        resources=_resources(chosen["resources"]),
        caches=answer["caches"],
        accept=tuple(chosen["accept"]),
        open_pins=tuple(_open_pin(each) for each in chosen["open_pins"]),
        default=answer["variant"],
    )


def _open_pin(document: Mapping[str, Any]) -> Problem:
    return Problem(**{**document, "file": Path(document["file"])})


def _source(document: Mapping[str, Any]) -> Source:
    kind = cast("SourceKind", document["kind"])
    return Source(kind, document["settings"], _paths(document["paths"]))


def _stage(document: Mapping[str, Any]) -> Stage:
    return Stage(
        name=document["name"],
        parent=document["parent"],
        roles=tuple(_role_use(use) for use in document["roles"]),
        template=Path(document["template"]),
        network=cast("Network", document["network"]),
        resources=_resources(document["resources"]),
        folder=Path(document["folder"]),
        hosts=tuple(document["hosts"]),
    )


def _role_use(document: Mapping[str, Any]) -> RoleUse:
    return RoleUse(document["name"], document["variables"], _paths(document["paths"]))


def _role(name: str, document: Mapping[str, Any]) -> Role:
    return Role(name, tuple(document["dependencies"]), document["defaults"])


def _resources(document: Mapping[str, int]) -> Resources:
    return Resources(
        cpus=document["cpus"],
        memory_mib=document["memory"] // _MIB,
        disk_bytes=document["disk"],
    )


def _paths(document: Mapping[str, str]) -> dict[str, Path]:
    return {name: Path(path) for name, path in document.items()}
