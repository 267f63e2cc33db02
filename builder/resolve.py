"""How the files of a project fit together: what is wrong with that, and what comes out of it.

The checks here yield problems and go on, also where files are missing or broken: what can be judged
is judged, and what would only follow from another mistake is left out. Once there are no problems,
:func:`resolve` writes the pipeline of every variant as one JSON document, so that the answer can be
kept in a file.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from builder.config import PIPELINE, ROLES, stage_file
from builder.digest import canonical
from builder.errors import Problem, ProjectError
from builder.kernel import settled
from builder.open_pins import command, is_open
from builder.settings import (
    all_uses,
    misplaced,
    repeated_problems,
    undeclared_problems,
    use_problems,
    uses,
)
from builder.suggest import suggestion
from builder.yamlfile import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.config import ProjectFiles, Read
    from builder.memo import Tree
    from builder.schema import PipelineFile, RolePart, StageFile, VariantPart
    from builder.settings import Use
    from builder.yamlfile import Key, YamlFile

DEFAULT_TEMPLATE = "packer/stage.pkr.hcl.j2"
# What Ansible reads of a role without being told to.
_READ_BY_ANSIBLE = ("defaults/main.yml", "handlers/main.yml", "tasks/main.yml", "vars/main.yml")


def resolve(files: ProjectFiles, tree: Tree) -> dict[str, Any]:
    """Return the project as one document; raise :class:`ProjectError` with all its problems."""
    problems = [*files.problems, *_problems(files, tree)]
    if problems or files.pipeline is None:
        raise ProjectError(sorted(set(problems), key=_place), hint=_hint(files, tree))
    return _document(files, files.pipeline.says)


def _place(problem: Problem) -> tuple[str, int, str, str]:
    return str(problem.file), problem.line or 0, problem.key or "", problem.message


def _hint(files: ProjectFiles, tree: Tree) -> str | None:
    if files.pipeline is None and not tree.is_file(PIPELINE):
        return f"{tree.root} is no project; give the folder of one with --project DIR"
    return None


def _problems(files: ProjectFiles, tree: Tree) -> Iterator[Problem]:
    yield from _parent_problems(files)
    yield from _role_problems(files)
    yield from _dependency_problems(files)
    yield from _syntax_problems(files, tree)
    yield from _template_problems(files, tree)
    if files.pipeline:
        yield from _listing_problems(files, files.pipeline)
        yield from _variant_problems(files, files.pipeline)
        yield from _answers_problems(files, files.pipeline, tree)
        yield from _repetition_problems(files, files.pipeline)
        yield from undeclared_problems(files, files.pipeline)
        yield from repeated_problems(files, files.pipeline)
        for use in all_uses(files, files.pipeline):
            yield from use_problems(files, use, tree)


# --- stages ---------------------------------------------------------------------------------------


def _listing_problems(files: ProjectFiles, pipeline: Read[PipelineFile]) -> Iterator[Problem]:
    listed = pipeline.says.stages
    for at, name in enumerate(listed):
        if name not in files.stage_folders:
            hint = suggestion(name, set(files.stage_folders) - set(listed))
            message = f"stage {name} has no {stage_file(name)}"
            yield pipeline.file.problem(("stages", at), message, hint)
    for name in files.stage_folders:
        if name not in listed:
            hint = f"add {name} to its stages, or remove the folder"
            yield Problem(Path(stage_file(name)), f"is not listed in {PIPELINE}", hint=hint)


def _variant_problems(files: ProjectFiles, pipeline: Read[PipelineFile]) -> Iterator[Problem]:
    says = pipeline.says
    if says.variant not in says.variants:
        message = f'there is no variant "{says.variant}"'
        yield pipeline.file.problem(("variant",), message, suggestion(says.variant, says.variants))
    known = {*says.stages, *files.stage_folders}
    for name, variant in says.variants.items():
        for stage in variant.stages:
            if stage not in known:
                key = ("variants", name, "stages", stage)
                hint = suggestion(stage, known)
                yield pipeline.file.problem(key, f'there is no stage "{stage}"', hint)


def _parent_problems(files: ProjectFiles) -> Iterator[Problem]:
    parents = {name: stage.says.parent for name, stage in files.stages.items()}
    known = set(files.stage_folders)
    for name, parent in parents.items():
        if parent and parent not in known:
            hint = suggestion(parent, known - {name})
            yield files.stages[name].file.problem(
                ("parent",), f'there is no stage "{parent}"', hint
            )
    for cycle in _cycles({name: (parent,) for name, parent in parents.items() if parent}):
        message = f"the parents form a cycle: {_chain(cycle)}"
        yield files.stages[cycle[0]].file.problem(("parent",), message, "one stage has no parent")
    roots = [name for name in _listed(files) if name in parents and not parents[name]]
    for name in roots[1:]:
        message = f"has no parent, and neither has {roots[0]}"
        hint = f'a pipeline has one root; write "parent: {roots[0]}"'
        yield files.stages[name].file.problem((), message, hint)


def _listed(files: ProjectFiles) -> Iterable[str]:
    return files.pipeline.says.stages if files.pipeline else files.stage_folders


def _template_problems(files: ProjectFiles, tree: Tree) -> Iterator[Problem]:
    for name, stage in files.stages.items():
        if not tree.is_file(path := _template(name, stage.says)):
            yield stage.file.problem(("template",), f"there is no template {path}")


def _template(name: str, stage: StageFile) -> str:
    return f"stages/{name}/{stage.template}" if stage.template else DEFAULT_TEMPLATE


def _answers_problems(
    files: ProjectFiles, pipeline: Read[PipelineFile], tree: Tree
) -> Iterator[Problem]:
    for name, variant in pipeline.says.variants.items():
        root = _root(files)
        if root and (iso := variant.source.iso):
            key = ("variants", name, "source", "iso", "answers")
            if wrong := misplaced(iso.answers, tree.is_file, f"stages/{root}"):
                yield pipeline.file.problem(key, wrong, "put it into the root stage's folder")


def _root(files: ProjectFiles) -> str | None:
    return next((name for name, stage in files.stages.items() if not stage.says.parent), None)


# --- roles ----------------------------------------------------------------------------------------


def _role_problems(files: ProjectFiles) -> Iterator[Problem]:
    for file, key, parts in _role_lists(files):
        names = [part.name for part in parts]
        for at, part in enumerate(parts):
            if part.role not in files.role_folders:
                message = f"there is no role {ROLES}/{part.role}"
                yield file.problem((*key, at), message, suggestion(part.role, files.role_folders))
            elif part.name in names[:at]:
                hint = 'remove one of them, or name this use of it with "as"'
                yield file.problem((*key, at), f"role {part.name} is listed twice", hint)


def _repetition_problems(files: ProjectFiles, pipeline: Read[PipelineFile]) -> Iterator[Problem]:
    """Find uses of one role in one stage that nothing but their names tells apart."""
    for variant in pipeline.says.variants:
        for stage in files.stages:
            first: dict[tuple[str, bytes], Use] = {}
            for use in uses(files, pipeline, variant, stage):
                before = first.setdefault((use.role, _in_force(files, use)), use)
                if before.name != use.name:
                    message = f"role {use.name} gets the same variables as {before.name}"
                    yield use.file.problem(use.key, message, "remove one of them")


def _in_force(files: ProjectFiles, use: Use) -> bytes:
    """Return the values that a use's tasks see, given ones and defaults."""
    roles = [
        files.roles[name] for name in (*files.before(use.role), use.role) if name in files.roles
    ]
    values = {name: value for role in roles for name, value in role.defaults.items()}
    options = files.all_options(use.role) or {}
    given = {name: use.given[name].value for name in options if name in use.given}
    return canonical(values | given)


def _role_lists(files: ProjectFiles) -> Iterator[tuple[YamlFile, Key, list[RolePart]]]:
    for stage in files.stages.values():
        yield stage.file, ("roles",), stage.says.roles
    for name, variant in files.pipeline.says.variants.items() if files.pipeline else ():
        for stage_name, override in variant.stages.items():
            if files.pipeline and override.roles is not None:
                key = ("variants", name, "stages", stage_name, "roles")
                yield files.pipeline.file, key, override.roles


def _dependency_problems(files: ProjectFiles) -> Iterator[Problem]:
    for role in files.roles.values():
        for at, name in enumerate(role.dependencies):
            if role.meta and name not in files.role_folders:
                message = f"there is no role {ROLES}/{name}"
                hint = suggestion(name, files.role_folders)
                yield role.meta.file.problem(("dependencies", at), message, hint)
    for cycle in _cycles({role.name: role.dependencies for role in files.roles.values()}):
        if meta := files.roles[cycle[0]].meta:
            message = f"the dependencies form a cycle: {_chain(cycle)}"
            yield meta.file.problem(("dependencies",), message)


def _syntax_problems(files: ProjectFiles, tree: Tree) -> Iterator[Problem]:
    """Find what is no YAML in a role: Ansible says so as well, but in the guest, after minutes."""
    for name in files.roles:
        for part in _READ_BY_ANSIBLE:
            path = f"{ROLES}/{name}/{part}"
            content = tree.read(path)
            file, problems = parse(Path(path), content) if content else (None, [])
            if file is None:
                yield from problems


def _cycles(edges: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return each cycle of a graph once, in the order in which it is met."""
    done: set[str] = set()
    found: list[tuple[str, ...]] = []

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(path[path.index(name) :])
        elif name not in done:
            for after in edges.get(name, ()):
                walk(after, (*path, name))
            done.add(name)

    for name in edges:
        walk(name, ())
    return found


def _chain(cycle: tuple[str, ...]) -> str:
    return " → ".join((*cycle, cycle[0]))


# --- the document ---------------------------------------------------------------------------------


def _document(files: ProjectFiles, pipeline: PipelineFile) -> dict[str, Any]:
    return {
        "name": pipeline.name,
        "version": pipeline.version,
        "variant": pipeline.variant,
        "caches": pipeline.caches.model_dump(),
        "roles": {name: _role_document(files, name) for name in sorted(files.roles)},
        "variants": {
            name: {
                "source": _source_document(files, variant),
                "resources": _resources(pipeline, name),
                "accept": variant.accept,
                "open_pins": list(_open_pins(files, name)),
                "stages": [_stage_document(files, name, stage) for stage in _order(files)],
            }
            for name, variant in pipeline.variants.items()
        },
    }


def _resources(pipeline: PipelineFile, variant: str) -> dict[str, Any]:
    own = pipeline.variants[variant].resources.model_dump(exclude_none=True)
    return pipeline.resources.model_dump() | own


def _order(files: ProjectFiles) -> list[str]:
    """Return the stages as listed, but no child before its parent."""
    order: dict[str, None] = {}

    def place(name: str) -> None:
        if parent := files.stages[name].says.parent:
            place(parent)
        order.setdefault(name)

    for name in _listed(files):
        place(name)
    return list(order)


def _role_document(files: ProjectFiles, name: str) -> dict[str, Any]:
    defaults = files.roles[name].defaults
    declared = files.options(name) or {}
    return {
        "dependencies": files.before(name),
        "defaults": {name: defaults[name] for name in sorted(defaults) if name in declared},
    }


def _source_document(files: ProjectFiles, variant: VariantPart) -> dict[str, Any]:
    kind = variant.source.kind
    settings = settled(variant, getattr(variant.source, kind).model_dump())
    answers = settings.get("answers")
    paths = {"answers": f"stages/{_root(files)}/{PurePosixPath(answers)}"} if answers else {}
    return {"kind": kind, "settings": settings, "paths": paths}


def _stage_document(files: ProjectFiles, variant: str, name: str) -> dict[str, Any]:
    pipeline, stage = files.pipeline, files.stages[name].says
    assert pipeline is not None  # noqa: S101
    resources = _resources(pipeline.says, variant) | stage.resources.model_dump(exclude_none=True)
    override = pipeline.says.variants[variant].stages.get(name)
    hosts = stage.hosts if override is None or override.hosts is None else override.hosts
    return {
        "name": name,
        "parent": stage.parent,
        "roles": [_use_document(files, use) for use in uses(files, pipeline, variant, name)],
        "template": _template(name, stage),
        "network": stage.network,
        "hosts": hosts,
        "resources": resources,
        "folder": f"stages/{name}",
    }


def _use_document(files: ProjectFiles, use: Use) -> dict[str, Any]:
    options = files.all_options(use.role) or {}
    given = {name: use.given[name].value for name in sorted(options) if name in use.given}
    paths = {
        name: value
        for name, value in given.items()
        if options[name].type == "path" and not is_open(value)
    }
    return {
        "name": use.name,
        "variables": {name: value for name, value in given.items() if name not in paths},
        "paths": {
            name: f"stages/{use.stage}/{PurePosixPath(path)}" for name, path in paths.items()
        },
    }


# --- pins that are not filled in ------------------------------------------------------------------


def _open_pins(files: ProjectFiles, variant: str) -> Iterator[dict[str, Any]]:
    """Yield each place of a variant where a pin is not filled in, once."""
    found: dict[tuple[str, int, str], dict[str, Any]] = {}
    for file, key, value in _open_values(files, variant):
        problem = file.problem(key, "is not filled in", f"type: {command(value)}")
        document = {
            "file": str(problem.file),
            "message": problem.message,
            "line": problem.line,
            "key": problem.key,
            "hint": problem.hint,
        }
        found.setdefault((str(problem.file), problem.line or 0, value), document)
    yield from (found[place] for place in sorted(found))


def _open_values(files: ProjectFiles, variant: str) -> Iterator[tuple[YamlFile, Key, str]]:
    pipeline = files.pipeline
    assert pipeline is not None  # noqa: S101
    kind = pipeline.says.variants[variant].source.kind
    settings = getattr(pipeline.says.variants[variant].source, kind).model_dump()
    if is_open(checksum := settings.get("sha256")):
        yield pipeline.file, ("variants", variant, "source", kind, "sha256"), checksum
    for stage in files.stages:
        for use in uses(files, pipeline, variant, stage):
            for name in files.all_options(use.role) or {}:
                if setting := use.given.get(name):
                    for key, text in _open_texts(setting.value, setting.key):
                        yield setting.file, key, text


def _open_texts(value: Any, key: Key) -> Iterator[tuple[Key, str]]:
    """Yield the open pins in a value, however deep."""
    if isinstance(value, str) and is_open(value):
        yield key, value
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _open_texts(item, (*key, at))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _open_texts(item, (*key, name))
