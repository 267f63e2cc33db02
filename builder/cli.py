"""The command line: words to calls, errors to exit statuses. It alone exits.

Each command is a few lines over a function that can be called without it. Imports of what builds
are late, so that ``plan`` and ``--help`` start fast.
"""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from builder import __version__
from builder.errors import Interrupted, VaultbuildError

if TYPE_CHECKING:
    from builder.project import Project
    from builder.report import ConsoleReporter

_WORK = 4


@dataclass(slots=True)
class Settings:
    """What was said before the command's name."""

    folder: Path
    verbosity: int = 0

    @property
    def reporter(self) -> ConsoleReporter:
        """The reporter for a person at this terminal."""
        from builder.report import ConsoleReporter

        return ConsoleReporter(verbosity=self.verbosity)

    def project(self, variant: str | None = None, engine: str = "auto") -> Project:
        """The project, for one variant and one engine."""
        from builder.project import Project

        return Project(self.folder, variant=variant, engine=engine)


class Commands(click.Group):
    """The group that turns errors into one message and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; show an error as what, where and what to type next."""
        try:
            return super().invoke(ctx)
        except VaultbuildError as error:
            _show(ctx, error)
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            stopped = Interrupted("interrupted", hint="what was finished is kept; run it again")
            _show(ctx, stopped)
            ctx.exit(stopped.exit_status)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """List commands in the order of a day's work, as they stand in this file."""
        return list(self.commands)


def _show(ctx: click.Context, error: VaultbuildError) -> None:
    from builder.process import stop_all

    stop_all()
    settings = ctx.obj if isinstance(ctx.obj, Settings) else Settings(Path())
    settings.reporter.failed(error)


def _stop(signum: int, _frame: object) -> NoReturn:
    name = signal.Signals(signum).name
    raise Interrupted(f"stopped by {name}", hint="what was finished is kept; run it again")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--project",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    envvar="VAULTBUILD_PROJECT",
    show_envvar=True,
    help="The project's folder.",
)
@click.option("-v", "--verbose", count=True, help="Tell more: every task, every reason.")
@click.option("-q", "--quiet", count=True, help="Tell only what fails.")
@click.version_option(__version__, prog_name="vaultbuild")
@click.pass_context
def main(ctx: click.Context, folder: Path, verbose: int, quiet: int) -> None:
    """Build golden disk images for GPU hosts, stage by stage, and only what changed.

    \b
    Examples:
      vaultbuild plan                 what would run, and why
      vaultbuild stage frameworks     make that stage's image
      vaultbuild build                everything, verified and published
    """
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _stop)
    logging.basicConfig(
        level=logging.DEBUG if verbose > 1 else logging.WARNING,
        format="%(message)s",
        stream=sys.stderr,
    )
    ctx.obj = Settings(folder, verbose - quiet)


def _stage_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete stage names from the project's folders, without validating anything."""
    folder = Path(ctx.find_root().params.get("folder") or ".")
    found = (path.parent.name for path in folder.glob("stages/*/stage.yml"))
    return sorted(name for name in found if name.startswith(incomplete))


_variant = click.option("--variant", metavar="NAME", help="The variant; default: the pipeline's.")
_engine = click.option(
    "--engine",
    type=click.Choice(["auto", "qemu", "nspawn"]),
    default="auto",
    show_default=True,
    help="Where disks run: qemu with KVM where it works, else nspawn.",
)
_json = click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
_stage = click.argument("stage", required=False, shell_complete=_stage_names)


@main.command()
@_stage
@_variant
@_engine
@_json
@click.option("--detailed-exitcode", is_flag=True, help="Exit 4 when there is work, 0 when none.")
@click.pass_context
def plan(
    ctx: click.Context,
    stage: str | None,
    variant: str | None,
    engine: str,
    *,
    as_json: bool,
    detailed_exitcode: bool,
) -> None:
    """Show what would run and why; touches nothing.

    \b
    Example:
      vaultbuild plan frameworks
    """
    from builder import report

    project = ctx.obj.project(variant, engine)
    name = project.target(stage)
    decided = project.plan(name, project.inputs(name))
    if as_json:
        report.emit_json(decided.to_json())
    else:
        since = project.dates(decided)
        for line in report.plan_lines(decided, since, verbose=ctx.obj.verbosity > 0):
            report.emit(line)
    ctx.exit(_WORK if detailed_exitcode and decided.has_work else 0)


@main.command()
@click.argument("stage", shell_complete=_stage_names)
@_variant
@_engine
@_json
@click.option("--force", is_flag=True, help="Build it although it is there.")
@click.option("--keep-failed", is_flag=True, help="Keep the disk of a stage that fails.")
@click.pass_context
def stage(
    ctx: click.Context,
    stage: str,
    variant: str | None,
    engine: str,
    *,
    as_json: bool,
    force: bool,
    keep_failed: bool,
) -> None:
    """Make a stage's image, with what it needs, check it, and print its path.

    \b
    Example:
      vaultbuild stage frameworks
    """
    from builder import build, report

    project = ctx.obj.project(variant, engine)
    name = project.target(stage)
    inputs = project.inputs(name)
    decided = project.plan(name, inputs, force=force)
    options = build.Options(keep_failed=keep_failed)
    image = build.carry_out(decided, inputs, project, ctx.obj.reporter, options)
    if as_json:
        report.emit_json({"schema": 1, "stage": name, "key": image.key, "disk": str(image.disk)})
    else:
        report.emit(str(image.disk))
