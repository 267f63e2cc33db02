"""What the tests with real programs share."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from builder import process
from builder.breaker import Breakers
from builder.fetch import Fetcher, Policy
from builder.packer import Packer

BUILD_PACKER = Path(__file__).parents[1] / "tools/build_packer.sh"
SKIP = 77


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a program of this test before all others on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, text: str) -> None:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    return make


def alive(word: str) -> list[str]:
    """Return the processes that have ``word`` in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


@pytest.fixture(name="alive")
def _alive():
    return alive


@pytest.fixture(scope="session")
def current(missing):
    """The program and the plugins of a current Packer."""
    done = process.run(["bash", BUILD_PACKER], env=_user(), check=False, timeout=1800)
    last = (done.stdout.strip().splitlines() or [done.stderr])[-1]
    if done.status == SKIP:
        # Not `missing`: Go is no requirement of a host, so CI skips as well.
        pytest.skip(last)
    assert done.status == 0, done.stderr[-2000:]
    return Path(last)


def _user() -> dict[str, str]:
    names = ("XDG_CACHE_HOME", "GOPROXY", "GONOSUMDB", "GOCACHE", "GOMODCACHE", "GOPATH")
    return {name: os.environ[name] for name in names if name in os.environ}


@pytest.fixture(params=["1.6", "current"])
def packer(request, require_program) -> Packer:
    """Each Packer in turn."""
    if request.param == "1.6":
        found = Packer.find(str(require_program("packer")))
        if found.line != "1.6":
            pytest.skip(f"this host's own Packer is {found}")
        return found
    folder = request.getfixturevalue("current")
    return replace(Packer.find(str(folder / "packer")), plugins=folder / "plugins")


# --- fetching -------------------------------------------------------------------------------------


@pytest.fixture
def said() -> list[str]:
    """What a fetcher told."""
    return []


@pytest.fixture
def fetcher(tmp_path, said):
    """Call it for a fetcher with next to no waits; settings of its policy may be given."""

    def make(*, failures: int = 100, seconds: float = 30, environment=None, free=None, **policy):
        settings = {
            "wait_initial": 0.001, "wait_max": 0.002, "asked_max": 0.05, "reserve": 0,
            "connect_seconds": 2, "read_seconds": 5, "total_seconds": 60,
        }  # fmt: skip
        breakers = Breakers(tmp_path / "breakers", failures=failures, seconds=seconds)
        return Fetcher(
            breakers=breakers,
            policy=Policy(**{**settings, **policy}),
            told=said.append,
            environment=environment or {},
            free=free,
        )

    return make


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "got" / "a.bin"
