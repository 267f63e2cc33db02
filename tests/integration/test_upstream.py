"""The command line asks archives on this host: real requests, a store with as good as no images."""

import json
import os
import shutil
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.cli import main
from builder.digest import digest_file
from builder.project import Project
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MAIN = "main/binary-amd64"


@pytest.fixture
def server(archives):
    """The address of a server that has the archives' pages."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = archives.pages.get(f"http://{self.headers['Host']}{self.path}")
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


@pytest.fixture
def run(built):
    """Run the command line in this process; signals are left as they were."""
    kept = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    yield lambda *words: CliRunner().invoke(main, ["--project", str(built), *words])
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def built(project, archives, server, monkeypatch, tmp_path):
    """A project with an image of each stage, whose packages are as upstream has them."""
    (tmp_path / "bin").mkdir()
    packer = tmp_path / "bin/packer"
    packer.write_text("#!/bin/sh\necho Packer v1.6.6\n")
    packer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{packer.parent}:{os.environ['PATH']}")
    mirror = f"mirrors: ['deb {server}/debian trixie main'], packages: ["
    project({"stages/pipeline.yml": ("packages: [", mirror)})
    shutil.copytree(ROOT / "packer", project() / "packer", dirs_exist_ok=True)
    handed = archives.publish(
        f"{server}/debian/dists/trixie", {MAIN: {"openssl": "3.5.4-1", "python3": "3.13.5-1"}}
    )
    made = Project(project(), engine="nspawn")
    base, final = made.inputs("final")
    _image(made, "source", base.keys[0], None, handed)
    _image(made, "base", base.key, base.keys[0], [])
    _image(made, "final", final.key, base.key, [])
    return made.folder


def _image(project, stage, key, parent, handed):
    with project.store.staging() as staged:
        (staged / DISK).write_bytes(b"disk")
        lock = {"schema": 1, "mode": "caches", "offline": False, "handed": handed}
        (staged / "network.json").write_text(json.dumps(lock))
        record = BuildRecord(
            key=key,
            variant="one",
            stage=stage,
            created="2026-11-20T10:00:00Z",
            seconds=1.0,
            documents=(),
            parent=parent,
            disk=DiskRecord(digest_file(staged / DISK), 4),
            packages={"dpkg": {"openssl": "3.5.4-1", "python3": "3.13.5-1"}},
        )
        project.store.commit(staged, record)


def plan(run, *words):
    return run("plan", "--refresh", "--engine", "nspawn", *words)


def actions(done):
    return [(step["stage"], step["action"]) for step in json.loads(done.stdout)["steps"]]


def test_where_nothing_moved_nothing_is_built(run):
    done = plan(run, "--json")
    assert done.exit_code == 0, done.output
    assert actions(done) == [("base", "reuse"), ("final", "reuse")]
    document = json.loads(done.stdout)["refresh"]
    assert (document["moved"], document["unknown"]) == ([], [])
    assert "nothing moved" in plan(run).stdout


def test_what_moved_is_work(run, archives, server):
    archives.publish(f"{server}/debian/dists/trixie", {MAIN: {"openssl": "3.5.5-1"}})
    done = plan(run, "--json", "--detailed-exitcode")
    assert done.exit_code == 4
    assert actions(done) == [("base", "build"), ("final", "build")]
    document = json.loads(done.stdout)
    assert document["refresh"]["moved"] == [
        {"stage": "base", "kind": "package", "what": "openssl", "before": "3.5.4-1",
         "after": "3.5.5-1", "pinned": False},
    ]  # fmt: skip
    assert document["steps"][0]["reasons"] == [
        {"kind": "upstream", "what": "openssl", "before": "3.5.4-1", "after": "3.5.5-1"},
    ]
    told = plan(run, "-v").stdout
    assert "upstream has openssl 3.5.5-1 (it was 3.5.4-1)" in told
    assert "1 moved" in told
    assert run("plan", "--engine", "nspawn").stdout.count("reuse") == 2, "nobody was asked"
    shown = run("show", "base", "--engine", "nspawn").stdout.splitlines()[-1]
    assert shown.startswith("upstream  asked ")
    assert shown.endswith("openssl 3.5.4-1 → 3.5.5-1")


def test_an_upstream_that_does_not_answer_is_a_warning(run, archives):
    archives.pages.clear()
    done = plan(run, "--json", "--detailed-exitcode")
    assert [action for _, action in actions(done)] == ["reuse", "reuse"]
    assert "warning: upstream: " in done.stderr
    (unknown,) = json.loads(done.stdout)["refresh"]["unknown"]
    assert unknown["what"].endswith("/debian/dists/trixie/InRelease")


def test_new_pins_are_shown_and_written(run, archives, server, built):
    file = built / "stages/pipeline.yml"
    before = file.read_text()
    archives.publish(f"{server}/debian/dists/trixie", {MAIN: {"python3": "3.13.6-1"}})
    shown = run("lock", "packages", "--dry-run", "--detailed-exitcode")
    assert shown.exit_code == 4, shown.output
    assert "+      bootstrap: {" in shown.stdout
    assert "python3=3.13.6-1" in shown.stdout
    assert file.read_text() == before
    done = run("lock", "packages", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["written"] is True
    assert file.read_text() == before.replace("3.13.5-1", "3.13.6-1")
    again = run("lock", "packages", "--detailed-exitcode")
    assert (again.exit_code, again.stdout) == (0, "")


def test_asking_offline_is_refused(run):
    done = run("stage", "base", "--refresh", "--offline", "--engine", "nspawn")
    assert done.exit_code == 2
    assert "--refresh asks upstream, and --offline nobody" in done.stderr


@pytest.mark.parametrize(
    "words", [["plan", "--refresh"], ["lock"], ["cache", "warm"]], ids=" ".join
)
def test_where_the_environment_says_offline_nobody_is_asked(run, monkeypatch, words):
    monkeypatch.setenv("VAULTBUILD_OFFLINE", "1")
    done = run(*words)
    assert done.exit_code == 2
    assert "env -u VAULTBUILD_OFFLINE vaultbuild" in done.stderr


@pytest.mark.parametrize(
    "words",
    [["plan", "--max-age", "1h"], ["plan", "--refresh", "--max-age", "soon"],
     ["plan", "--refresh", "--against", "aa"], ["stage", "base", "--watch", "--refresh"]],
    ids=" ".join,
)  # fmt: skip
def test_words_that_do_not_go_together(run, words):
    assert run(*words).exit_code == 2
