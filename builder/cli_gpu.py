"""``vaultbuild verify --gpu``: the options, and what is shown."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.cli_options import Settings


@dataclass(frozen=True, slots=True)
class Gpu:
    """Whose GPUs are to be checked, and how thoroughly."""

    on: str
    level: str


def _destination(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    # What begins with a dash would be an option of ssh.
    if value is not None and (value.startswith("-") or not value or " " in value):
        raise click.BadParameter("must be HOST, USER@HOST or ssh://USER@HOST:PORT")
    return value


def gpu_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--gpu``, ``--on`` and ``--level``, as one value ``gpu``; None without it."""

    @click.option("--gpu", is_flag=True, help="Check the GPUs of a host instead of an image.")
    @click.option(
        "--on",
        metavar="HOST",
        callback=_destination,
        help="With --gpu: USER@HOST, over SSH; default: localhost, this host itself.",
    )
    @click.option(
        "--level",
        type=click.Choice(["quick", "medium", "long"]),
        help="With --gpu: quick (the default) takes a minute; medium measures, and asks DCGM; long "
        "stresses, and splits GPUs that are whole for a moment: nobody else may use them.",
    )
    @functools.wraps(command)
    def asking(*args: Any, gpu: bool, on: str | None, level: str | None, **named: Any) -> Any:
        if not gpu and (on or level):
            raise click.UsageError("--on and --level go with --gpu")
        chosen = Gpu(on or "localhost", level or "quick") if gpu else None
        return command(*args, gpu=chosen, **named)

    return asking


def verify_gpus(
    settings: Settings,
    gpu: Gpu,
    stage: str | None,
    variant: str | None,
    *,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Check the GPUs of a host; tell what came of it as the checks of an image are told."""
    from builder import report
    from builder.gpu import check, expected_of, packed, require_gpu, require_passed

    reporter, project = settings.reporter, settings.project(variant)
    name = project.target(stage)
    expected = expected_of(project.pipeline, name)
    if not expected:
        reporter.note(f"{name} expects nothing of a machine: versions and names are not compared")
    program = packed(project.folder)
    reporter.doing(f"checking the GPUs of {gpu.on}")
    answer = check(program, expected, level=gpu.level, on=gpu.on)
    if junit:
        junit.parent.mkdir(parents=True, exist_ok=True)
        junit.write_text(answer.junit)
    if as_json:
        report.emit_json({**answer.document, "host": answer.host})
    require_gpu(answer)
    for result in answer.verdict.results:
        if result.outcome == "skipped" or settings.verbosity > 0:
            reporter.note(f"{result.outcome:<9}{result.name:<28}{result.message}")
    reporter.checked("gpu", answer.verdict, known=False)
    require_passed(answer)
