"""The command line: words to calls, errors to exit statuses. It alone exits.

Each command is a few lines over a function that can be called without it. Imports of what builds
are late, so that ``plan`` and ``--help`` start fast.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from builder import __version__
from builder.cli_cache import cache
from builder.cli_compat import compat
from builder.cli_desk import render, shell, show, watch_stage
from builder.cli_gpu import Gpu, gpu_options, verify_gpus
from builder.cli_host import doctor
from builder.cli_init import init
from builder.cli_lock import lock
from builder.cli_options import (
    Command,
    Settings,
    compression_option,
    engine_option,
    events_option,
    json_option,
    offline_option,
    output_option,
    stage_argument,
    stage_names,
    variant_option,
)
from builder.cli_plan import Asking, asking_option, plan
from builder.cli_warm import warm
from builder.errors import Interrupted, Told, host_error

if TYPE_CHECKING:
    from builder.project import Project
    from builder.release.publish import Release
    from builder.reporter import Reporter
    from builder.store import Image
    from builder.workplace import Options

_log = logging.getLogger(__name__)

_STOPS = b"\nstopping in good order; a second signal (Ctrl-C) kills what still runs\n"
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Commands(click.Group):
    """The group that turns errors into one message and an exit status."""

    command_class = Command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; show an error as what, where and what to type next."""
        try:
            return super().invoke(ctx)
        except Told as error:
            _end(ctx, error)
        except OSError as error:
            refused = host_error(error)
            if refused is None:
                raise
            _log.debug("where it was refused:", exc_info=True)
            _end(ctx, refused)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """List commands in the order of a day's work, as they stand in this file."""
        return list(self.commands)


def _end(ctx: click.Context, error: Told) -> NoReturn:
    """Stop what still runs, show the error, exit."""
    from builder.process import stop_all

    stop_all()
    settings = ctx.obj if isinstance(ctx.obj, Settings) else Settings(Path())
    settings.reporter.failed(error)
    ctx.exit(error.exit_status)


def _stop(signum: int, _frame: object) -> NoReturn:
    """Unwind at the first signal; at the second, kill what the unwinding waits for."""
    for other in _STOPPING:
        signal.signal(other, _kill)
    # Past all buffers: the signal may have come in the midst of a line.
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), _STOPS)
    name = signal.Signals(signum).name
    raise Interrupted(f"stopped by {name}", hint="what was finished is kept; run it again")


def _kill(_signum: int, _frame: object) -> None:
    from builder.process import kill_all

    kill_all()


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
    for signum in _STOPPING:
        signal.signal(signum, _stop)
    logging.basicConfig(
        level=logging.DEBUG if verbose > 1 else logging.WARNING,
        format="%(message)s",
        stream=sys.stderr,
    )
    if ctx.get_parameter_source("folder") is click.core.ParameterSource.DEFAULT:
        folder = _project_above(folder)
    ctx.obj = Settings(folder, verbosity=verbose - quiet)


def _project_above(folder: Path) -> Path:
    """Return the project that ``folder`` is in, as git does; else ``folder`` itself."""
    here = folder.absolute()
    found = (each for each in (here, *here.parents) if (each / "stages/pipeline.yml").is_file())
    return next(found, folder)


main.add_command(init)
main.add_command(plan)


@main.command()
@click.argument("stage", shell_complete=stage_names)
@variant_option
@engine_option
@json_option
@events_option
@click.option(
    "--force",
    is_flag=True,
    help="Build it, from its first role, although it is there. What stands on it goes.",
)
@asking_option
@click.option("--keep-failed", is_flag=True, help="Keep the disk of a stage that fails.")
@offline_option
@click.option("--watch", is_flag=True, help="Build again whenever a file is saved.")
@click.pass_obj
def stage(
    settings: Settings,
    stage: str,
    variant: str | None,
    engine: str,
    *,
    as_json: bool,
    events: Path | None,
    force: bool,
    asking: Asking,
    keep_failed: bool,
    offline: bool,
    watch: bool,
) -> None:
    """Make a stage's image, with what it needs, check it, and print its path.

    \b
    Examples:
      vaultbuild stage frameworks
      vaultbuild stage frameworks --watch
    """
    from builder import report
    from builder.workplace import Options

    if watch:
        if as_json or events or force or asking.refresh:
            others = "--json, --events, --force or --refresh"
            raise click.UsageError(f"--watch does not go with {others}")
        flags = {"--keep-failed": keep_failed, "--offline": offline}
        watch_stage(settings, stage, variant, engine, flags=[f for f, on in flags.items() if on])
    options = Options(keep_failed=keep_failed, offline=offline)
    with settings.telling("stage", events) as reporter:
        project = settings.project(variant, engine)
        image = _make(project, stage, reporter, options, asking, force=force)
    if as_json:
        name = image.record.stage
        report.emit_json({"schema": 1, "stage": name, "key": image.key, "disk": str(image.disk)})
    else:
        report.emit(str(image.disk))


def _make(
    project: Project,
    stage: str | None,
    reporter: Reporter,
    options: Options,
    asking: Asking,
    *,
    force: bool = False,
) -> Image:
    from builder.build import carry_out

    name = project.target(stage)
    project.require_compatible(name)
    inputs = project.inputs(name)
    found = asking.ask(project, inputs, reporter, offline=options.offline)
    decided = project.plan(name, inputs, force=force, moved=found.reasons if found else None)
    return carry_out(decided, inputs, project, reporter, options)


@main.command()
@click.option("--variant", "variants", metavar="NAME", multiple=True, help="Repeat it for several.")
@engine_option
@json_option
@output_option
@compression_option
@events_option
@asking_option
@click.option("--keep-failed", is_flag=True, help="Keep the disk of a stage that fails.")
@offline_option
@click.pass_obj
def build(
    settings: Settings,
    variants: tuple[str, ...],
    engine: str,
    *,
    as_json: bool,
    output: Path | None,
    compression: str,
    events: Path | None,
    asking: Asking,
    keep_failed: bool,
    offline: bool,
) -> None:
    """Build the last stage of the chosen variants and all it stands on, verified and published.

    \b
    Examples:
      vaultbuild build --variant debian-13
      vaultbuild build --refresh
      vaultbuild build --offline                from the caches alone
    """
    from builder.workplace import Options

    options = Options(keep_failed=keep_failed, offline=offline)
    releases = []
    with settings.telling("build", events) as reporter:
        for variant in variants or (None,):
            project = settings.project(variant, engine)
            for name in project.aside():
                reporter.warning(f"{name} is left out: {project.target(None)} does not stand on it")
            image = _make(project, None, reporter, options, asking)
            releases.append(_publish(project, image, reporter, output, compression))
    _emit_releases(releases, as_json=as_json)


@main.command()
@stage_argument
@variant_option
@engine_option
@json_option
@events_option
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML.")
@click.option("--vm", is_flag=True, help="Boot it in a VM, also where stages run in containers.")
@gpu_options
@click.pass_obj
def verify(
    settings: Settings,
    stage: str | None,
    variant: str | None,
    engine: str,
    *,
    as_json: bool,
    events: Path | None,
    junit: Path | None,
    vm: bool,
    gpu: Gpu | None,
) -> None:
    """Run the checks on a throwaway overlay of an image; with --gpu, check a host's GPUs.

    \b
    Examples:
      vaultbuild verify drivers --junit drivers.xml
      vaultbuild verify --gpu --on root@gpu-7         against what the variant expects
    """
    from builder import report
    from builder.build import judge
    from builder.verify import require_passed

    if gpu:
        if vm or events:
            raise click.UsageError("--gpu does not go with --vm or --events: no image is booted")
        verify_gpus(settings, gpu, stage, variant, as_json=as_json, junit=junit)
        return
    with settings.telling("verify", events) as reporter:
        project = settings.project(variant, engine)
        name = project.target(stage)
        image, checks = project.image(name), project.checks(name, whole=True)
        engine_of_checks = project.vm if vm else project.engine
        verdict, log = judge(project, image, reporter, checks, engine_of_checks, junit=junit)
        # A machine reads a bad verdict too; the exit status and stderr say that it is one.
        if as_json:
            report.emit_json(verdict.to_json())
        require_passed(verdict, name, project.command, log=log)
        project.require_compatible_image(image)


@main.command()
@stage_argument
@variant_option
@engine_option
@json_option
@output_option
@compression_option
@events_option
@click.pass_obj
def publish(
    settings: Settings,
    stage: str | None,
    variant: str | None,
    engine: str,
    *,
    as_json: bool,
    output: Path | None,
    compression: str,
    events: Path | None,
) -> None:
    """Flatten, compress, checksum, boot and describe an image that passed its checks.

    \b
    Example:
      vaultbuild publish --output /srv/images
    """
    with settings.telling("publish", events) as reporter:
        project = settings.project(variant, engine)
        image = project.image(project.target(stage))
        release = _publish(project, image, reporter, output, compression)
    _emit_releases([release], as_json=as_json)


def _publish(
    project: Project, image: Image, reporter: Reporter, output: Path | None, compression: str
) -> Release:
    from builder.release.publish import publish
    from builder.workplace import log_folder

    return publish(
        project,
        image,
        output=(output or project.folder / "dist").absolute(),
        logs=lambda: log_folder(project, "release", image.key),
        reporter=reporter,
        compression=compression,
    )


def _emit_releases(releases: list[Release], *, as_json: bool) -> None:
    from builder import report

    if as_json:
        found = [{"image": str(release.image), **release.manifest} for release in releases]
        report.emit_json({"schema": 1, "releases": found})
        return
    for release in releases:
        report.emit(str(release.image))


main.add_command(show)
main.add_command(render)
main.add_command(shell)
main.add_command(cache)
cache.add_command(warm)
main.add_command(doctor)
main.add_command(compat)
main.add_command(lock)
