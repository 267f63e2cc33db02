"""What several checks share: from answers about each GPU to what is said about all of them."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpu_check.outcome import Failed, Said, Skipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_check.smi import Gpu


def known(gpus: Sequence[Gpu], path: str, what: str) -> list[tuple[Gpu, str]]:
    """Return what each GPU says of an element; skip the check where none has such a thing."""
    found = [(gpu, said) for gpu in gpus if (said := gpu.said(path)) is not None]
    if not found:
        raise Skipped(f"no GPU here tells its {what}")
    return found


def require(problems: Sequence[str], evidence: str = "") -> None:
    """Fail with the problems, where there is one."""
    if problems:
        raise Failed("; ".join(problems), evidence)


def counted(values: Sequence[str]) -> str:
    """Return values with how often they came: ``8 x Enabled``."""
    return ", ".join(f"{values.count(one)} x {one}" for one in dict.fromkeys(values))


def numbers(version: str) -> tuple[int, ...]:
    """Return a version to be compared: 12.4 is older than 12.10."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def of_steps(steps: Sequence[tuple[str, dict[str, Any]]]) -> Said:
    """Return what steps of :mod:`gpu_check.cuda` come to: all were tried, and none went wrong."""
    lines = "\n".join(f"{who}: {step['said']}" for who, step in steps)
    require([f"{who}: {step['said']}" for who, step in steps if step["ok"] is False], lines)
    untried = [f"{who}: {step['said']}" for who, step in steps if step["ok"] is None]
    if untried:
        raise Skipped("; ".join(untried))
    return Said("; ".join(f"{who}: {step['said']}" for who, step in steps), lines)
