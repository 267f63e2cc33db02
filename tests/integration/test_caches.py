"""The real servers on loopback: started, shared, kept, stopped, and what they serve."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from builder import caches, ports
from builder.caches.http import ask
from builder.caches.service import Launch, Service
from builder.caches.state import Places, State
from builder.errors import CommandError, HostError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def gone(pid: int, *, within: float = 10) -> bool:
    """Say whether a process ends within some seconds."""
    deadline = time.monotonic() + within
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        with contextlib.suppress(OSError):
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- the life of a server, with one that costs nothing --------------------------------------------


class Fake:
    """A cache whose server is a few lines of Python that answer with their own name."""

    name = "apt"
    program = (
        "import http.server, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'fake')\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )

    def __init__(self):
        self.prepared: list[int] = []
        self.settled = 0

    def prepare(self, places, port):
        self.prepared.append(port)
        return Launch([sys.executable, "-c", self.program, str(port)])

    def url(self, port):
        return f"http://127.0.0.1:{port}"

    def answers(self, url):
        return ask(url).text == "fake"

    def settle(self, places, port):
        self.settled += 1


class Broken(Fake):
    program = "print('no such luck'); raise SystemExit(3)"


@pytest.fixture
def places(tmp_path):
    return Places("apt", tmp_path / "etc", tmp_path / "var")


@pytest.fixture
def service(places):
    service = Service(Fake(), places)
    yield service
    places.stay.unlink(missing_ok=True)
    service.retire()


def test_a_server_answers_while_it_is_used_and_is_gone_afterwards(service):
    with service.lease():
        service.begin()
        url = service.ready()
        state = service.state
        server = children(state.pid)
        assert ask(url).text == "fake"
        assert service.used
    assert service.state is None
    assert not service.used
    assert gone(state.pid)
    assert all(gone(pid) for pid in server)


def test_a_second_run_adopts_the_server_of_the_first(service, places):
    second = Service(Fake(), places)
    with contextlib.ExitStack() as outer:
        outer.enter_context(service.lease())
        service.begin()
        url = service.ready()
        with second.lease():
            second.begin()
            assert second.ready() == url
            assert second.cache.prepared == []
            outer.close()
            # The first run has ended; the server is the second's as much as it was the first's.
            assert ask(url).text == "fake"
    assert service.state is None


def test_a_server_that_shall_stay_outlives_its_run(service, places):
    with service.lease():
        service.begin()
        url = service.ready()
        places.stay.touch()
    assert ask(url).text == "fake"
    assert not service.retire()
    places.stay.unlink()
    assert service.retire()
    assert ask(url).status == 0


def test_a_server_in_use_is_not_stopped(service, places):
    other = Service(Fake(), places)
    with service.lease():
        service.begin()
        service.ready()
        assert not other.retire()
        assert service.state is not None


RUN = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_caches import Fake, Places, Service
service = Service(Fake(), Places("apt", Path({var!r}), Path({var!r})))
with service.lease():
    service.begin()
    print(service.ready(), flush=True)
    time.sleep(60)
"""


def start_run(places) -> subprocess.Popen[str]:
    program = RUN.format(tests=str(Path(__file__).parent), var=str(places.var))
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_runs_that_start_at_once_start_one_server(places):
    with start_run(places) as first, start_run(places) as second:
        urls = {run.stdout.readline().strip() for run in (first, second)}
        state = State.read(places.state)
        assert urls == {f"http://127.0.0.1:{state.port}"}
        first.kill()
        first.wait()
        assert ask(urls.pop()).text == "fake"
        second.kill()
    assert gone(state.pid)


def test_a_killed_run_leaves_no_server(places):
    with start_run(places) as run:
        url = run.stdout.readline().strip()
        state = State.read(places.state)
        server = children(state.pid)
        assert ask(url).text == "fake"
        run.kill()
    assert gone(state.pid)
    assert all(gone(pid) for pid in server)
    assert State.read(places.state) is None


def test_a_killed_keeper_takes_its_server_along(service):
    with service.lease():
        service.begin()
        service.ready()
        state = service.state
        server = children(state.pid)
        os.kill(state.pid, signal.SIGKILL)
        assert all(gone(pid) for pid in server)
        # What is left in the state file names a process that is no more: a new one is started.
        assert service.places.state.exists()
        service.begin()
        assert ask(service.ready()).text == "fake"


def test_a_fixed_port_is_used(places):
    port = ports.free()
    service = Service(Fake(), places, port=port)
    with service.lease():
        service.begin()
        assert service.ready() == f"http://127.0.0.1:{port}"


def test_a_taken_fixed_port_names_its_holder(places):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        service = Service(Fake(), places, port=port)
        with service.lease(), pytest.raises(HostError) as caught:
            service.begin()
    assert f"port {port}" in caught.value.message
    assert f"(process {os.getpid()})" in caught.value.message
    assert "caches.apt.port" in caught.value.hint


def test_a_server_that_does_not_start_shows_what_it_said(places):
    service = Service(Broken(), places)
    with service.lease():
        service.begin()
        with pytest.raises(CommandError) as caught:
            service.ready()
    assert "no such luck" in caught.value.message
    assert caught.value.log == places.log
    assert service.state is None


# --- the real ones --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory, require_program):
    """A folder with the tracked configuration; the module's tests share what is downloaded."""
    require_program("apt-cacher-ng")
    require_program("devpi-server")
    root = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "cache/etc", root / "cache/etc")
    yield root
    caches.down({}, root)


@pytest.fixture(scope="module")
def endpoints(home):
    with caches.running({}, home) as endpoints:
        yield endpoints


def test_packages_come_through_the_proxy_and_are_kept(endpoints, home, missing):
    url = host_index(missing)
    first = through(endpoints.apt, url, missing)
    kept = list((home / "cache/var/apt/packages").rglob("InRelease"))
    assert [file.read_bytes() for file in kept] == [first]
    log = home / "cache/var/apt/log/apt-cacher.log"
    # It is written some time after the answer.
    wanted, deadline = url.partition("://")[2], time.monotonic() + 60
    while wanted not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert wanted in log.read_text()


def test_an_https_repository_comes_through_the_proxy_as_well(endpoints, missing):
    secure = host_index(missing).replace("http://", "https://")
    try:
        with urllib.request.build_opener().open(secure, timeout=60) as response:
            direct = response.read()
    except OSError as error:
        pytest.skip(f"this host's package source has no https: {error}")
    assert through(endpoints.apt, secure.replace("https://", "http://HTTPS///"), missing) == direct


def test_the_proxy_makes_no_tunnels(endpoints):
    with socket.create_connection(address(endpoints, "apt"), timeout=10) as connection:
        connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert b"403" in connection.recv(4096).partition(b"\r\n")[0]


def test_the_proxy_hands_out_nothing_of_the_host_s_loopback(endpoints):
    with socket.create_server(("127.0.0.1", 0)) as secret:
        secret.settimeout(0.5)
        url = f"http://127.0.0.1:{secret.getsockname()[1]}/secret.txt"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener(endpoints.apt).open(url, timeout=10)
        with pytest.raises(TimeoutError):
            secret.accept()


def test_the_servers_listen_on_loopback_only(endpoints):
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        socket.create_connection((other_address(), address(endpoints, "apt")[1]), timeout=2)


def test_a_wheel_comes_through_the_index_and_is_kept(endpoints, home, tmp_path, missing):
    wheel = download(endpoints.pypi, tmp_path / "first", missing)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    kept = list((home / "cache/var/pypi").rglob(wheel.name))
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in kept] == [digest]


def test_a_guest_cannot_change_the_index(endpoints):
    root = endpoints.pypi.removesuffix("root/pypi/+simple/")
    guest = ask(root + "guest", method="PUT", body={"password": "guest"})
    login = ask(root + "+login", method="POST", body={"user": "root", "password": ""})
    assert (guest.status, login.status) == (403, 401)


def test_no_secret_can_be_read_from_the_process_list(endpoints, home):
    secret = next((home / "cache/var/pypi").rglob("root.secret"))
    assert secret.stat().st_mode & 0o077 == 0
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert secret.read_bytes() not in line.read_bytes()


def test_up_lets_the_servers_stay_and_down_stops_them(tmp_path, home):
    shutil.copytree(home / "cache/etc", tmp_path / "cache/etc")
    up = caches.up({}, tmp_path)
    assert [(each.state, each.stays) for each in up] == [("running", True)] * 2
    again = caches.up({}, tmp_path)
    assert [each.process for each in again] == [each.process for each in up]
    assert [each.state for each in caches.status({}, tmp_path)] == ["running"] * 2
    down = caches.down({}, tmp_path)
    assert [each.state for each in down] == ["stopped"] * 2
    assert all(gone(each.process) for each in up)


def test_the_mirror_s_upstream_is_the_host_s_index(tmp_path, home, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    shutil.copytree(home / "cache/etc", tmp_path / "cache/etc")
    with caches.running({"apt": {"url": "http://cache"}}, tmp_path) as endpoints:
        index = ask(endpoints.pypi.removesuffix("+simple/") + "?no_projects=").json()["result"]
    assert index["mirror_url"] == "http://127.0.0.1:9/simple/"


def test_a_port_that_apt_cacher_ng_cannot_use_is_refused(tmp_path, home):
    shutil.copytree(home / "cache/etc", tmp_path / "cache/etc")
    settings = {"apt": {"url": None, "port": 40000}, "pypi": {"url": "http://cache"}}
    with pytest.raises(HostError, match="40000"), caches.running(settings, tmp_path):
        pass


def address(endpoints, name):
    found = endpoints.addresses[name]
    return found.host, found.port


def opener(proxy):
    return urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))


def other_address() -> str:
    """An address of this host that is not the loopback's usual one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.2"
        return probe.getsockname()[0]


def host_index(missing) -> str:
    """The URL of a signed index of this host's own package sources."""
    if not shutil.which("apt-get"):
        missing("this host has no apt")
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)dists/$(RELEASE)/InRelease"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for url in listing.stdout.split():
        if url.startswith("http://"):
            return url
    missing("this host has no http package source")
    raise AssertionError


def through(proxy, url, missing) -> bytes:
    try:
        with opener(proxy).open(url, timeout=60) as response:
            return response.read()
    except (urllib.error.URLError, OSError) as error:
        missing(f"this host's package source does not answer: {error}")
        raise


def download(index, folder, missing) -> Path:
    # A wheel of a few kilobytes without dependencies.
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--dest", folder,
         "--only-binary", ":all:", "--index-url", index, "iniconfig==2.0.0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        missing(f"this host's package index does not answer: {done.stderr[-300:]}")
    return next(folder.glob("*.whl"))
