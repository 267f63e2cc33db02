"""The command that a new user begins with: a project of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli_options import Command, Settings, json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.reference import File


def _variant_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the variants of the reference project."""
    return sorted(name for name in _known_variants() if name.startswith(incomplete))


@click.command(cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", metavar="NAME", help="The pipeline's name; default: the folder's.")
@click.option(
    "--variant",
    metavar="NAME",
    default="debian-13",
    show_default=True,
    shell_complete=_variant_names,
    help="The variant that the project builds where none is named.",
)
@json_option
@click.pass_obj
def init(
    settings: Settings, folder: Path, name: str | None, variant: str, *, as_json: bool
) -> None:
    """Write a new project into DIR that builds as it stands.

    DIR is a new folder or an empty one. What is written is vaultbuild's reference project with all
    its variants: stages, roles, templates, checks.

    \b
    Examples:
      vaultbuild init images
      vaultbuild init images --name render-farm --variant debian-13-torch
    """
    from builder import new_folder, new_project, report

    new_folder.require_free(folder)
    place = folder.resolve()
    chosen = new_project.chosen_name(name, place)
    new_project.require_variant(variant, _known_variants())
    files = _files(chosen, variant)
    new_folder.write(place, files, last="stages", check=_require_whole)
    if as_json:
        told = {"folder": str(place), "name": chosen, "variant": variant, "files": len(files)}
        report.emit_json({"schema": 1, **told})
    else:
        report.emit(str(place))
    for line in _next_steps(folder, place):
        settings.reporter.note(line)


def _known_variants() -> tuple[str, ...]:
    from builder import reference
    from builder.pipeline import load_pipeline

    return load_pipeline(reference.place()).variants


def _files(name: str, variant: str) -> list[File]:
    from builder import new_project, reference

    return new_project.decide(reference.read(reference.place()), name=name, variant=variant)


def _require_whole(folder: Path) -> None:
    """Raise when what is to become a project is not one: a checkout may hold half a change."""
    from builder import reference
    from builder.errors import ProjectError
    from builder.pipeline import load_pipeline

    try:
        load_pipeline(folder)
    except ProjectError as error:
        hint = f"these files of {reference.place()} are wrong, or git does not track them yet"
        raise ProjectError(error.problems, hint=hint) from error


def _next_steps(folder: Path, place: Path) -> Sequence[str]:
    enter = [] if place == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    return [
        "next:",
        *(f"  {line}" for line in enter),
        "  vaultbuild doctor        can this host build it?",
        "  vaultbuild plan          what would run, and why",
        "  vaultbuild stage base    make the first stage's image",
    ]
