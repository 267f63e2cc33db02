"""The command that fills the caches before builds need them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli_cache import NAMES, cache, size_option
from builder.cli_options import Command, Settings, engine_option, json_option, require_network
from builder.errors import CommandError, Problem, ProjectError

if TYPE_CHECKING:
    from builder.network import NetworkLock
    from builder.prefetch import Order, Warmed
    from builder.project import Project

_STORE = ""


@cache.command(cls=Command)
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(NAMES))
@click.option("--variant", "variants", metavar="NAME", multiple=True, help="Repeat it for several.")
@engine_option
@click.option(
    "--lock",
    metavar="[FILE]",
    is_flag=False,
    flag_value=_STORE,
    default=None,
    help="Exactly what a network lock names: FILE, or without one those of the images here.",
)
@size_option("--budget", "Fetch no more than that: 20G, 500M.")
@json_option
@click.pass_obj
def warm(
    settings: Settings,
    names: tuple[str, ...],
    *,
    variants: tuple[str, ...],
    engine: str,
    lock: str | None,
    budget: int | None,
    as_json: bool,
) -> None:
    """Fetch into the caches, or those that are named, what builds will ask for.

    Packages are those of network locks: of the images as they stand, or of a release's
    network.json. Wheels, models and images are those that the pipeline's files name. A run that is
    stopped goes on where it was.

    \b
    Examples:
      vaultbuild cache warm
      vaultbuild cache warm wheels models --budget 20G
      vaultbuild cache warm --lock dist/gpu-host-1.0.0/network.json
    """
    from builder import inventory, report

    require_network()
    done = []
    for variant in variants or (None,):
        project = settings.project(variant, engine)
        order = _order(project, names, lock, budget)
        if not order.locks and {"apt", "pypi"} & order.names:
            settings.reporter.note(
                "no image of this pipeline has a network lock yet: packages come with its first"
                " build, or from the lock of a release (--lock FILE)"
            )
        done.append(_warm(settings, project, order))
    if as_json:
        report.emit_json({"schema": 1, "warmed": [each.to_json() for each in done]})
    else:
        for line in (line for each in done for line in inventory.warm_lines(each)):
            report.emit(line)
    failed = [one for each in done for one in each.failed]
    if failed:
        first = failed[0]
        raise CommandError(
            f"{len(failed)} things could not be had, such as {first.want.url}: {first.why}",
            hint="what upstream has no more, a new build replaces: plan --refresh tells which",
        )


def _order(project: Project, names: tuple[str, ...], lock: str | None, budget: int | None) -> Order:
    from builder.prefetch import Order

    found = (_read(Path(lock)),) if lock else project.network_locks()
    named = {one.cache for each in found for one in each.handed}
    exactly = set(NAMES) if lock is None else named & set(NAMES)
    if lock == _STORE and not found:
        hint = (
            f"{project.command('build')} makes them; or name a file: --lock dist/NAME/network.json"
        )
        raise CommandError("no image of this pipeline has a network lock", hint=hint)
    return Order(frozenset(names or exactly), found, budget)


def _read(path: Path) -> NetworkLock:
    from builder.network import NetworkLock

    try:
        return NetworkLock.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        hint = "; the name of a cache stands before --lock" if str(path) in NAMES else ""
        raise click.BadParameter(f"{path}: {error.strerror}{hint}", param_hint="--lock") from error
    except ValueError as error:
        hint = "give a release's network.json, or what `vaultbuild show NAME --network` prints"
        raise ProjectError([Problem(path, f"is no network lock: {error}")], hint=hint) from error


def _warm(settings: Settings, project: Project, order: Order) -> Warmed:
    from builder.live import downloads
    from builder.prefetch import prefetch, wanted_bytes
    from builder.workplace import log_folder

    console = settings.reporter
    logs = log_folder(project, "warm")
    with downloads(wanted_bytes(order), quiet=settings.verbosity < 0) as progress:
        return prefetch(project, order, console, logs, progress)
