"""uv resolves wishes against an index on this host."""

import base64
import hashlib
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.errors import CommandError
from builder.upstream import requirements_in
from builder.upstream.requirements_in import Pair

pytestmark = pytest.mark.integration

FOLDER = Path("stages/final")
HEADER = "# Made by: uv pip compile --generate-hashes --python-version 3.13 --only-binary :all:\n"
PAIR = Pair(FOLDER / "requirements.in", FOLDER / "requirements.lock")


def make_wheel(folder: Path, name: str, version: str, needs: str = "") -> str:
    """Write a wheel without content; return its SHA-256."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {f"{info}/METADATA": metadata, f"{info}/WHEEL": wheel}
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


@pytest.fixture
def index(tmp_path):
    """A package index: the pages are the server's lists of folders."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "index"))

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}/simple"
        made.shutdown()
        thread.join()


@pytest.fixture
def resolve(require_program, index, tmp_path):
    """Write wishes and an old lock, and make the lock anew."""
    uv = require_program("uv")
    project = tmp_path / "project"
    (project / FOLDER).mkdir(parents=True)

    def run(wishes: str, old: str) -> str:
        (project / PAIR.wishes).write_text(wishes)
        (project / PAIR.lock).write_text(HEADER + old)
        found = requirements_in.resolver_environment({"index-url": index})
        return requirements_in.resolve(
            project, PAIR, environment=found, cache=tmp_path / "uv", program=uv
        )

    return run


def test_a_lock_is_made_anew_with_hashes(resolve, tmp_path):
    shelf = tmp_path / "index/simple"
    first = make_wheel(shelf / "first", "first", "1.1", "Requires-Dist: second>=1\n")
    make_wheel(shelf / "first", "first", "1.0")
    second = make_wheel(shelf / "second", "second", "2.0")
    text = resolve("first\n", "first==1.0\n")
    assert text == HEADER + (
        f"first==1.1 \\\n    --hash=sha256:{first}\nsecond==2.0 \\\n    --hash=sha256:{second}\n"
    )
    assert requirements_in.pins_of(text) == {"first": "1.1", "second": "2.0"}


def test_what_nobody_has_is_an_error_that_names_it(resolve, tmp_path):
    (tmp_path / "index/simple").mkdir(parents=True)
    with pytest.raises(CommandError, match="nosuch") as caught:
        resolve("nosuch\n", "")
    assert "requirements.in" in caught.value.hint
