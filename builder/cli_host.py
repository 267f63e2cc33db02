"""The commands that are about this host: its caches, and whether it can build."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder.cli_options import Command, Settings, engine_option, json_option, variant_option
from builder.errors import HostError

if TYPE_CHECKING:
    from builder.caches import Status
    from builder.doctor import EngineChoice


@click.group()
def cache() -> None:
    """The caches: what builds download comes through them.

    \b
    Examples:
      vaultbuild cache up         start them and let them stay
      vaultbuild cache status
    """


def _show_caches(found: list[Status], *, as_json: bool) -> None:
    from dataclasses import asdict

    from builder import report

    if as_json:
        report.emit_json({"schema": 1, "caches": [asdict(status) for status in found]})
        return
    rows = [(status.name, status.state, status.url or "") for status in found]
    for line in report.table(rows):
        report.emit(line)


@cache.command(cls=Command)
@json_option
@click.pass_obj
def up(settings: Settings, *, as_json: bool) -> None:
    """Start the caches and let them stay.

    \b
    Example:
      vaultbuild cache up
    """
    from builder import caches

    pipeline = settings.project().pipeline
    _show_caches(caches.up(pipeline.caches, pipeline.project), as_json=as_json)


@cache.command(cls=Command)
@json_option
@click.pass_obj
def down(settings: Settings, *, as_json: bool) -> None:
    """Stop the caches; one that a run uses is stopped when that run ends.

    \b
    Example:
      vaultbuild cache down
    """
    from builder import caches

    pipeline = settings.project().pipeline
    _show_caches(caches.down(pipeline.caches, pipeline.project), as_json=as_json)


@cache.command("status", cls=Command)
@json_option
@click.pass_obj
def cache_status(settings: Settings, *, as_json: bool) -> None:
    """Say which caches run, and where.

    \b
    Example:
      vaultbuild cache status --json
    """
    from builder import caches

    pipeline = settings.project().pipeline
    _show_caches(caches.status(pipeline.caches, pipeline.project), as_json=as_json)


@click.command(cls=Command)
@variant_option
@engine_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, variant: str | None, engine: EngineChoice, *, as_json: bool) -> None:
    """Say whether this host can build the pipeline; each problem comes with what cures it.

    \b
    Example:
      vaultbuild doctor
    """
    from dataclasses import asdict

    from builder import report
    from builder.doctor import examine

    findings = examine(ctx.obj.project(variant).pipeline, engine=engine)
    if as_json:
        document = [asdict(finding) for finding in findings]
        report.emit_json({"schema": 1, "findings": document})
    else:
        for line in report.finding_lines(findings):
            report.emit(line)
    ctx.exit(HostError.exit_status if any(item.level == "fail" for item in findings) else 0)
