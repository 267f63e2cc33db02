"""The program of the role model_cache that fetches models in the guest."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import pytest

FILES = Path(__file__).parents[2] / "ansible/roles/model_cache/files"
FETCH, MAKE = FILES / "fetch_models.py", FILES / "make_models.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = {"config.json": b"{}", "sub/a b.bin": b"weights" * 1000}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; answers 503 as often as ``failing`` says."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.server.failing:
            self.server.failing -= 1
            self.send_error(503)
            return
        super().do_GET()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    for path, content in CONTENT.items():
        place = folder / "org/name/resolve" / COMMIT / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.asked, running.failing = [], 0
        running.folder = folder / "org/name/resolve" / COMMIT
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def lock(**changes):
    files = {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for path, content in CONTENT.items()
    }
    return {"models": [{"repo": "org/name", "commit": COMMIT, "files": files, **changes}]}


@pytest.fixture
def fetch(server, models):
    """Run the program as the role does: returns the process."""

    def run(document=None, endpoint=None):
        return subprocess.run(
            [sys.executable, "-c", FETCH.read_text(), models],
            input=json.dumps(document or lock()),
            capture_output=True,
            text=True,
            check=False,
            env={"HF_ENDPOINT": endpoint or server.url, "http_proxy": "http://127.0.0.1:9"},
        )

    return run


def present(models):
    return {str(p.relative_to(models)): p.read_bytes() for p in models.rglob("*") if p.is_file()}


def test_files_go_below_their_repository(fetch, models):
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert present(models) == {f"org/name/{path}": data for path, data in CONTENT.items()}
    assert sorted(done.stdout.splitlines()) == sorted(str(models / "org/name" / p) for p in CONTENT)
    modes = {path.stat().st_mode & 0o777 for path in models.rglob("*") if path.is_file()}
    assert modes == {0o444}


def test_what_is_there_is_not_fetched(fetch, server):
    fetch()
    server.asked.clear()
    done = fetch()
    assert (done.returncode, done.stdout, server.asked) == (0, "", [])


def test_what_is_spoiled_is_fetched_again(fetch, models):
    fetch()
    path = models / "org/name/config.json"
    path.chmod(0o644)
    path.write_bytes(b"[]")
    assert fetch().stdout.splitlines() == [str(path)]
    assert path.read_bytes() == b"{}"


def test_other_bytes_than_the_locks_never_stay(server, models):
    program = runpy.run_path(str(FETCH))
    (server.folder / "config.json").write_bytes(b"evil")
    with pytest.raises(program["WrongError"]) as caught:
        program["main"](models, lock(), server.url, wait=0)
    for content in (b"evil", CONTENT["config.json"]):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert present(models) == {}


def test_a_server_that_fails_for_a_moment(server, models):
    server.failing = 2
    runpy.run_path(str(FETCH))["main"](models, lock(), server.url, wait=0)
    assert len(present(models)) == 2


def test_a_file_that_is_not_there_is_not_asked_for_twice(fetch, server, models):
    (server.folder / "config.json").unlink()
    done = fetch()
    assert done.returncode == 1
    assert f"cannot fetch {server.url}/org/name/resolve/{COMMIT}/config.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert len([path for path in server.asked if path.endswith("config.json")]) == 1
    assert present(models) == {}


@pytest.mark.parametrize(
    "changes",
    [{"repo": "../x"}, {"repo": "/org/name"}, {"repo": "name"},
     {"files": {"../../x": {"sha256": "a"}}}, {"files": {"/x": {"sha256": "a"}}}],
)  # fmt: skip
def test_nothing_is_written_elsewhere(fetch, models, changes):
    done = fetch(lock(**changes))
    assert done.returncode == 1
    assert "is no path inside a repository" in done.stderr
    assert present(models.parent / "models") == {}


def test_without_an_endpoint_it_says_what_is_missing(models):
    done = subprocess.run(
        [sys.executable, "-c", FETCH.read_text(), models],
        input="{}", capture_output=True, text=True, check=False, env={},
    )  # fmt: skip
    assert done.returncode == 1
    assert "HF_ENDPOINT is not set" in done.stderr


def test_the_manifest_lists_them_all(fetch, models):
    fetch()
    for changed in (2, 0):
        done = subprocess.run(
            [sys.executable, "-", models], input=MAKE.read_text(), capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert len(done.stdout.splitlines()) == changed
    lines = (models / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "org/name/config.json",
        "org/name/sub/a b.bin",
        "tiny/model.onnx",
    ]
    checked = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(checked, cwd=models, check=False).returncode == 0
