"""The variables of roles: where each was set, which one wins, and whether the role can take it.

A role declares its variables in ``meta/argument_specs.yml`` and is given those and no others,
together with those of the roles that run before it as its dependencies. Ansible checks the same
specification, but in the guest, after minutes; here it costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from builder.config import stage_file
from builder.kernel import PIN, VARIABLES, kernel_of
from builder.open_pins import is_open
from builder.suggest import suggestion
from builder.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from builder.config import ProjectFiles, Read
    from builder.errors import Problem
    from builder.memo import Tree
    from builder.role_schema import OptionPart
    from builder.schema import PipelineFile, RolePart
    from builder.yamlfile import Key, YamlFile

_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "str": ("text", (str,)),
    "path": ("text", (str,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "list": ("a list", (list,)),
    "dict": ("a mapping", (dict,)),
    "raw": ("anything", (object,)),
}


class Layer(NamedTuple):
    """A mapping of variables in a file."""

    file: YamlFile
    key: Key
    variables: Mapping[str, Any]


class Setting(NamedTuple):
    """The value of a variable, and where it was set."""

    value: Any
    file: YamlFile
    key: Key


class Mistake(NamedTuple):
    """What is wrong inside a value."""

    key: Key
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """A role in a stage of a variant, and all variables that are set for it.

    ``name`` is what the stage calls it.
    """

    stage: str
    role: str
    name: str
    file: YamlFile
    key: Key
    given: Mapping[str, Setting]


# --- what is set ----------------------------------------------------------------------------------


def all_uses(files: ProjectFiles, pipeline: Read[PipelineFile]) -> Iterator[Use]:
    """Yield each role of each stage of each variant."""
    for variant in pipeline.says.variants:
        for stage in files.stages:
            yield from uses(files, pipeline, variant, stage)


def uses(
    files: ProjectFiles, pipeline: Read[PipelineFile], variant: str, stage: str
) -> Iterator[Use]:
    """Yield the roles of a stage of a variant, in the order in which they run."""
    kernel = _kernel(pipeline, variant)
    layers = list(_layers(files, pipeline, variant, stage))
    file, key, parts = _role_list(files, pipeline, variant, stage)
    for at, part in enumerate(parts):
        own = Layer(file, (*key, at, "variables"), part.variables)
        given = {**kernel, **_merged([*layers, own])}
        yield Use(stage, part.role, part.name, file, (*key, at), given)


def _kernel(pipeline: Read[PipelineFile], variant: str) -> dict[str, Setting]:
    """Return what follows from the pin of a kernel and a flavour."""
    kernel = kernel_of(pipeline.says.variants[variant])
    key: Key = ("variants", variant, *PIN)
    return {
        name: Setting(getattr(kernel, part), pipeline.file, (*key, part))
        for part, name in VARIABLES.items()
        if kernel
    }


def _layers(
    files: ProjectFiles, pipeline: Read[PipelineFile], variant: str, stage: str
) -> Iterator[Layer]:
    """Yield the variables that hold for a whole stage, the strongest last."""
    chosen = pipeline.says.variants[variant]
    yield Layer(pipeline.file, ("variables",), pipeline.says.variables)
    yield Layer(pipeline.file, ("variants", variant, "variables"), chosen.variables)
    yield Layer(files.stages[stage].file, ("variables",), files.stages[stage].says.variables)
    if stage in chosen.stages:
        key = ("variants", variant, "stages", stage, "variables")
        yield Layer(pipeline.file, key, chosen.stages[stage].variables)


def _role_list(
    files: ProjectFiles, pipeline: Read[PipelineFile], variant: str, stage: str
) -> tuple[YamlFile, Key, list[RolePart]]:
    override = pipeline.says.variants[variant].stages.get(stage)
    if override and override.roles is not None:
        return pipeline.file, ("variants", variant, "stages", stage, "roles"), override.roles
    return files.stages[stage].file, ("roles",), files.stages[stage].says.roles


def _merged(layers: list[Layer]) -> dict[str, Setting]:
    return {
        name: Setting(value, layer.file, (*layer.key, name))
        for layer in layers
        for name, value in layer.variables.items()
    }


# --- is it declared? ------------------------------------------------------------------------------


def undeclared_problems(files: ProjectFiles, pipeline: Read[PipelineFile]) -> Iterator[Problem]:
    """Yield each variable that is taken by none of the roles that could see it.

    Where a role or a stage cannot be read, nobody knows; that is a problem of its own.
    """
    whole = set(files.stage_folders) == set(files.stages)
    elsewhere = _declarations(files)
    for layer, roles in _seen_by(files, pipeline):
        declared = [files.all_options(role) for role in roles]
        if None not in declared and (whole or layer.file is not pipeline.file):
            yield from _undeclared(
                layer, {n for options in declared for n in options or ()}, elsewhere
            )


def _seen_by(
    files: ProjectFiles, pipeline: Read[PipelineFile]
) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    """Yield each mapping of variables in the project, with the roles that can see it."""
    seen: dict[tuple[str, Key], tuple[Layer, dict[str, None]]] = {}
    for variant in pipeline.says.variants:
        for stage in files.stages:
            file, key, parts = _role_list(files, pipeline, variant, stage)
            for layer in _layers(files, pipeline, variant, stage):
                entry = seen.setdefault((str(layer.file.path), layer.key), (layer, {}))
                entry[1].update(dict.fromkeys(part.role for part in parts))
            for at, part in enumerate(parts):
                own = Layer(file, (*key, at, "variables"), part.variables)
                seen[str(file.path), own.key] = (own, {part.role: None})
    return ((layer, tuple(roles)) for layer, roles in seen.values())


def _declarations(files: ProjectFiles) -> dict[str, str]:
    """Return, for each variable, a hint that says which role declares it, and where that runs."""
    return {
        name: f"role {part.role} declares it: set it in {stage_file(stage)}"
        for stage, read in files.stages.items()
        for part in read.says.roles
        for name in files.all_options(part.role) or ()
    }


def _undeclared(
    layer: Layer, declared: set[str], elsewhere: Mapping[str, str]
) -> Iterator[Problem]:
    for name in layer.variables:
        if name not in declared:
            hint = elsewhere.get(name) or suggestion(name, declared)
            message = "no role here declares this variable"
            yield layer.file.problem((*layer.key, name), message, hint)


def repeated_problems(files: ProjectFiles, pipeline: Read[PipelineFile]) -> Iterator[Problem]:
    """Yield each variable that says again, or otherwise, what the pin of a kernel says."""
    for variant, part in pipeline.says.variants.items():
        for stage in files.stages if kernel_of(part) else ():
            for use in uses(files, pipeline, variant, stage):
                for name in VARIABLES.values():
                    setting = use.given[name]
                    if setting.key[2 : 2 + len(PIN)] != PIN:
                        message = "follows from the pin of the kernel and the flavour"
                        hint = f"remove it: {'.'.join(PIN)} and kernel_flavour decide"
                        yield setting.file.problem(setting.key, message, hint)


# --- can the role take it? ------------------------------------------------------------------------


def use_problems(files: ProjectFiles, use: Use, tree: Tree) -> Iterator[Problem]:
    """Yield the values that the role cannot take, and those that it misses."""
    for role in (*files.before(use.role), use.role):
        for name, option in (files.options(role) or {}).items():
            if setting := use.given.get(name):
                yield from _setting_problems(use, option, setting, tree)
            elif option.required and name not in files.roles[role].defaults:
                hint = "set it in the stage's variables, or in the variant's"
                yield use.file.problem(use.key, f"role {role} requires {name}", hint)


def _setting_problems(
    use: Use, option: OptionPart, setting: Setting, tree: Tree
) -> Iterator[Problem]:
    wrong = list(mistakes(option, setting.value))
    for key, message, hint in wrong:
        yield setting.file.problem((*setting.key, *key), message, hint)
    if option.type == "path" and not wrong and not is_open(setting.value):
        words = misplaced(setting.value, tree.is_file, f"stages/{use.stage}")
        if words:
            hint = f"role {use.role} reads a file of its stage's folder"
            yield setting.file.problem(setting.key, words, hint)


def mistakes(option: OptionPart, value: object, key: Key = ()) -> Iterator[Mistake]:
    """Yield all that keeps ``value`` from being what a role's option wants.

    A pin that is not filled in holds the place of any value.
    """
    if is_open(value):
        return
    if not _is_a(option.type, value):
        message = f"must be {_TYPES[option.type][0]}, not {shown(value)}"
        yield Mistake(key, message, _type_hint(option.type, value))
    elif strange := _not_chosen(option, value):
        words = [str(choice) for choice in option.choices or ()]
        message = f"must be one of {', '.join(words)}, not {shown(strange[0])}"
        yield Mistake(key, message)
    elif isinstance(value, list) and option.elements:
        item = option.model_copy(
            update={"type": option.elements, "choices": None, "elements": None}
        )
        for at, part in enumerate(value):
            yield from mistakes(item, part, (*key, at))
    elif isinstance(value, dict) and option.options is not None:
        yield from _mistakes_of_parts(option.options, value, key)


def _mistakes_of_parts(
    options: Mapping[str, OptionPart], value: Mapping[str, Any], key: Key
) -> Iterator[Mistake]:
    for name, part in value.items():
        if name in options:
            yield from mistakes(options[name], part, (*key, name))
        else:
            hint = suggestion(name, options)
            yield Mistake((*key, name), "is not a key that is known here", hint)
    for name, option in options.items():
        if option.required and name not in value:
            yield Mistake((*key, name), "is missing")


def misplaced(value: str, is_file: Callable[[str], bool], folder: str) -> str | None:
    """Say why ``value`` is no file of a stage's folder; None when it is one."""
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        return f"{shown(value)} is not inside {folder}"
    return None if is_file(f"{folder}/{path}") else f"there is no file {folder}/{path}"


def _is_a(kind: str, value: object) -> bool:
    # For Python true is a number; for a person it is not.
    if isinstance(value, bool):
        return kind in {"bool", "raw"}
    return isinstance(value, _TYPES[kind][1])


def _type_hint(kind: str, value: object) -> str | None:
    if kind in {"str", "path"} and isinstance(value, bool | int | float):
        return "put it in quotes"
    if kind in {"int", "float", "bool"} and isinstance(value, str):
        return "write it without quotes"
    return None


def _not_chosen(option: OptionPart, value: object) -> list[object]:
    """Return what is not among the choices; of a list, Ansible looks at each item."""
    if option.choices is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [item for item in values if item not in option.choices]
