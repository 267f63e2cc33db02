"""The files of a project, read and judged one by one, with every mistake of every file.

What pydantic finds wrong is told in the words of the file: its line, its key, what stands there,
and what to write instead. A mistake in one file keeps no other file from being judged.

This module is imported only when the pipeline is not known from an earlier run: pydantic alone
takes as long to import as everything else of ``vaultbuild plan``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, get_args

from pydantic import ValidationError

from builder.errors import Problem
from builder.role_schema import MetaFile, SpecsFile
from builder.schema import Part, PipelineFile, StageFile
from builder.suggest import suggestion
from builder.values import WrongValueError, shown
from builder.yamlfile import Key, YamlFile, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic_core import ErrorDetails

    from builder.memo import Tree
    from builder.role_schema import OptionPart
    from builder.schema import RolePart

PIPELINE = "stages/pipeline.yml"
ROLES = "ansible/roles"

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_SENTENCES = {"missing": "is missing", "too_short": "must not be empty"}

FileT = TypeVar("FileT", bound=Part)


class Read(NamedTuple, Generic[FileT]):
    """A file of the project: where things stand in it, and what it says."""

    file: YamlFile
    says: FileT


def read(tree: Tree, path: str, model: type[FileT]) -> tuple[Read[FileT] | None, list[Problem]]:
    """Read and judge one file; nothing when it is missing or wrong."""
    file, problems = read_yaml(tree, path)
    if file is None:
        return None, problems
    if file.data is None:
        return None, [*problems, file.problem((), "is empty")]
    try:
        says = model.model_validate(file.data)
    except ValidationError as error:
        return None, problems + [_problem(file, model, detail) for detail in error.errors()]
    return (None, problems) if problems else (Read(file, says), [])


def read_yaml(tree: Tree, path: str) -> tuple[YamlFile | None, list[Problem]]:
    """Read one file as data; nothing when it is missing or no YAML."""
    try:
        content = tree.read(path)
    except OSError as error:
        return None, [Problem(Path(path), f"cannot be read: {error.strerror}")]
    if content is None:
        return None, [Problem(Path(path), "is missing")]
    return parse(Path(path), content)


@dataclass(frozen=True, slots=True)
class RoleFiles:
    """What a role says about itself."""

    name: str
    specs: Read[SpecsFile] | None
    dependencies: tuple[str, ...]
    meta: Read[MetaFile] | None
    defaults: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """All files of a project that could be read, and what is wrong with all of them."""

    pipeline: Read[PipelineFile] | None
    stages: Mapping[str, Read[StageFile]]
    roles: Mapping[str, RoleFiles]
    stage_folders: tuple[str, ...]
    role_folders: tuple[str, ...]
    problems: tuple[Problem, ...]

    def before(self, role: str) -> tuple[str, ...]:
        """Return all roles that run before ``role``, transitively, in their order."""
        order: dict[str, None] = {}

        def walk(name: str, path: tuple[str, ...]) -> None:
            for dependency in self.roles[name].dependencies if name in self.roles else ():
                if dependency not in path:
                    walk(dependency, (*path, dependency))
                    order.setdefault(dependency)

        walk(role, (role,))
        return tuple(order)

    def options(self, role: str) -> Mapping[str, OptionPart] | None:
        """Return the variables that a role itself declares; None when that cannot be read."""
        specs = self.roles[role].specs if role in self.roles else None
        return specs.says.argument_specs.main.options if specs else None

    def all_options(self, role: str) -> Mapping[str, OptionPart] | None:
        """Return the variables that a role and those before it declare; None as above."""
        known = [self.options(name) for name in (*self.before(role), role)]
        return (
            None
            if None in known
            else {k: v for options in known if options for k, v in options.items()}
        )


def read_project(tree: Tree) -> ProjectFiles:
    """Read the pipeline, all stages, and the roles that they use."""
    pipeline, problems = read(tree, PIPELINE, PipelineFile)
    folders = tuple(n for n in tree.folders("stages") if tree.is_file(stage_file(n)))
    stages = {}
    for name in folders:
        stage, found = read(tree, stage_file(name), StageFile)
        problems += found
        if stage:
            stages[name] = stage
    role_folders = tree.folders(ROLES)
    used = {part.role for part in _role_parts(pipeline, stages.values())}
    roles, found = _read_roles(tree, used, role_folders)
    return ProjectFiles(
        pipeline=pipeline,
        stages=stages,
        roles=roles,
        stage_folders=folders,
        role_folders=role_folders,
        problems=(*problems, *found),
    )


def stage_file(name: str) -> str:
    """Return the path of a stage's file."""
    return f"stages/{name}/stage.yml"


def _role_parts(
    pipeline: Read[PipelineFile] | None, stages: Iterable[Read[StageFile]]
) -> Iterator[RolePart]:
    for stage in stages:
        yield from stage.says.roles
    for variant in pipeline.says.variants.values() if pipeline else ():
        for override in variant.stages.values():
            yield from override.roles or ()


def _read_roles(
    tree: Tree, used: Iterable[str], folders: Iterable[str]
) -> tuple[dict[str, RoleFiles], list[Problem]]:
    """Read the roles that are used and, in turn, those that they depend on."""
    roles: dict[str, RoleFiles] = {}
    problems: list[Problem] = []
    waiting = sorted(used)
    while waiting:
        name = waiting.pop()
        if name in folders and name not in roles:
            roles[name], found = _read_role(tree, name)
            problems += found
            waiting += roles[name].dependencies
    return roles, problems


def _read_role(tree: Tree, name: str) -> tuple[RoleFiles, list[Problem]]:
    folder = f"{ROLES}/{name}"
    specs, problems = _read_specs(tree, f"{folder}/meta/argument_specs.yml", role=name)
    meta: Read[MetaFile] | None = None
    defaults: Mapping[str, Any] = {}
    if tree.is_file(f"{folder}/meta/main.yml"):
        meta, found = read(tree, f"{folder}/meta/main.yml", MetaFile)
        problems += found
    if tree.is_file(f"{folder}/defaults/main.yml"):
        defaults, found = _read_defaults(tree, f"{folder}/defaults/main.yml")
        problems += found
    dependencies = tuple(part.role for part in meta.says.dependencies) if meta else ()
    return RoleFiles(name, specs, dependencies, meta, defaults), problems


def _read_specs(
    tree: Tree, path: str, *, role: str
) -> tuple[Read[SpecsFile] | None, list[Problem]]:
    if not tree.is_file(path):
        hint = 'a role declares its variables there: "argument_specs: {main: {options: {}}}"'
        return None, [Problem(Path(path), f"role {role} has no such file", hint=hint)]
    specs, problems = read(tree, path, SpecsFile)
    if specs is None:
        return None, problems
    foreign = [
        name for name in specs.says.argument_specs.main.options if not name.startswith(f"{role}_")
    ]
    return specs, [
        specs.file.problem(
            ("argument_specs", "main", "options", name),
            "a role's variable begins with the role's name",
            f"name it {role}_{name}",
        )
        for name in foreign
    ]


def _read_defaults(tree: Tree, path: str) -> tuple[Mapping[str, Any], list[Problem]]:
    file, problems = read_yaml(tree, path)
    if file is None:
        return {}, problems
    if not isinstance(file.data, dict | None):
        return {}, [*problems, file.problem((), f"must be a mapping, not {shown(file.data)}")]
    return file.data or {}, problems


def _problem(file: YamlFile, model: type[Part], detail: ErrorDetails) -> Problem:
    # pydantic marks a wrong key of a mapping with one more step.
    key: Key = tuple(part for part in detail["loc"] if part != "[key]")
    message, hint = _words(model, key, detail)
    return file.problem(key, message, hint)


def _words(model: type[Part], key: Key, detail: ErrorDetails) -> tuple[str, str | None]:
    """Say what pydantic found, and what to do, in the words of the file."""
    kind, found = detail["type"], detail["input"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    if isinstance(error := context.get("error"), WrongValueError):
        return error.message, error.hint
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {shown(found)}", _type_hint(kind, found)
    if kind == "extra_forbidden":
        return "is not a key that is known here", suggestion(str(key[-1]), _keys(model, key[:-1]))
    if kind == "literal_error":
        return f"must be {context['expected']}, not {shown(found)}", None
    if kind in _SENTENCES:
        return _SENTENCES[kind], None
    return detail["msg"][:1].lower() + detail["msg"][1:], None


def _type_hint(kind: str, found: object) -> str | None:
    if kind == "string_type" and isinstance(found, bool | int | float):
        return "put it in quotes"
    return "leave the key out" if found is None else None


def _keys(model: Any, key: Key) -> list[str]:
    """Return the keys that the mapping at ``key`` of a file may have."""
    for part in key:
        if isinstance(part, str) and (field := _fields(model).get(part)):
            model = field.annotation
        model = _part_of(model)
    return list(_fields(model))


def _fields(model: Any) -> dict[str, Any]:
    fields = getattr(model, "model_fields", {})
    return {field.alias or name: field for name, field in fields.items()}


def _part_of(annotation: Any) -> Any:
    """Return the model inside ``list[M]``, ``dict[str, M]`` or ``M | None``, or what was given."""
    while arguments := [a for a in get_args(annotation) if a is not type(None)]:
        annotation = arguments[-1]
    return annotation
