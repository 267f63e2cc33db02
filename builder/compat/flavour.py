"""Which module ``auto`` means: the one that a variant's driver, kernel and GPUs go with.

The open one where a GPU wants it and from branch 560 on, as NVIDIA's own packages choose; else the
proprietary one; and the other one where the first cannot be.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.compat import versions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from builder.compat.stack import Stack
    from builder.compat.table import Flavour, Table
    from builder.pipeline import Pipeline, RoleUse, Stage

AUTO = "auto"
# https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/kernel-modules.html
_OPEN_BY_DEFAULT = "560"


def choose(stack: Stack, table: Table) -> Flavour:
    """Return the module for a stack; where neither can be, the one that would be liked best."""
    order: list[Flavour] = ["proprietary", "open"]
    if stack.driver and versions.reaches(stack.driver, _OPEN_BY_DEFAULT):
        order.reverse()
    badness = {each: _bad(replace(stack, flavour=each), table) for each in order}
    return min(order, key=lambda each: badness[each])


def _bad(stack: Stack, table: Table) -> tuple[int, int]:
    from builder.compat import hardware  # late: every command asks whether there is an auto

    rules = (
        hardware.driver_module, hardware.kernel_module, hardware.gpu_driver, hardware.gpu_module,
    )  # fmt: skip
    levels = [found.level for rule in rules for found in rule(stack, table, "")]
    return levels.count("fail"), levels.count("warn")


def asked_for(pipeline: Pipeline) -> bool:
    """Whether a role of a pipeline is told ``auto``."""
    return any(AUTO in _texts(use.variables) for stage in pipeline.stages for use in stage.roles)


def _texts(variables: Mapping[str, Any]) -> set[str]:
    return {value for value in variables.values() if isinstance(value, str)}


def settled(pipeline: Pipeline, name: str, flavour: str) -> Pipeline:
    """Return a pipeline whose variable ``name`` says ``flavour`` where it said ``auto``."""
    return replace(pipeline, stages=tuple(_stage(each, name, flavour) for each in pipeline.stages))


def _stage(stage: Stage, name: str, flavour: str) -> Stage:
    return replace(stage, roles=tuple(_use(use, name, flavour) for use in stage.roles))


def _use(use: RoleUse, name: str, flavour: str) -> RoleUse:
    if use.variables.get(name) != AUTO:
        return use
    return replace(use, variables={**use.variables, name: flavour})
