"""The project whose network is measured, the upstream that it has, and who counts what came."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench import measure
from bench.measure import ROOT, VAULTBUILD, say, seconds
from builder import network, ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.network import NetworkLock

LATENCY: Final = 0.02
PACE: Final = 20
_STORE = ("images", "checkpoints", "latest", "verdicts")
_ROLES = ("apt_hygiene", "base_system", "ssh_baseline", "seal", "python_frameworks")
_STAGE = """---
parent: base
roles: [python_frameworks]
variables: {python_frameworks_requirements: requirements.lock}
"""


@dataclass(frozen=True, slots=True)
class Given:
    """What an upstream gave: files whole or in part, and the word that one is still the same."""

    bytes: int
    files: int
    checks: int


@dataclass(frozen=True)
class Trimmed:
    """The trimmed pipeline of the tests, with a stage that installs wheels of a lock file."""

    folder: Path

    @property
    def var(self) -> Path:
        return self.folder / "cache/var"

    @property
    def lock(self) -> Path:
        """The lock file of its wheels."""
        return self.folder / "stages/python/requirements.lock"

    def __call__(self, *words: str) -> float:
        """Run a command of vaultbuild to its end; return how long it took."""
        argv = [*VAULTBUILD, "--project", str(self.folder), *words]
        return seconds(argv, log=self.folder.with_name("log"))

    def build(self, *words: str) -> float:
        """Build all stages from an empty store."""
        for name in _STORE:
            shutil.rmtree(self.var / name, ignore_errors=True)
        return self("--quiet", "stage", "final", "--engine", "nspawn", *words)

    def forget(self, *names: str) -> None:
        """Empty some caches, or all, and what is known of what they gave."""
        for name in names or ("apt", "pypi", "wheels"):
            shutil.rmtree(self.var / name, ignore_errors=True)
        for name in ("run/breakers", "quarantine"):
            shutil.rmtree(self.var / name, ignore_errors=True)
        (self.var / "index/ledger.jsonl").unlink(missing_ok=True)

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """The records of its images by stage, each with its network lock."""
        found = [json.loads(path.read_text()) for path in self.var.glob("images/*/record.json")]
        return {record["stage"]: record for record in found}

    @property
    def locks(self) -> list[NetworkLock]:
        """What the caches handed out for its images."""
        found = (network.read(path) for path in self.var.glob("images/*/network.json"))
        return [lock for lock in found if lock]

    def traffic(self, name: str) -> int:
        """What its images' records say, added up."""
        return sum(record["network"]["traffic"][name] for record in self.records.values())


def trimmed(folder: Path) -> Trimmed:
    """Make the project."""
    measure.copy_project(ROOT / "tests/e2e/project", folder)
    shutil.copyfile(ROOT / "ansible/requirements.yml", folder / "ansible/requirements.yml")
    for role in _ROLES:
        shutil.copytree(
            ROOT / "ansible/roles" / role, folder / "ansible/roles" / role, dirs_exist_ok=True
        )
    stage = folder / "stages/python"
    stage.mkdir(exist_ok=True)
    (stage / "stage.yml").write_text(_STAGE)
    shutil.copyfile(ROOT / "stages/frameworks/requirements.lock", stage / "requirements.lock")
    _replace(folder / "stages/pipeline.yml", "[base, final]", "[base, python, final]")
    _replace(folder / "stages/final/stage.yml", "parent: base", "parent: python")
    return Trimmed(folder)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new))


# --- an upstream of its own -----------------------------------------------------------------------


@dataclass(frozen=True)
class Upstream:
    """The server that stands for the mirrors and the index from then on."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def become(self) -> None:
        """Have this process, and all that it starts, believe that this host fetches from it."""
        os.environ["APT_CONFIG"] = str(self.folder / "apt.conf")
        os.environ["PIP_INDEX_URL"] = f"{self.url}/simple/"
        os.environ.pop("PIP_FIND_LINKS", None)

    @contextlib.contextmanager
    def counting(self) -> Iterator[list[Given]]:
        """Count what it gives in the block; the count is there at the end."""
        given = self.folder / "given.jsonl"
        given.write_text("")
        found: list[Given] = []
        yield found
        said = [json.loads(line) for line in given.read_text().splitlines()]
        # One byte is asked for where a 304 would do: apt-cacher-ng does so.
        files = [each for each in said if each["bytes"] > 1]
        found.append(Given(sum(each["bytes"] for each in said), len(files), len(said) - len(files)))


@contextlib.contextmanager
def upstream(scratch: Path, *, latency: float, pace: float) -> Iterator[Upstream]:
    """Serve what a first build fetched from the host's own upstream, which is asked once."""
    folder = scratch / "upstream"
    if not (folder / "complete").exists():
        _record(scratch / "recording", folder)
    found = Upstream(folder, ports.free())
    (folder / "apt.conf").write_text(f'Acquire::http::Proxy "{found.url}";\n')
    program = ROOT / "bench/network/upstream.py"
    argv = [sys.executable, program, folder, str(found.port),
            "--latency", str(latency), "--pace", str(pace)]  # fmt: skip
    with subprocess.Popen(argv) as child:
        try:
            while not ports.taken(found.port):
                time.sleep(0.05)
            found.become()
            yield found
        finally:
            child.kill()


def _record(aside: Path, folder: Path) -> None:
    project = trimmed(aside)
    say("a first build from the host's own upstream, not counted")
    project.build()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "wheels").mkdir(parents=True)
    shutil.move(project.var / "apt/packages", folder / "apt")
    for wheel in project.var.glob("pypi/server/+files/**/*.whl"):
        shutil.move(wheel, folder / "wheels")
    shutil.rmtree(aside)
    (folder / "complete").touch()


# --- who else counts ------------------------------------------------------------------------------


def fetched_by_apt(project: Trimmed) -> int:
    """Return what apt-cacher-ng's log says that came in, with the heads of answers."""
    lines = [
        line.split("|")
        for log in project.var.glob("apt/**/log/apt-cacher.log")
        for line in log.read_text().splitlines()
    ]
    return sum(int(words[2]) for words in lines if words[1] == "I")


def kept_by_devpi(project: Trimmed) -> int:
    """Return how large the files are that devpi-server fetched."""
    files = project.var.glob("pypi/server/+files/**/*")
    return sum(path.stat().st_size for path in files if path.is_file())
