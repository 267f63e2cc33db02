"""A process that is killed at any line leaves the old state or the new one, and nothing between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
# For each number and folder that it reads: forks, runs a few lines of Python there, and is killed
# when it comes to that line of builder's modules. Answers with how it ended.
KILLED = """
import os, signal, sys
from pathlib import Path
import builder.digest, builder.files, builder.record, builder.store

modules = tuple(f"builder/{name}.py" for name in sys.argv[1].split(","))
code = compile(sys.argv[2], "steps", "exec")

def trace(frame, event, argument):
    global left
    if not frame.f_code.co_filename.endswith(modules):
        return None
    if event == "line":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

for request in sys.stdin:
    number, folder = request.rstrip().split(" ", 1)
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    left = int(number)
    sys.settrace(trace)
    exec(code, {"here": Path(folder), "files": builder.files})
    os._exit(0)
"""
MOST = 400


@pytest.fixture
def killed_at_each_line():
    """Run ``steps`` again and again, killed one line later each time; yield after each death."""

    def run(steps: str, fresh, modules: str = "files"):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, modules, steps],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            for line in range(1, MOST):
                folder = fresh(line)
                server.stdin.write(f"{line} {folder}\n")
                server.stdin.flush()
                status = int(server.stdout.readline())
                yield folder
                if status != -signal.SIGKILL:
                    assert status == 0
                    assert line > 5, "it was killed at least a few times"
                    server.stdin.close()
                    return
        pytest.fail(f"it has more than {MOST} lines")

    return run


def test_a_commit_is_all_or_nothing(tmp_path, killed_at_each_line):
    def fresh(line: int) -> Path:
        folder = tmp_path / str(line)
        (folder / "staged/logs").mkdir(parents=True)
        (folder / "staged/disk").write_text("disk")
        (folder / "staged/logs/a.log").write_text("log")
        return folder

    deaths = 0
    for folder in killed_at_each_line("files.commit(here / 'staged', here / 'place')", fresh):
        staged, place = folder / "staged", folder / "place"
        assert staged.exists() != place.exists()
        whole = place if place.exists() else staged
        assert (whole / "disk").read_text() == "disk"
        assert (whole / "logs/a.log").read_text() == "log"
        deaths += staged.exists()
    assert deaths
    assert place.exists(), "the last one was not killed"


def test_a_file_is_the_old_or_the_new(tmp_path, killed_at_each_line):
    def fresh(line: int) -> Path:
        folder = tmp_path / str(line)
        folder.mkdir()
        (folder / "file").write_text("old")
        return folder

    steps = "files.write_text(here / 'file', 'new')"
    seen = [(folder / "file").read_text() for folder in killed_at_each_line(steps, fresh)]
    assert set(seen) == {"old", "new"}
    assert seen == sorted(seen, reverse=True), "once it is the new one, it stays"


STORE = """
from builder.digest import digest_file
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK, Store

def put(store, key, parent=None, content=b"disk"):
    with store.staging() as staged:
        (staged / DISK).write_bytes(content)
        disk = DiskRecord(digest_file(staged / DISK), len(content))
        record = BuildRecord(key=key * 64, variant="one", stage="base", seconds=1.0,
            created="2026-11-20T10:00:00Z", documents=(), parent=parent and parent * 64, disk=disk)
        return store.commit(staged, record, replace=True)

"""


def test_an_image_is_in_the_store_or_it_is_not(tmp_path, killed_at_each_line):
    """Killed at any line while an image replaces another, on which a third one stands."""
    names: dict[str, object] = {}
    exec(STORE, names)  # noqa: S102 - the same lines that the killed process runs
    put, store_of = names["put"], names["Store"]

    def fresh(line: int) -> Path:
        store = store_of(tmp_path / str(line))
        put(store, "a", content=b"old")
        put(store, "b", parent="a")
        return store.root

    steps = STORE + "put(Store(here), 'a', content=b'new')\n"
    found = []
    for folder in killed_at_each_line(steps, fresh, modules="files,store"):
        store = store_of(folder)
        store.sweep()
        base, child = store.find("a" * 64), store.find("b" * 64)
        found.append(base and base.disk.read_bytes())
        assert base is None or store.verified("a" * 64)
        assert child is None or base, "what stands on it is never left without it"
        assert child is None or base.disk.read_bytes() == b"old"
        put(store, "a", content=b"again")
        assert store.verified("a" * 64).disk.read_bytes() == b"again"
        assert [path.name for path in (folder / "images").iterdir()] == ["a" * 64]
    assert set(found) >= {b"old", b"new"}
