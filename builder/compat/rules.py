"""All rules, in the order in which they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.compat import hardware, software

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.compat.finding import Finding
    from builder.compat.stack import Stack
    from builder.compat.table import Table

RULES: tuple[Callable[[Stack, Table, str], Iterator[Finding]], ...] = (
    hardware.driver_end,
    hardware.driver_missing,
    hardware.driver_module,
    hardware.one_module,
    hardware.kernel_module,
    hardware.fabric,
    hardware.fabric_platform,
    hardware.gpu_known,
    hardware.gpu_driver,
    hardware.gpu_module,
    software.gpu_cuda,
    software.cuda_driver,
    software.cudnn,
    software.own_cudnn,
    software.one_cuda,
    software.framework,
)


def judge(stack: Stack, table: Table, month: str) -> list[Finding]:
    """Return all that the rules find; ``month`` is now, as ``2026-11``."""
    return [finding for rule in RULES for finding in rule(stack, table, month)]
