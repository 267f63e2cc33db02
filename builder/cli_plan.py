"""The command that says what would run, and the options that ask upstream before it is decided."""

from __future__ import annotations

import functools
import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from builder.cli_options import (
    Command,
    age_of,
    engine_option,
    json_option,
    offline_asked,
    require_network,
    stage_argument,
    variant_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.inputs import StageInputs
    from builder.project import Project
    from builder.reporter import Reporter
    from builder.upstream.moved import Refresh

_WORK = 4


@dataclass(frozen=True, slots=True)
class Asking:
    """Whether upstream is asked, and how old an answer may be, in seconds."""

    refresh: bool = False
    max_age: float | None = None

    def ask(
        self,
        project: Project,
        inputs: tuple[StageInputs, ...],
        reporter: Reporter,
        *,
        offline: bool = False,
    ) -> Refresh | None:
        """Return what upstream says, where it is asked; tell what it does not say."""
        if self.refresh and offline_asked():
            require_network()
        if self.refresh and offline:
            raise click.UsageError("--refresh asks upstream, and --offline nobody")
        if not self.refresh:
            return None
        from builder import upstream  # late: most runs ask nobody

        found = upstream.refresh(
            project,
            inputs,
            sources=lambda: upstream.sources_of(project, told=reporter.note),
            max_age=self.max_age,
            offline=offline,
        )
        for line in found.warnings():
            reporter.warning(line)
        return found


def asking_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--refresh`` and ``--max-age``, as one value ``asking``."""

    @click.option(
        "--refresh",
        is_flag=True,
        help="Ask upstream first: what moved there is a reason to build (docs/upstream.md).",
    )
    @click.option(
        "--max-age",
        callback=age_of,
        metavar="AGE",
        help="With --refresh: an answer as old as this is good enough: 1h, 2d.",
    )
    @functools.wraps(command)
    def asking(*args: Any, refresh: bool, max_age: float | None, **named: Any) -> Any:
        if max_age is not None and not refresh:
            raise click.UsageError("--max-age goes with --refresh")
        return command(*args, asking=Asking(refresh, max_age), **named)

    return asking


@click.command(cls=Command)
@stage_argument
@variant_option
@engine_option
@json_option
@click.option("--detailed-exitcode", is_flag=True, help="Exit 4 when there is work, 0 when none.")
@asking_option
@click.option(
    "--against",
    metavar="KEY",
    help="What would run if the build whose key begins so were all there is: how they differ.",
)
@click.pass_context
def plan(
    ctx: click.Context,
    stage: str | None,
    variant: str | None,
    engine: str,
    *,
    as_json: bool,
    detailed_exitcode: bool,
    asking: Asking,
    against: str | None,
) -> None:
    """Show what would run and why; touches nothing. With -v, role by role and line by line.

    \b
    Examples:
      vaultbuild plan frameworks
      vaultbuild -v plan frameworks --against 3f2a91
      vaultbuild plan --refresh --detailed-exitcode
    """
    from builder import report
    from builder.estimate import Estimate, plan_document
    from builder.past import plan_against

    # A plan makes a hundred thousand small things, needs them all, and ends: nothing to collect.
    gc.disable()
    ctx.call_on_close(gc.enable)
    if against and asking.refresh:
        raise click.UsageError("--against does not go with --refresh")
    project = ctx.obj.project(variant, engine)
    name = project.target(stage)
    judged = [] if against else project.require_compatible(name)
    for each in judged:
        if each.level == "warn":
            ctx.obj.reporter.warning(str(each))
    inputs = project.inputs(name)
    found = asking.ask(project, inputs, ctx.obj.reporter)
    moved = found.reasons if found else None
    decided = (
        plan_against(project, name, against) if against else project.plan(name, inputs, moved=moved)
    )
    # A comparison runs nothing: it takes no time and is no work.
    estimate = Estimate() if against else project.estimate(decided, inputs)
    detailed_exitcode = detailed_exitcode and not against
    if as_json:
        told: dict[str, Any] = {"refresh": found.to_json()} if found else {}
        told["compatibility"] = [each.to_json() for each in judged if each.level != "ok"]
        report.emit_json({**plan_document(decided, estimate), **told})
    else:
        lines_of = project.changed_lines if ctx.obj.verbosity > 0 else None
        since = project.dates(decided)
        for line in report.plan_lines(decided, since, estimate, lines_of=lines_of):
            report.emit(line)
        for line in found.lines() if found else ():
            report.emit(line)
    ctx.exit(_WORK if detailed_exitcode and decided.has_work else 0)
