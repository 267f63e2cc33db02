"""Running Packer, whichever this host has.

Debian 12 has Packer 1.6, with the qemu builder inside. Packer 1.7 and later take plugins, and from
1.10 on have none inside. The difference is kept in :attr:`Packer.line`, which templates look at,
and in :meth:`Packer.require_plugins`.

Packer is asked for its machine-readable form, which tells an error from what is only said. That is
kept beside the log as it came; the log is what a person would have seen.

Packer runs contained, with a configuration and a cache of its own: what a user has set up for other
work does not reach a build, and nothing that Packer started outlives it.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from builder import events, process
from builder.errors import CommandError, HostError, Problem, ProjectError, VaultbuildError
from builder.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.template import EngineName, PackerLine

QEMU_PLUGIN: Final = "github.com/hashicorp/qemu"

_VERSION: Final = re.compile(r"^Packer v(\d+)\.(\d+)\.(\d+)", re.MULTILINE)
_OLDEST: Final = (1, 6, 0)
_WITH_PLUGINS: Final = (1, 7, 0)
_USERS: Final = ("PACKER_", "XDG_CONFIG_HOME")

# "==> qemu.base: ..." is a build's first word, "--> qemu.base: ..." the summary of its failure.
_STARTED: Final = re.compile(r"^==> [\w-]+\.[\w-]+: ", re.MULTILINE)
_SUMMARY: Final = re.compile(r"^--> [\w-]+\.[\w-]+: (?P<message>.+)$", re.MULTILINE)
_PLACE: Final = re.compile(r"^\s+on \S+ line (\d+).*\n.*$", re.MULTILINE)
_COUNT: Final = re.compile(r"\d+ error\(s\) occurred:")
# "<time>,<target>,<type>,<data>...": the machine-readable form; of type "ui" is what people read.
_MACHINE: Final = re.compile(r"^\d{9,},[^,]*,(?P<type>[\w-]+)(,(?P<data>.*))?$", re.DOTALL)
_UI: Final = re.compile(r"^(?P<kind>say|message|error),(?P<text>.*)$", re.DOTALL)
_ESCAPED: Final = (("%!(PACKER_COMMA)", ","), ("\\r", "\r"), ("\\n", "\n"))
_SCRIPT_FAILED: Final = "Script exited with non-zero exit status"
_MISSING_PLUGIN: Final = "Error: Missing plugins"

ErrorT = TypeVar("ErrorT", bound=VaultbuildError)


class CallbackError(CommandError):
    """Packer did its part, and the command that it called back failed: that one knows why."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something that Packer says to people. ``kind`` is Packer's own: say, message or error."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Packer:
    """A Packer of this host. ``plugins`` is where it keeps them, None where it needs none."""

    program: str
    version: tuple[int, int, int]
    plugins: Path | None = None

    @classmethod
    def find(cls, program: str = "packer") -> Packer:
        """Return this host's Packer; raise :class:`HostError` when it has none, or an old one."""
        path = process.require(program)
        said = process.run([path, "version"], env=_quiet(), check=False, timeout=60).stdout
        found = _VERSION.search(said)
        if not found:
            raise HostError(
                f"{path} is not HashiCorp's Packer", hint=process.how_to_install("packer")
            )
        version = (int(found[1]), int(found[2]), int(found[3]))
        if version < _OLDEST:
            name = ".".join(map(str, version))
            raise HostError(
                f"{path} is Packer {name}; 1.6 is the oldest that will do",
                hint=process.how_to_install("packer"),
            )
        return cls(path, version, _plugin_folder(path) if version >= _WITH_PLUGINS else None)

    @property
    def line(self) -> PackerLine:
        """Which templates this Packer takes."""
        return ">=1.7" if self.version >= _WITH_PLUGINS else "1.6"

    def __str__(self) -> str:
        return ".".join(map(str, self.version))

    def require_plugins(self, engine: EngineName) -> None:
        """Raise :class:`HostError` when ``engine`` needs a plugin that is not installed."""
        if engine == "qemu" and self.line != "1.6" and self.plugins is None:
            raise self._no_plugin()

    def build(
        self,
        rendered: Path,
        *,
        work: Path,
        log: Path,
        env: Mapping[str, str] | None = None,
        keep_fds: Sequence[int] = (),
        timeout: float | None = None,
        blame: Path | None = None,
        told: Callable[[Message], None] | None = None,
    ) -> None:
        """Run ``packer build`` in the folder of ``rendered``; what it says goes to ``log``.

        It goes to ``told`` too, message by message, from a thread of its own. ``env`` reaches the
        callback too. However this ends, nothing that Packer started is left running.

        Raises :class:`CallbackError` when the callback failed; :class:`ProjectError`, blaming
        ``blame`` (else ``rendered``), when Packer refuses the template; :class:`HostError` when the
        plugin is missing; :class:`CommandError` for all else and after ``timeout`` seconds.
        """
        argv = [self.program, "build", "-machine-readable", "-color=false", rendered.name]
        before, raw = _size(log), log.with_suffix(".csv")
        with scratch() as temporary, _transcribed(raw, log, told):
            variables = {**(env or {}), **self._environment(work), "TMPDIR": str(temporary)}
            child = process.start(
                argv, log=raw, cwd=rendered.parent, env=variables, keep_fds=keep_fds, contained=True
            )
            with process.session(child), _blamed_on(log):
                status = child.wait(timeout)
        if status:
            output = _written_since(before, log)
            raise self._refusal(output, blame or rendered) or _failure(argv, status, output, log)

    def _refusal(self, output: str, blame: Path) -> HostError | ProjectError | None:
        """Return why Packer would not even start the build; None when it did start."""
        if _MISSING_PLUGIN in output:
            return _explained(self._no_plugin(), output)
        if _STARTED.search(output):
            return None
        problems = [
            Problem(blame, f"Packer: {message}") for message in map(_diagnosis, _blocks(output))
        ]
        return ProjectError(problems) if problems else None

    def _no_plugin(self) -> HostError:
        command = f"{self.program} plugins install {QEMU_PLUGIN}"
        return HostError(
            f"Packer {self} has no qemu plugin",
            hint=f"{command} (without internet: docs/install-packer.md)",
        )

    def _environment(self, work: Path) -> dict[str, str]:
        own = work / "packer-home"
        own.mkdir(parents=True, exist_ok=True)
        variables = {
            "PACKER_CACHE_DIR": str(own / "cache"),
            "PACKER_CONFIG": str(own / "config.json"),
            "PACKER_CONFIG_DIR": str(own),
            "PACKER_NO_COLOR": "1",
        }
        if self.plugins:
            variables["PACKER_PLUGIN_PATH"] = str(self.plugins)
        return {**_quiet(), **variables}


def _quiet() -> dict[str, str]:
    # Packer would ask its maker on every start whether there is a newer one.
    return {"CHECKPOINT_DISABLE": "1"}


def _plugin_folder(program: str) -> Path | None:
    """Return where the user's Packer keeps its qemu plugin; None when it has none.

    Packer says so itself: it has had four places for plugins over the years.
    """
    users = {name: value for name, value in os.environ.items() if name.startswith(_USERS)}
    argv = [program, "plugins", "installed"]
    done = process.run(argv, env={**users, **_quiet()}, check=False, timeout=60)
    for line in done.stdout.splitlines():
        folder, found, _ = line.strip().partition(f"/{QEMU_PLUGIN}/")
        if found:
            return Path(folder)
    return None


def read_message(line: str) -> Message | str | None:
    """Return what a line of Packer's output says; a text where it is not machine-readable.

    None stands for what only machines read. A backslash and an "n" that were said as such come out
    as the end of a line: Packer does not tell them apart.
    """
    machine = _MACHINE.match(line)
    if not machine:
        return line
    found = _UI.match(machine["data"] or "") if machine["type"] == "ui" else None
    if not found:
        return None
    text = found["text"]
    for escaped, plain in _ESCAPED:
        text = text.replace(escaped, plain)
    return Message(found["kind"], text)


@contextlib.contextmanager
def _transcribed(raw: Path, log: Path, told: Callable[[Message], None] | None) -> Iterator[None]:
    """Write what appears in ``raw`` to ``log``, as people read it, while the block runs."""
    stop = threading.Event()
    reader = threading.Thread(target=_transcribe, args=(raw, _size(raw), log, stop, told))
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join()


def _transcribe(
    raw: Path,
    offset: int,
    log: Path,
    stop: threading.Event,
    told: Callable[[Message], None] | None,
) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for line in events.lines(raw, stop, offset=offset):
            said = read_message(line)
            if said is not None:
                # A full disk is told where it matters; what Packer said still stands in `raw`.
                with contextlib.suppress(OSError):
                    file.write(f"{said.text if isinstance(said, Message) else said}\n")
                    file.flush()
            if told and isinstance(said, Message):
                told(said)


@contextlib.contextmanager
def _blamed_on(log: Path) -> Iterator[None]:
    """Let an error name the log that people read."""
    try:
        yield
    except CommandError as error:
        error.log = log
        raise


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _written_since(offset: int, log: Path) -> str:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")


def _blocks(output: str) -> list[str]:
    """Return what Packer says of a template: one text per error."""
    return re.split(r"^Error: ", output, flags=re.MULTILINE)[1:]


def _diagnosis(block: str) -> str:
    """Return one error as one line.

    Packer gives a title, or a count and a list; the place; and often a sentence that says more.
    """
    said, place, more = _PLACE.split(block, maxsplit=1) if _PLACE.search(block) else (block, "", "")
    title, *others = said.strip().splitlines()
    listed = "; ".join(line.removeprefix("* ") for line in others if line.startswith("* "))
    sentence = next(iter(more.strip().splitlines()), "")
    words = ("" if _COUNT.match(title) else title, listed, sentence)
    message = ": ".join(word for word in words if word)
    return f"{message} (line {place} of what it renders to)" if place else message


def _failure(argv: Sequence[str], status: int, output: str, log: Path) -> CommandError:
    reasons = dict.fromkeys(match["message"] for match in _SUMMARY.finditer(output))
    error = process.failure(argv, status, "\n".join(reasons) or output, log=log)
    kind = CallbackError if any(_SCRIPT_FAILED in reason for reason in reasons) else CommandError
    return _explained(kind(error.message, status=status, output=output, log=log), output)


def _explained(error: ErrorT, output: str) -> ErrorT:
    from builder.failures import explained  # late: only failures need it, and its catalogue

    return explained(error, output, "packer")
