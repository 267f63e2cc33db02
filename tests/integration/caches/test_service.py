"""The life of a server: started, shared, kept, stopped. With one that costs nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from builder import ports
from builder.caches.folders import Folder
from builder.caches.http import ask
from builder.caches.service import Launch, Service
from builder.caches.state import Places, State, Terms
from builder.errors import CommandError, HostError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Fake:
    """A cache whose server is a few lines of Python that answer with their own name."""

    name = "apt"
    fetches = True
    program = (
        "import http.server, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'fake')\n"
        "http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), H).serve_forever()\n"
    )

    def __init__(self):
        self.prepared: list[Terms] = []
        self.settled = 0

    def prepare(self, places, terms):
        self.prepared.append(terms)
        return Launch([sys.executable, "-c", self.program, terms.listen, str(terms.port)])

    def url(self, terms):
        return terms.root

    def answers(self, url):
        return ask(url).text == "fake"

    def settle(self, places, terms):
        self.settled += 1

    def items(self, places):
        return []

    def drop(self, places, item):
        return False


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


def test_a_server_answers_while_it_is_used_and_is_gone_afterwards(service, gone):
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
from test_service import Fake, Places, Service
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


def test_runs_that_start_at_once_start_one_server(places, gone):
    with start_run(places) as first, start_run(places) as second:
        urls = {run.stdout.readline().strip() for run in (first, second)}
        state = State.read(places.state)
        assert urls == {f"http://127.0.0.1:{state.port}"}
        first.kill()
        first.wait()
        assert ask(urls.pop()).text == "fake"
        second.kill()
    assert gone(state.pid)


def test_a_killed_run_leaves_no_server(places, gone):
    with start_run(places) as run:
        url = run.stdout.readline().strip()
        state = State.read(places.state)
        server = children(state.pid)
        assert ask(url).text == "fake"
        run.kill()
    assert gone(state.pid)
    assert all(gone(pid) for pid in server)
    assert State.read(places.state) is None


def test_a_killed_keeper_takes_its_server_along(service, gone):
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


# --- on other terms -------------------------------------------------------------------------------


CHANGED = [
    ({"offline": True}, "online, not offline"),
    ({"listen": "127.0.0.2"}, "at 127.0.0.1, not 127.0.0.2"),
]


@pytest.mark.parametrize(("options", "_told"), CHANGED)
def test_a_server_that_nobody_uses_starts_again_on_other_terms(
    service, places, options, _told, gone
):
    with service.lease():
        service.begin()
        service.ready()
        places.stay.touch()
    before = service.state
    other = Service(Fake(), places, **options)
    with other.lease():
        other.begin()
        other.ready()
        assert other.state.pid != before.pid
        assert other.state.offline == options.get("offline", False)
        assert other.state.listen == options.get("listen", "127.0.0.1")
        assert gone(before.pid)


@pytest.mark.parametrize(("options", "told"), CHANGED)
def test_a_server_in_use_is_shared_on_its_own_terms(service, places, options, told, caplog):
    with service.lease():
        service.begin()
        url = service.ready()
        other = Service(Fake(), places, **options)
        with other.lease():
            other.begin()
            assert other.ready() == url
            assert other.cache.prepared == []
    assert told in caplog.text


def test_a_server_listens_where_it_is_told_to(places, listening):
    service = Service(Fake(), places, listen="127.0.0.3")
    with service.lease():
        service.begin()
        url = service.ready()
        port = int(url.rpartition(":")[2])
        assert url == f"http://127.0.0.3:{port}"
        assert listening(port) == {"127.0.0.3"}


def test_one_that_listens_everywhere_is_reached_on_the_loopback(places):
    service = Service(Fake(), places, listen="0.0.0.0")  # noqa: S104
    with service.lease():
        service.begin()
        assert service.ready().startswith("http://127.0.0.1:")


def test_no_run_begins_to_use_what_is_being_pruned(service):
    with service.unused() as alone:
        assert alone
        assert service.used
    with service.lease(), service.unused() as alone:
        assert not alone


def test_a_server_that_does_not_start_shows_what_it_said(places):
    service = Service(Broken(), places)
    with service.lease():
        service.begin()
        with pytest.raises(CommandError) as caught:
            service.ready()
    assert "no such luck" in caught.value.message
    assert caught.value.log == places.log
    assert service.state is None


# --- folders of files -----------------------------------------------------------------------------

FILE_SERVER = """
import functools, http.server, sys
kind, folder, _, host, _, port = sys.argv[1:]
text = f"vaultbuild {kind}".encode()
class H(http.server.SimpleHTTPRequestHandler):
    def list_directory(self, path):
        self.send_response(200); self.end_headers(); self.wfile.write(text)
handler = functools.partial(H, directory=folder)
http.server.ThreadingHTTPServer((host, int(port)), handler).serve_forever()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of files, handed out by a program that is good enough for this."""
    (tmp_path / "stand_in.py").write_text(FILE_SERVER)
    monkeypatch.setenv("HOME", str(tmp_path))

    class StandIn(Folder):
        def prepare(self, places, terms):
            launch = Folder.prepare(self, places, terms)
            words = [word for word in launch.command if word not in {"-m", self.program}]
            return Launch([words[0], str(tmp_path / "stand_in.py"), *words[1:]])

    return StandIn("isos")


def test_files_of_a_folder_are_handed_out(folder, tmp_path):
    places = Places("isos", tmp_path / "etc", tmp_path / "var")
    service = Service(folder, places, offline=True)
    with service.lease():
        service.begin()
        url = service.ready()
        # It asks nobody, so there is no mode it could be in.
        assert not service.state.offline
        (tmp_path / "var/isos/one").write_bytes(b"disk")
        assert ask(f"{url}/one").text == "disk"
        assert Folder("isos").answers(url)
        assert not Folder("models").answers(url)
