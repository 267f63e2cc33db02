"""The command that writes new pins."""

from __future__ import annotations

import click

from builder.cli_options import Command, Settings, json_option, require_network

_CHANGED = 4


@click.command(cls=Command)
@click.argument("what", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Only show the diff; write nothing.")
@click.option(
    "--detailed-exitcode", is_flag=True, help="Exit 4 when a pin changed (or would), 0 when none."
)
@json_option
@click.pass_context
def lock(
    ctx: click.Context,
    what: tuple[str, ...],
    *,
    dry_run: bool,
    detailed_exitcode: bool,
    as_json: bool,
) -> None:
    """Write new pins: package versions, hashed requirements, models, a cloud image's checksum.

    WHAT is packages, image, wheels or models, the path of a lock, or the name of a package or of a
    variable; nothing means all. What is held stays unless it is named. The diff is the result.

    \b
    Examples:
      vaultbuild lock --dry-run
      vaultbuild lock wheels
      vaultbuild lock nvidia_driver_version
      vaultbuild lock stages/frameworks/requirements.lock
    """
    from builder import report
    from builder.upstream import relock, sources_of

    require_network()
    settings: Settings = ctx.obj
    project = settings.project()
    sources = sources_of(project, told=settings.reporter.note)
    found = relock.relock(project.folder, sources, relock.Wanted.of(what))
    if not dry_run:
        relock.write(project.folder, found)
    if as_json:
        report.emit_json(found.to_json(written=not dry_run))
    else:
        for change in found.changes:
            report.emit(change.diff().removesuffix("\n"))
    for note in found.notes:
        settings.reporter.note(str(note))
    ctx.exit(_CHANGED if detailed_exitcode and found.changes else 0)
