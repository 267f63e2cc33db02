"""What the commands share: the settings before a command's name, and options that recur."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.project import Project
    from builder.report import ConsoleReporter
    from builder.reporter import Reporter


@dataclass(slots=True)
class Settings:
    """What was said before the command's name."""

    folder: Path
    verbosity: int = 0
    _reporter: ConsoleReporter | None = field(default=None, init=False)

    @property
    def reporter(self) -> ConsoleReporter:
        """The reporter for a person at this terminal: one, since it has one line that is live."""
        from builder.report import ConsoleReporter

        if self._reporter is None:
            self._reporter = ConsoleReporter(verbosity=self.verbosity)
        return self._reporter

    @contextlib.contextmanager
    def telling(self, command: str, events: Path | None) -> Iterator[Reporter]:
        """Tell the person, and what follows ``events``, of the run that the block is."""
        console = self.reporter
        with contextlib.ExitStack() as stack:
            stack.callback(console.close)
            if events is None:
                yield console
                return
            from builder import stream  # late: few ask for it
            from builder.reporter import Tee

            try:
                file = stream.open_stream(events)
            except OSError as error:
                reason = f"{events} cannot be written: {error.strerror}"
                raise click.BadParameter(reason, param_hint="--events") from error
            told = stack.enter_context(stream.telling(file, command, console.warning))
            yield Tee(console, told)

    def project(self, variant: str | None = None, engine: str = "auto") -> Project:
        """The project, for one variant and one engine."""
        from builder.project import Project

        return Project(self.folder, variant=variant, engine=engine)


class Command(click.Command):
    """A command that takes what stands before its name behind it too: people type it there."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.params += [
            click.Option(
                ["--project"],
                type=click.Path(path_type=Path, file_okay=False),
                callback=_set_folder,
                expose_value=False,
                help="The project's folder.",
            ),
            click.Option(
                ["-v", "--verbose"],
                count=True,
                callback=_louder,
                expose_value=False,
                help="Tell more: every task, every reason.",
            ),
            click.Option(
                ["-q", "--quiet"],
                count=True,
                callback=_quieter,
                expose_value=False,
                help="Tell only what fails.",
            ),
        ]


def _set_folder(ctx: click.Context, _param: click.Parameter, folder: Path | None) -> None:
    if folder is not None:
        ctx.obj.folder = folder


def _louder(ctx: click.Context, _param: click.Parameter, count: int) -> None:
    ctx.obj.verbosity += count


def _quieter(ctx: click.Context, _param: click.Parameter, count: int) -> None:
    ctx.obj.verbosity -= count


def stage_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete stage names from the project's folders, without validating anything."""
    folder = Path(ctx.find_root().params.get("folder") or ".")
    found = (path.parent.name for path in folder.glob("stages/*/stage.yml"))
    return sorted(name for name in found if name.startswith(incomplete))


variant_option = click.option(
    "--variant", metavar="NAME", help="The variant; default: the pipeline's."
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "qemu", "nspawn"]),
    default="auto",
    show_default=True,
    help="Where disks run: qemu with KVM where it works, else nspawn.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
events_option = click.option(
    "--events",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write everything that happens to FILE, as JSON lines (docs/events.md).",
)
_OFFLINE = "VAULTBUILD_OFFLINE"
offline_option = click.option(
    "--offline",
    is_flag=True,
    envvar=_OFFLINE,
    show_envvar=True,
    help="Make do with what the caches have: nothing outside this host is asked.",
)
stage_argument = click.argument("stage", required=False, shell_complete=stage_names)


output_option = click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where releases go; default: dist/ in the project.",
)
compression_option = click.option(
    "--compression",
    type=click.Choice(["zstd", "zlib"]),
    default="zstd",
    show_default=True,
    help="zlib is for readers older than QEMU 5.1.",
)


def size_of(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Return the bytes that an option such as ``50G`` stands for."""
    if value is None:
        return None
    from builder.values import parse_size  # late: brings pydantic

    with _told_as_an_option():
        return parse_size(value)


def age_of(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Return the seconds that an option such as ``30d`` stands for."""
    if value is None:
        return None
    from builder.values import parse_age  # late, as above

    with _told_as_an_option():
        return parse_age(value)


@contextlib.contextmanager
def _told_as_an_option() -> Iterator[None]:
    from builder.values import WrongValueError  # late, as above

    try:
        yield
    except WrongValueError as error:
        raise click.BadParameter(f"{error.message}; {error.hint}") from error


def offline_asked() -> bool:
    """Whether the environment says that nothing outside this host is to be asked."""
    said = os.environ.get(_OFFLINE, "")
    return bool(said) and click.BOOL.convert(said, None, None)


def require_network() -> None:
    """Refuse a command that is nothing without the network, where that is not to be used."""
    if offline_asked():
        raise click.UsageError(
            f"{_OFFLINE} is set, and this asks upstream; without it: env -u {_OFFLINE} vaultbuild …"
        )
