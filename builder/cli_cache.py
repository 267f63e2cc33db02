"""The commands about what this host keeps: the caches, and the store of images and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from builder.cli_options import Command, Settings, age_of, json_option, offline_asked, size_of
from builder.errors import ProjectError, VaultbuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builder.caches import Status
    from builder.fetch.breaker import State
    from builder.gateway import Sum
    from builder.holdings import Entry
    from builder.project import Project
    from builder.prune import Choice

STORE = "store"
# Also in builder.caches, which takes too long to import for those who only want help.
NAMES = ("apt", "pypi", "wheels", "isos", "models")


@click.group()
def cache() -> None:
    """The caches, which builds download through, and the store of images and checkpoints.

    \b
    Examples:
      vaultbuild cache up                       start the caches and let them stay
      vaultbuild cache status                   what runs, and what the caches and the store take
      vaultbuild cache prune --dry-run          what of the store would go, and why
      vaultbuild cache prune --max-size 50G     let old images go until the rest fits
      vaultbuild cache prune apt --older-than 90d
    """


names_argument = click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(NAMES))


def _show(found: Sequence[Status], project: Project, *, as_json: bool, **more: Any) -> None:
    """Print the caches with what they keep; ``more`` is what else a machine is told."""
    from dataclasses import asdict

    from builder import caches, inventory, report

    names = [status.name for status in found]
    holds = caches.holds(project.folder, names)
    sums = {name: one for name, one in _tally(project).items() if name in names}
    if as_json:
        told = [
            asdict(each) | {"holds": holds[each.name].to_json(), "gave": _told(sums.get(each.name))}
            for each in found
        ]
        report.emit_json({"schema": 1, "caches": told, **more})
        return
    for line in (*inventory.cache_lines(found, holds), *inventory.saving_lines(sums)):
        report.emit(line)


def _tally(project: Project) -> dict[str, Sum]:
    """Return what the caches gave in all runs so far, by name."""
    from builder.gateway import Tally

    return Tally(project.var / "index/traffic.json").read()


def _told(one: Sum | None) -> dict[str, Any] | None:
    """Return what a machine is told of that."""
    from dataclasses import asdict

    return asdict(one) | {"saved_seconds": one.saved(one.pace)} if one else None


@cache.command(cls=Command)
@names_argument
@json_option
@click.pass_obj
def up(settings: Settings, names: tuple[str, ...], *, as_json: bool) -> None:
    """Start the caches, or those that are named, and let them stay.

    Without names, the ones that every build uses.

    \b
    Examples:
      vaultbuild cache up
      vaultbuild cache up pypi models
    """
    from builder import caches

    project = settings.project()
    pipeline = project.pipeline
    offline = offline_asked()
    found = caches.up(pipeline.caches, pipeline.project, names or None, offline=offline)
    _show(found, project, as_json=as_json)


@cache.command(cls=Command)
@names_argument
@json_option
@click.pass_obj
def down(settings: Settings, names: tuple[str, ...], *, as_json: bool) -> None:
    """Stop the caches, or those that are named; one that a run uses is stopped when that run ends.

    \b
    Example:
      vaultbuild cache down
    """
    from builder import caches

    project = settings.project()
    found = caches.down(_caches_of(project), project.folder, names or None)
    _show(found, project, as_json=as_json)


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
@names_argument
@json_option
@click.pass_obj
def cache_status(settings: Settings, names: tuple[str, ...], *, as_json: bool) -> None:
    """Say which caches run, what they keep, and what the store holds and takes.

    With names, only those caches are told.

    \b
    Examples:
      vaultbuild cache status --json
      vaultbuild cache status apt
    """
    from dataclasses import asdict

    from builder import caches, inventory, report

    project = settings.project()
    found = caches.status(_caches_of(project), project.folder, names or None)
    breakers = _open_breakers(project)
    more: dict[str, Any] = {"breakers": [asdict(breaker) for breaker in breakers]}
    if not names:
        entries, current, more["store"] = _store_of(project, settings)
    _show(found, project, as_json=as_json, **more)
    if as_json:
        return
    for line in inventory.breaker_lines(breakers):
        report.emit(line)
    if not names:
        for line in inventory.store_lines(entries, current, more["store"]["free_bytes"]):
            report.emit(line)


def _open_breakers(project: Project) -> list[State]:
    """Return the servers that are not asked at the moment, since they failed again and again."""
    from builder.fetch.breaker import Breakers

    breakers = Breakers.under(project.store.root)
    return [state for state in breakers.states() if state.state != "closed"]


def _store_of(project: Project, settings: Settings) -> tuple[Sequence[Entry], Any, dict[str, Any]]:
    """Return the store's entries, which of them are current, and both for a machine."""
    from builder import holdings

    entries = holdings.survey(project.store, project.folder / "dist")
    known = _current(project, entries, settings)
    # Where it is not known, what was used last is the next best.
    current = holdings.made_last(project.store) if known is None else known.keys()
    root = project.store.root
    told = holdings.to_json(entries, current, known=known is not None, root=root)
    return entries, current, told


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


def size_option(name: str, about: str) -> Callable[[Any], Any]:
    """Return an option that takes a size, such as 50G."""
    return click.option(name, callback=size_of, metavar="SIZE", help=about)


@cache.command(cls=Command)
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice((STORE, *NAMES)))
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How many images of each stage of each variant stay in the store.",
)
@size_option("--max-size", "Let go what was not used for longest until the rest fits: 50G, 500M.")
@click.option(
    "--older-than", callback=age_of, metavar="AGE", help="Keep what was used since: 30d, 12h, 4w."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@click.pass_obj
def prune(
    settings: Settings,
    names: tuple[str, ...],
    *,
    keep: int,
    max_size: int | None,
    older_than: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove what no run needs any more, and say why each thing stays or goes.

    Without a name, or with "store": images and checkpoints. What is current, the last image of each
    stage, what is in use, and all that these stand on always stays.

    With the names of caches: files that were not used for AGE, or the longest unused until these
    caches together take no more than SIZE. Indexes that are in force, what was uploaded, and what a
    run uses always stay.

    \b
    Examples:
      vaultbuild cache prune --dry-run
      vaultbuild cache prune --keep 1 --max-size 50G
      vaultbuild cache prune --older-than 30d
      vaultbuild cache prune apt pypi --older-than 90d --max-size 20G
    """
    wanted = [name for name in NAMES if name in names]
    if wanted and STORE in names and max_size is not None:
        raise click.UsageError("--max-size is for the store or for caches, not for both at once")
    project = settings.project()
    options = _Options(keep, max_size, older_than, dry_run=dry_run)
    told: dict[str, Any] = {}
    if STORE in names or not wanted:
        told |= _prune_store(project, settings, options, as_json=as_json)
    if wanted:
        told |= _prune_caches(project, settings, wanted, options, as_json=as_json)
    if as_json:
        from builder import report

        report.emit_json({"schema": 1, "dry_run": dry_run, **told})


@dataclass(frozen=True, slots=True)
class _Options:
    """What was asked of ``prune``."""

    keep: int
    max_size: int | None
    older_than: float | None
    dry_run: bool = field(kw_only=True)


def _prune_store(
    project: Project, settings: Settings, options: _Options, *, as_json: bool
) -> dict[str, Any]:
    import time

    from builder import holdings
    from builder import prune as pruning

    entries = holdings.survey(project.store, project.folder / "dist")
    rules = pruning.Rules(
        now=time.time(),
        current=_current(project, entries, settings),
        last=holdings.made_last(project.store),
        keep=options.keep,
        max_bytes=options.max_size,
        older_than=options.older_than,
    )
    choices = pruning.decide(entries, rules)
    if not options.dry_run:
        choices = pruning.carry_out(choices, project.store)
    return _told_store(choices, project, settings, options, as_json=as_json)


def _told_store(
    choices: tuple[Choice, ...],
    project: Project,
    settings: Settings,
    options: _Options,
    *,
    as_json: bool,
) -> dict[str, Any]:
    from builder import holdings, inventory, report
    from builder import prune as pruning

    gone, left = (pruning.bytes_of(choices, action) for action in ("remove", "keep"))
    free = holdings.free_bytes(project.store.root)
    if not as_json:
        for line in inventory.prune_lines(choices, verbose=settings.verbosity > 0):
            report.emit(line)
        report.emit(_sum(gone, left, free, dry_run=options.dry_run))
    over = _note_over(settings, left, options.max_size)
    told = {"removed_bytes": gone, "kept_bytes": left, "over_bytes": over, "free_bytes": free}
    return {**told, "choices": [choice.to_json() for choice in choices]}


def _prune_caches(
    project: Project, settings: Settings, names: list[str], options: _Options, *, as_json: bool
) -> dict[str, Any]:
    import time

    from builder import caches, holdings, inventory, report
    from builder.caches import kept

    rules = kept.Rules(time.time(), options.older_than, options.max_size)
    choices = caches.prune(project.folder, names, rules, dry_run=options.dry_run)
    gone, left = (kept.bytes_of(choices, action) for action in ("remove", "keep"))
    free = holdings.free_bytes(project.store.root)
    if not as_json:
        for line in inventory.kept_lines(choices, verbose=settings.verbosity > 0):
            report.emit(line)
        report.emit(_sum(gone, left, free, dry_run=options.dry_run))
    if rules.empty:
        settings.reporter.note("nothing was asked for: say --older-than 90d or --max-size 20G")
    over = _note_over(settings, left, options.max_size)
    told = {"removed_bytes": gone, "kept_bytes": left, "over_bytes": over, "free_bytes": free}
    return {"caches": {**told, "choices": [choice.to_json() for choice in choices]}}


def _sum(gone: int, left: int, free: int, *, dry_run: bool) -> str:
    from builder.report import size

    would = "would be " if dry_run else ""
    return f"{size(gone)} {would}removed, {size(left)} kept, {size(free)} free"


def _note_over(settings: Settings, left: int, most: int | None) -> int:
    """Say when what stays does not fit; return by how much."""
    from builder.report import size

    over = max(0, left - most) if most is not None else 0
    if over:
        settings.reporter.note(f"it does not fit: what must stay takes {size(over)} more than that")
    return over
