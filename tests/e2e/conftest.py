"""A trimmed pipeline, built once for all tests, and the command line to build it with.

The project is the reference project's own roles, templates and caches around the pipeline in
``project/``. A test that changes anything works on a copy, which shares the images by hard links
and the caches by their URLs.

While writing tests, set ``VAULTBUILD_E2E`` to a folder: what was built stays for the next run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT = Path(__file__).parents[2]
TRIMMED = Path(__file__).with_name("project")
# What the trimmed project takes from the reference project as it is.
SHARED = (
    "ansible/ansible.cfg",
    "ansible/requirements.yml",
    "ansible/roles/apt_hygiene",
    "ansible/roles/base_system",
    "ansible/roles/ssh_baseline",
    "ansible/roles/seal",
    "cache/etc",
    "packer",
)
PROGRAMS = (
    "apt-cacher-ng",
    "mmdebstrap",
    "packer",
    "qemu-img",
    "qemu-storage-daemon",
    "qemu-system-x86_64",
    "socat",
    "systemd-nspawn",
    "xorriso",
)
_PATIENCE = 1800
_NO_VARIABLES = "argument_specs: {main: {short_description: For a test, options: {}}}\n"
# Its checks are for images.
collect_ignore = ["project"]


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Vaultbuild:
    """The command line, at work on one project."""

    def __init__(self, project: Path, temporary: Path) -> None:
        self.project = project
        self.temporary = temporary
        self.var = project / "cache/var"

    def __call__(self, *words: str | Path, status: int = 0, **environment: str) -> Ran:
        """Run a command to its end; it must end with ``status``."""
        with self.start(*words, **environment) as running:
            ran = finish(running)
        assert ran.status == status, f"{words}: status {ran.status}\n{ran.stdout}\n{ran.stderr}"
        return ran

    def start(self, *words: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start a command, in a session of its own, as a terminal's shell would."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), **environment}
        return subprocess.Popen(
            [sys.executable, "-m", "builder", *words, "--project", self.project],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )

    def enter(self, stage: str, line: str) -> Ran:
        """Type a line into a shell in the stage's disk, at a terminal of its own."""
        command = [sys.executable, "-m", "builder", "shell", stage, "--project", self.project]
        command += ["--engine", "nspawn"]
        done = subprocess.run(
            ["script", "-qec", shlex.join(map(str, command)), "/dev/null"],
            input=f"{line}\nexit\n",
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)},
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace ``old`` by ``new`` in a file of the project."""
        path = self.project / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new))

    def add_role(
        self, name: str, *, tasks: str = "--- []\n", meta: str = "dependencies: []\n"
    ) -> None:
        """Write a role without variables."""
        folder = self.project / "ansible/roles" / name
        for path, text in {"tasks": tasks, "meta": meta}.items():
            (folder / path).mkdir(parents=True)
            (folder / path / "main.yml").write_text(text)
        (folder / "meta/argument_specs.yml").write_text(_NO_VARIABLES)

    def add_stage(
        self, name: str, parent: str, roles: Sequence[str], variables: str, files: Iterable[Path]
    ) -> None:
        """Write a stage, beside copies of the files that its variables name."""
        folder = self.project / "stages" / name
        folder.mkdir()
        listed = f"---\nparent: {parent}\nroles: [{', '.join(roles)}]\n"
        (folder / "stage.yml").write_text(listed + variables)
        for file in files:
            shutil.copy(file, folder)

    def keys(self, stage: str = "final", *, engine: str = "nspawn") -> dict[str, str]:
        """The key of each stage, as the plan tells them."""
        steps = self("plan", stage, "--engine", engine, "--json").json["steps"]
        return {step["stage"]: step["key"] for step in steps}

    def plan(self, stage: str = "final", *, engine: str = "nspawn") -> dict[str, str]:
        """What the plan says will happen to each stage."""
        steps = self("plan", stage, "--engine", engine, "--json").json["steps"]
        return {step["stage"]: step["action"] for step in steps}

    def images(self) -> set[str]:
        """The keys in the store; what is half done counts under its own name."""
        return {path.name for path in (self.var / "images").iterdir()}

    def disk(self, key: str) -> Path:
        return self.var / "images" / key / "disk.qcow2"


def finish(running: subprocess.Popen[str], patience: float = _PATIENCE) -> Ran:
    """Wait until a command ends; its output must not be waited for by anything it left behind."""
    try:
        stdout, stderr = running.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGTERM)
        stdout, stderr = running.communicate(timeout=60)
        pytest.fail(f"{running.args} did not end:\n{stdout}\n{stderr}")
    return Ran(running.returncode, stdout, stderr)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Call it with a condition and its name: waits until it returns something true."""

    def wait(happens: Callable[[], Any], what: str, *, patience: float = 120) -> Any:
        deadline = time.monotonic() + patience
        while not (found := happens()):
            if time.monotonic() > deadline:
                pytest.fail(f"never happened: {what}")
            time.sleep(0.05)
        return found

    return wait


# --- the project ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, require_root, require_program) -> Iterator[Path]:
    """A folder for all projects of the tests: they are large, and go when the tests are done."""
    require_root()
    for program in PROGRAMS:
        require_program(program)
    kept = os.environ.get("VAULTBUILD_E2E")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("e2e")
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    yield folder
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cold(workshop) -> Iterator[tuple[Vaultbuild, Ran]]:
    """The trimmed project and its first build, from nothing; its caches stay up for the others."""
    vaultbuild = trimmed(workshop / "trimmed", workshop / "tmp")
    vaultbuild("cache", "up")
    try:
        yield vaultbuild, vaultbuild("stage", "final", "--engine", "nspawn")
    finally:
        vaultbuild("cache", "down")


def trimmed(project: Path, temporary: Path) -> Vaultbuild:
    """Write the trimmed project to a folder."""
    shutil.copytree(TRIMMED, project, dirs_exist_ok=True)
    for name in SHARED:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, project / name, dirs_exist_ok=True)
        else:
            shutil.copyfile(ROOT / name, project / name)
    return Vaultbuild(project, temporary)


@pytest.fixture(name="trimmed", scope="session")
def _trimmed() -> Callable[[Path, Path], Vaultbuild]:
    return trimmed


@pytest.fixture(name="finish", scope="session")
def _finish() -> Callable[..., Ran]:
    return finish


@pytest.fixture(scope="session")
def built(cold) -> Vaultbuild:
    """The trimmed project, built with nspawn. Not to be changed: see :func:`copy`."""
    return cold[0]


@pytest.fixture
def copy(built, tmp_path) -> Iterator[Vaultbuild]:
    """A copy of the built project, for a test that changes something."""
    vaultbuild = duplicate(built, tmp_path / "project")
    yield vaultbuild
    shutil.rmtree(vaultbuild.project)


@pytest.fixture(name="duplicate", scope="session")
def _duplicate() -> Callable[[Vaultbuild, Path], Vaultbuild]:
    return duplicate


def duplicate(built: Vaultbuild, project: Path) -> Vaultbuild:
    """Copy a built project: its images are shared by hard links, its caches by their URLs."""
    old, new = built.var, project / "cache/var"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(
        built.project,
        project,
        ignore=lambda folder, _: ["var"] if folder.endswith("/cache") else [],
    )
    for name in ("index", "latest", "verdicts"):
        shutil.copytree(old / name, new / name)
    for name in ("images", "checkpoints", "texts"):
        shutil.copytree(old / name, new / name, copy_function=os.link)
    found = built("cache", "status", "--json").json["caches"]
    caches = {cache["name"]: {"url": cache["url"]} for cache in found}
    with (project / "stages/pipeline.yml").open("a") as file:
        file.write(f"caches: {json.dumps(caches)}\n")
    return Vaultbuild(project, built.temporary)


@pytest.fixture
def journal(tmp_path, require_program):
    """Programs are all started through setpriv: one on PATH that writes down what it starts."""
    listing, folder = tmp_path / "started", tmp_path / "bin"
    folder.mkdir()
    program = folder / "setpriv"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {listing}\nexec {require_program("setpriv")} "$@"\n'
    )
    program.chmod(0o755)

    class Journal:
        path = f"{folder}:{os.environ['PATH']}"

        def read(self) -> list[str]:
            return listing.read_text().splitlines() if listing.exists() else []

    return Journal()


# --- what a run leaves behind ---------------------------------------------------------------------

_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="session", autouse=True)
def _orphans_are_ours() -> None:
    """Let orphans of the commands become children of the tests, where they can be seen."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture(name="descendants")
def _descendants() -> Callable[[], dict[int, str]]:
    return descendants


def descendants() -> dict[int, str]:
    """Every process below this one that is not dead, with its command."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if state not in "ZX":
                parents[int(stat.parent.name)] = int(parent)
    found: dict[int, str] = {}
    wanted = {os.getpid()}
    while wanted:
        wanted = {pid for pid, parent in parents.items() if parent in wanted}
        found |= {pid: _command(pid) for pid in wanted}
    return found


def _command(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def attached(folder: Path) -> set[str]:
    """The mounts and loop devices that hold something below ``folder``.

    The file of a loop device has no name any more once its mount namespace is gone: such a device
    is somebody's leftover, and is counted too.
    """
    mounts = Path("/proc/mounts").read_text().splitlines()
    loops = {
        f"{backing.parents[1].name}: {backing.read_text().strip()}"
        for backing in Path("/sys/block").glob("loop*/loop/backing_file")
    }
    return {line for line in mounts if str(folder) in line} | {
        loop for loop in loops if str(folder) in loop or not Path(loop.partition(": ")[2]).exists()
    }


@pytest.fixture(autouse=True)
def leftovers(workshop, tmp_path) -> Iterator[Callable[[], list[str]]]:
    """Call it for what runs or is attached since the test began; at its end that is nothing."""
    before, held = set(descendants()), attached(workshop) | attached(tmp_path)

    def found() -> list[str]:
        running = [f"{pid}: {name}" for pid, name in descendants().items() if pid not in before]
        return running + sorted((attached(workshop) | attached(tmp_path)) - held)

    yield found
    assert not found()
