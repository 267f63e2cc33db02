"""What the tests with real programs share."""

import contextlib
import importlib.util
import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder import ports, process
from builder.caches.http import ask
from builder.fetch import Fetcher, Policy
from builder.fetch.breaker import Breakers
from builder.packer import Packer
from builder.partitions import root_partition

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


@pytest.fixture
def raw_disk(tmp_path):
    """Call it with a file's name and a tree: a raw disk whose one partition, ext4, holds that."""

    def make(name: str, tree: Path | None = None) -> Path:
        raw = tmp_path / name
        with raw.open("wb") as file:
            file.truncate(64 << 20)
        process.run(["sfdisk", "--quiet", raw], stdin="label: gpt\nstart=1M, size=48M, type=L\n")
        start, size = root_partition(raw)
        options = ["-q", "-F", "-E", f"offset={start}", *(["-d", tree] if tree else [])]
        process.run(["mkfs.ext4", *options, raw, str(size // 1024)])
        return raw

    return make


MIB = 1 << 20
CLOUD = """\
label: gpt
start=1M, size=1M, type=21686148-6449-6E6F-744E-656564454649
start=2M, size=4M, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
start=6M, size=16M, type=BC13C2FF-59E6-4262-A352-B275FD6F7172, name=boot
start=22M, size=40M, type=L
"""


@pytest.fixture
def cloud_disk(tmp_path):
    """Call it with an fstab: a raw disk laid out as Ubuntu's cloud images are, the root the last.

    Its ``/boot``, labelled BOOT, has a file; its root has the fstab and an empty ``/boot``.
    """

    def make(fstab: str = "LABEL=BOOT /boot ext4 defaults 0 2\n", layout: str = CLOUD) -> Path:
        raw, tree, boot = (tmp_path / name for name in ("cloud.raw", "tree", "tree.boot"))
        for folder in (tree / "etc", tree / "boot", boot):
            folder.mkdir(parents=True)
        (tree / "etc/fstab").write_text(fstab)
        (tree / "data").write_bytes(os.urandom(MIB))
        (boot / "vmlinuz").write_text("a kernel\n")
        with raw.open("wb") as file:
            file.write(b"boot code")
            file.truncate(64 * MIB)
        process.run(["sfdisk", "--quiet", raw], stdin=layout)
        made = ((6, 16, "BOOT", boot), (22, 40, "cloudimg-rootfs", tree))
        for start, size, label, content in made:
            options = ["-q", "-F", "-L", label, "-d", content, "-E", f"offset={start * MIB}"]
            process.run(["mkfs.ext4", *options, raw, f"{size}M"])
        return raw

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


# --- for the caches of files ----------------------------------------------------------------------


@pytest.fixture
def downloads(fetcher):
    """A fetcher that gives up soon."""
    return fetcher(attempts=3)


@pytest.fixture
def hub():
    """A hub of models of tests/hub.py."""
    if "fake_hub" not in sys.modules:
        place = Path(__file__).parents[1] / "hub.py"
        spec = importlib.util.spec_from_file_location("fake_hub", place)
        sys.modules["fake_hub"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["fake_hub"])
    with sys.modules["fake_hub"].Hub() as running:
        yield running


@pytest.fixture
def serve():
    """Call it with a kind and a folder: returns the URL of the file server, when it answers."""
    with contextlib.ExitStack() as stack:

        def start(kind: str, folder: Path) -> str:
            port = ports.free()
            program = [sys.executable, "-m", "builder.caches.file_server", kind, folder]
            root = Path(__file__).parents[2]
            log = folder.parent / f"{kind}.log"
            child = process.start([*program, "--port", str(port)], log=log, cwd=root)
            stack.callback(child.stop, grace=5)
            url = f"http://127.0.0.1:{port}"
            while not ask(url).status:
                assert child.status is None, "the file server has ended"
                time.sleep(0.05)
            return url

        yield start


@pytest.fixture
def get():
    """Call it with a URL, a method and headers: returns status, headers and body."""
    return _get


def _get(url, method="GET", **headers):
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310 - http
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=30) as answer:
            return Reply(answer.status, _small(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, _small(error.headers), error.read())


def _small(headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@dataclass(frozen=True)
class Reply:
    """What a server said; the names of headers in small letters."""

    status: int
    headers: dict
    body: bytes


# --- machines with GPUs ---------------------------------------------------------------------------


def _gpu_machines():
    # The folders of the tests are no packages, so a file beside this one is loaded by its path.
    if "gpu_machine" not in sys.modules:
        path = Path(__file__).with_name("gpu_machine.py")
        spec = importlib.util.spec_from_file_location("gpu_machine", path)
        sys.modules["gpu_machine"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["gpu_machine"])
    return sys.modules["gpu_machine"]


@pytest.fixture(scope="session")
def cuda_libraries(tmp_path_factory, require_program):
    """A folder with stand-ins for libcuda and libnvrtc."""
    return _gpu_machines().compiled(require_program("gcc"), tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def gpu_machine(tmp_path, cuda_libraries):
    """A machine with two GPUs, as far as programs can tell; see gpu_machine.py."""
    (tmp_path / "machine").mkdir()
    return _gpu_machines().GpuMachine(tmp_path / "machine", cuda_libraries)
