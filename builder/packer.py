"""Running Packer, whichever this host has.

Debian 12 has Packer 1.6, with the qemu builder inside. Packer 1.7 and later take plugins, and from
1.10 on have none inside. The difference is kept in :attr:`Packer.line`, which templates look at,
and in :meth:`Packer.require_plugins`.

Packer runs contained, with a configuration and a cache of its own: what a user has set up for other
work does not reach a build, and nothing that Packer started outlives it.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from builder import process
from builder.errors import CommandError, HostError, Problem, ProjectError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.template import EngineName, PackerLine

QEMU_PLUGIN: Final = "github.com/hashicorp/qemu"

_VERSION: Final = re.compile(r"^Packer v(\d+)\.(\d+)\.(\d+)", re.MULTILINE)
_OLDEST: Final = (1, 6, 0)
_WITH_PLUGINS: Final = (1, 7, 0)
_OURS: Final = ("PACKER_", "XDG_CONFIG_HOME")
_INSTALL: Final = "apt-get install packer (Debian 12), else see docs/install-packer.md"
_VALIDATE_SECONDS: Final = 120

# Packer's summary names what failed; "Error:" heads what it says of a template.
_SUMMARY: Final = re.compile(r"^--> [^:]+: (?P<message>.+)$")
_DIAGNOSIS: Final = re.compile(r"^(?:\S+ )?Error: (?P<message>.+)$")
_PLACE: Final = re.compile(r"^\s+on \S+ line (?P<line>\d+)")
_SCRIPT_FAILED: Final = "Script exited with non-zero exit status"

_HINTS: Final = (
    ("Timeout waiting for SSH", "the guest's console log says how far it came"),
    ("Could not access KVM", "KVM does not work here: --engine nspawn, or emulation"),
    ("failed to initialize kvm", "KVM does not work here: --engine nspawn, or emulation"),
    ("already exists", "remove that folder, or give Packer another one"),
    ("No space left on device", "vaultbuild cache prune"),
)


class CallbackError(CommandError):
    """Packer did its part, and the command that it called back failed: that one knows why."""


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
            raise HostError(f"{path} is not HashiCorp's Packer", hint=_INSTALL)
        version = (int(found[1]), int(found[2]), int(found[3]))
        if version < _OLDEST:
            name = ".".join(map(str, version))
            raise HostError(
                f"{path} is Packer {name}; 1.6 is the oldest that will do", hint=_INSTALL
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
        if engine != "qemu" or self.line == "1.6":
            return
        if self.plugins is None:
            hint = (
                f"packer plugins install {QEMU_PLUGIN} (without internet: docs/install-packer.md)"
            )
            raise HostError(f"Packer {self} has no qemu plugin", hint=hint)

    def validate(self, rendered: Path, *, work: Path, blame: Path | None = None) -> None:
        """Let Packer judge a rendered template, in the folder that the build will run in.

        Raises :class:`ProjectError` that blames the file ``blame`` (else ``rendered``) for it.
        """
        argv = [self.program, "validate", rendered.name]
        done = process.run(
            argv, cwd=rendered.parent, env=self._environment(work), check=False,
            timeout=_VALIDATE_SECONDS,
        )  # fmt: skip
        if done.status:
            raise ProjectError(_problems(blame or rendered, done.stdout + done.stderr))

    def build(
        self,
        rendered: Path,
        *,
        work: Path,
        log: Path,
        env: Mapping[str, str] | None = None,
        keep_fds: Sequence[int] = (),
        timeout: float | None = None,
        on_error: Literal["cleanup", "abort"] = "cleanup",
    ) -> None:
        """Run ``packer build`` in the folder of ``rendered``.

        ``env`` reaches the callback too. ``on_error="abort"`` leaves the output folder as it is
        when a build fails. However this ends, nothing that Packer started is left running.

        Raises :class:`CallbackError` when the callback failed, :class:`CommandError` for all else.
        """
        argv = [self.program, "build", "-color=false", f"-on-error={on_error}", rendered.name]
        before = log.stat().st_size if log.exists() else 0
        with tempfile.TemporaryDirectory(
            prefix="vaultbuild-", ignore_cleanup_errors=True
        ) as scratch:
            # Short: Packer's sockets stand there, and their names may have 107 letters.
            variables = {**(env or {}), **self._environment(work), "TMPDIR": scratch}
            child = process.start(
                argv, log=log, cwd=rendered.parent, env=variables, keep_fds=keep_fds, contained=True
            )
            with process.session(child):
                status = child.wait(timeout)
        if status:
            with log.open("rb") as file:
                file.seek(before)
                raise _failure(argv, status, file.read().decode(errors="replace"), log)

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
    users = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    argv = [program, "plugins", "installed"]
    done = process.run(argv, env={**users, **_quiet()}, check=False, timeout=60)
    for line in done.stdout.splitlines():
        folder, found, _ = line.strip().partition(f"/{QEMU_PLUGIN}/")
        if found:
            return Path(folder)
    return None


def _problems(blame: Path, output: str) -> list[Problem]:
    """Return what ``packer validate`` found, one problem per diagnosis."""
    problems: list[Problem] = []
    lines = output.splitlines()
    for index, line in enumerate(lines):
        if found := _DIAGNOSIS.match(line):
            place = next((at for at in map(_PLACE.match, lines[index + 1 : index + 4]) if at), None)
            where = f" (line {place['line']} of what it renders to)" if place else ""
            problems.append(Problem(blame, f"Packer: {found['message']}{where}"))
    return problems or [Problem(blame, f"Packer: {' '.join(output.split())[:500]}")]


def _failure(argv: Sequence[str], status: int, output: str, log: Path) -> CommandError:
    said = _meaning(output)
    error = process.failure(argv, status, said, log=log)
    if _SCRIPT_FAILED in said:
        return CallbackError(error.message, status=status, output=output, log=log)
    error.output = output
    error.hint = next((hint for sign, hint in _HINTS if sign in output), None)
    return error


def _meaning(output: str) -> str:
    """Return why Packer failed, without its story of how it came there."""
    lines = output.splitlines()
    for pattern in (_SUMMARY, _DIAGNOSIS):
        if found := [match["message"] for match in map(pattern.match, lines) if match]:
            return "\n".join(dict.fromkeys(found))
    return output
