"""The commands that are about this host: its caches, and whether it can build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder.cli_options import Command, Settings, engine_option, json_option, variant_option
from builder.errors import HostError, ProjectError, VaultbuildError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.caches import Status
    from builder.doctor import EngineChoice
    from builder.holdings import Entry
    from builder.project import Project
    from builder.prune import Choice


@click.group()
def cache() -> None:
    """The caches, which builds download through, and the store of images and checkpoints.

    \b
    Examples:
      vaultbuild cache up                       start the caches and let them stay
      vaultbuild cache status                   what runs, and what the store takes
      vaultbuild cache prune --dry-run          what would go, and why
      vaultbuild cache prune --max-size 50G     let old images go until the rest fits
    """


def _show_caches(
    found: list[Status], *, as_json: bool, store: dict[str, Any] | None = None
) -> None:
    from dataclasses import asdict

    from builder import report

    if as_json:
        told = {"store": store} if store else {}
        report.emit_json({"schema": 1, "caches": [asdict(status) for status in found], **told})
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

    project = settings.project()
    _show_caches(caches.down(_caches_of(project), project.folder), as_json=as_json)


def _caches_of(project: Project) -> Mapping[str, Mapping[str, Any]]:
    """Return what the pipeline says of caches; nothing where its files are wrong for now.

    What runs must be seen and stopped while somebody edits. A folder that is no project is told.
    """
    try:
        return project.pipeline.caches
    except ProjectError:
        if not (project.folder / "stages/pipeline.yml").is_file():
            raise
        return {}


@cache.command("status", cls=Command)
@json_option
@click.pass_obj
def cache_status(settings: Settings, *, as_json: bool) -> None:
    """Say which caches run, and what the store holds and takes.

    \b
    Example:
      vaultbuild cache status --json
    """
    from builder import caches, holdings, report

    project = settings.project()
    settled = _caches_of(project)
    entries = holdings.survey(project.store)
    known = _current(project, entries, settings)
    # Where it is not known, what was used last is the next best.
    current = holdings.made_last(project.store) if known is None else known.keys()
    root = project.store.root
    told = holdings.to_json(entries, current, known=known is not None, root=root)
    _show_caches(caches.status(settled, project.folder), as_json=as_json, store=told)
    if not as_json:
        for line in report.store_lines(entries, current, told["free_bytes"]):
            report.emit(line)


def _current(
    project: Project, entries: Sequence[Entry], settings: Settings
) -> dict[str, str] | None:
    """Return what runs would use as the files are now; None, and tell why, when nobody knows.

    A full disk must not wait until every file of the project is right.
    """
    if not any(entry.is_layer for entry in entries):
        # Whoever has nothing in the store may be in the wrong folder.
        _caches_of(project)
        return {}
    try:
        return project.current()
    except VaultbuildError as error:
        settings.reporter.note(f"what is current is not known: {error.message}")
        return None


def _size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    from builder.schema import WrongValueError, parse_size

    try:
        return None if value is None else parse_size(value)
    except WrongValueError as error:
        raise click.BadParameter(f"{error.message}; {error.hint}") from error


def _age(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    from builder.prune import parse_age

    try:
        return None if value is None else parse_age(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@cache.command(cls=Command)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How many images of each stage of each variant stay.",
)
@click.option(
    "--max-size",
    callback=_size,
    metavar="SIZE",
    help="Let go what was not used for longest until the store fits: 50G, 500M.",
)
@click.option(
    "--older-than", callback=_age, metavar="AGE", help="Keep what was used since: 30d, 12h, 4w."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@click.pass_obj
def prune(
    settings: Settings,
    *,
    keep: int,
    max_size: int | None,
    older_than: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove what no run needs any more, and say of each image why it stays or goes.

    What is current, the last image of each stage, what is in use, and all that these stand on
    always stays.

    \b
    Examples:
      vaultbuild cache prune --dry-run
      vaultbuild cache prune --keep 1 --max-size 50G
      vaultbuild cache prune --older-than 30d
    """
    import time

    from builder import holdings
    from builder import prune as pruning

    project = settings.project()
    entries = holdings.survey(project.store)
    rules = pruning.Rules(
        now=time.time(),
        current=_current(project, entries, settings),
        last=holdings.made_last(project.store),
        keep=keep,
        max_bytes=max_size,
        older_than=older_than,
    )
    choices = pruning.decide(entries, rules)
    if not dry_run:
        choices = pruning.carry_out(choices, project.store)
    _show_choices(choices, project, settings, max_size, dry_run=dry_run, as_json=as_json)


def _show_choices(
    choices: tuple[Choice, ...],
    project: Project,
    settings: Settings,
    max_size: int | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from builder import holdings, report
    from builder import prune as pruning

    gone, left = (pruning.bytes_of(choices, action) for action in ("remove", "keep"))
    over = max(0, left - max_size) if max_size is not None else 0
    free = holdings.free_bytes(project.store.root)
    if as_json:
        told = {"removed_bytes": gone, "kept_bytes": left, "over_bytes": over, "free_bytes": free}
        found = [choice.to_json() for choice in choices]
        report.emit_json({"schema": 1, "dry_run": dry_run, **told, "choices": found})
    else:
        for line in report.prune_lines(choices, verbose=settings.verbosity > 0):
            report.emit(line)
        would = "would be " if dry_run else ""
        report.emit(f"{report.size(gone)} {would}removed, {report.size(left)} kept,"
                    f" {report.size(free)} free")  # fmt: skip
    if over:
        settings.reporter.note(
            f"it does not fit: what must stay takes {report.size(over)} more than that"
        )


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
