"""What may stand in the files of a role; those of a pipeline are in :mod:`builder.schema`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from builder.schema import Part
from builder.values import RoleName, VariableName  # noqa: TC001 - pydantic asks for them

OptionType = Literal["str", "int", "float", "bool", "list", "dict", "path", "raw"]


class OptionPart(Part):
    """A variable that a role takes; the keys are Ansible's."""

    type: OptionType = "str"
    required: bool = False
    choices: list[Any] | None = None
    elements: OptionType | None = None
    options: dict[str, OptionPart] | None = None
    # What is below is for Ansible, and for people.
    default: Any = None
    description: Any = None
    version_added: Any = None
    no_log: Any = None
    apply_defaults: Any = None
    mutually_exclusive: Any = None
    required_by: Any = None
    required_if: Any = None
    required_one_of: Any = None
    required_together: Any = None


class EntryPointPart(Part):
    """An entry point of a role; ours are all named ``main``."""

    options: dict[VariableName, OptionPart] = {}
    short_description: Any = None
    description: Any = None
    author: Any = None
    version_added: Any = None


class EntryPointsPart(Part):
    """The entry points of a role."""

    main: EntryPointPart


class SpecsFile(Part):
    """``ansible/roles/<role>/meta/argument_specs.yml``."""

    argument_specs: EntryPointsPart


class DependencyPart(Part):
    """A role that runs before another one."""

    role: RoleName

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"role": value} if isinstance(value, str) else value


class MetaFile(Part):
    """``ansible/roles/<role>/meta/main.yml``."""

    dependencies: list[DependencyPart] = []
    galaxy_info: Any = None
    allow_duplicates: Any = None
    collections: Any = None
