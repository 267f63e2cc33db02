"""The commands of somebody who looks closely: a record, a template, a shell, a watched stage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from builder.cli_options import (
    Command,
    Settings,
    engine_option,
    json_option,
    stage_argument,
    stage_names,
    variant_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.process import Child


@click.command(cls=Command)
@stage_argument
@variant_option
@engine_option
@json_option
@click.option(
    "--key", metavar="KEY", help="A build of before: what its key begins with, as plan --against."
)
@click.option("--network", "as_lock", is_flag=True, help="Its network lock, as JSON on stdout.")
@click.pass_obj
def show(
    settings: Settings,
    stage: str | None,
    variant: str | None,
    engine: str,
    *,
    as_json: bool,
    key: str | None,
    as_lock: bool,
) -> None:
    """Show the record of an image: inputs, packages, times, network, verdict.

    Without --key, of the image as the files are now; with it, of any that is in the store.

    \b
    Examples:
      vaultbuild show frameworks --json
      vaultbuild show final --key 3f2a91
      vaultbuild show final --network > final.network.json
    """
    from builder import past, report
    from builder.upstream import remembered

    project = settings.project(variant, engine)
    name = project.target(stage)
    image = past.build_of(project, name, key) if key else project.image(name)
    if as_lock:
        report.emit_json(past.network_lock(project, image).to_json())
        return
    verdict = (
        past.last_verdict(project, image)
        if key
        else project.verdict(image, project.checks(name, whole=True))
    )
    if as_json:
        known = verdict.to_json() if verdict else None
        report.emit_json({**image.record.to_json(), "path": str(image.disk), "verdict": known})
        return
    for line in report.record_lines(image, verdict):
        report.emit(line)
    if known_upstream := remembered(project, image):
        report.emit(f"upstream  {known_upstream.about(name)}")


@click.command(cls=Command)
@click.argument("stage", shell_complete=stage_names)
@variant_option
@engine_option
@click.pass_obj
def render(settings: Settings, stage: str, variant: str | None, engine: str) -> None:
    """Print the Packer template of a stage, with placeholders for what only a run knows.

    The name "source" stands for the template that installs an ISO.

    \b
    Example:
      vaultbuild render drivers --engine qemu
    """
    from builder import installation, report
    from builder.packing import render as render_stage
    from builder.template import NEUTRAL

    project = settings.project(variant, engine)
    if stage == "source":
        report.emit(installation.render(project, packer=project.folder / "packer"))
        return
    found = project.pipeline.stage(stage)
    report.emit(render_stage(project, found, NEUTRAL, project.folder))


@click.command(cls=Command)
@click.argument("stage", shell_complete=stage_names)
@variant_option
@engine_option
@click.option("--failed", is_flag=True, help="Open what a failed run kept (--keep-failed).")
@click.pass_context
def shell(
    ctx: click.Context, stage: str, variant: str | None, engine: str, *, failed: bool
) -> None:
    """Open a shell in a throwaway copy of an image, or of what a failed stage left behind.

    A stage that is not built as it stands is opened at the point where it failed, when that was
    kept.

    \b
    Examples:
      vaultbuild shell drivers
      vaultbuild shell drivers --failed
    """
    from builder.shell import open_shell

    project = ctx.obj.project(variant, engine)
    disk, lock = project.disk_to_open(stage, failed=failed)
    what = "as it failed" if lock.startswith("failed-") else "as it is built"
    ctx.obj.reporter.note(f"opening a copy of {stage} {what}; it goes when you leave (exit)")
    # Held until the shell ends: what somebody looks at is not pruned.
    with project.store.locked(lock, waiting=ctx.obj.reporter.note, shared=True):
        status = open_shell(project, stage, disk)
    ctx.exit(status)


def watch_stage(
    settings: Settings, stage: str, variant: str | None, engine: str, *, flags: Sequence[str]
) -> NoReturn:
    """Run ``vaultbuild stage`` again and again, as files are saved, until a signal comes."""
    from builder import process
    from builder.watch import look, watch

    argv = [sys.executable, "-m", "builder", "--project", str(settings.folder.absolute())]
    argv += [("-v" if settings.verbosity > 0 else "-q")] * abs(settings.verbosity)
    argv += ["stage", stage, "--engine", engine]
    argv += ["--variant", variant] if variant else []
    argv += flags

    def start() -> Child:
        return process.start_here(argv, env={"PYTHONPATH": str(Path(__file__).parents[1])})

    watch(lambda: look(settings.project(variant, engine), stage), start, settings.reporter.note)
