"""The command about this host: whether it can build."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder.cli_options import Command, engine_option, json_option, variant_option
from builder.errors import HostError

if TYPE_CHECKING:
    from builder.doctor import EngineChoice


@click.command(cls=Command)
@variant_option
@engine_option
@click.option(
    "--offline",
    is_flag=True,
    envvar="VAULTBUILD_OFFLINE",
    show_envvar=True,
    help="Ask nobody outside this host: no mirror, no index, no hub.",
)
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, variant: str | None, engine: EngineChoice, *, offline: bool, as_json: bool
) -> None:
    """Say whether this host can build the pipeline; each problem comes with what cures it.

    It looks at programs and rights, room on the disk and in memory, caches and the store, versions
    that do not go together, and asks mirrors, indexes and hubs whether they answer.

    \b
    Examples:
      vaultbuild doctor
      vaultbuild doctor --variant debian-13 --offline
    """
    from dataclasses import asdict

    from builder import report
    from builder.doctor import examine
    from builder.doctor.finding import lines

    findings = examine(ctx.obj.project(variant).pipeline, engine=engine, outside=not offline)
    if as_json:
        document = [asdict(finding) for finding in findings]
        report.emit_json({"schema": 1, "findings": document})
    else:
        for line in lines(findings):
            report.emit(line)
    ctx.exit(HostError.exit_status if any(item.level == "fail" for item in findings) else 0)
