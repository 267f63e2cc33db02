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
