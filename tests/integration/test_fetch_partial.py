"""Downloads that break off, are continued, go on elsewhere, or have no room; over real sockets."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.fetch import FullError, PermanentError, TransientError

pytestmark = pytest.mark.integration

DATA = bytes(range(256)) * 1200  # 300 KiB
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = DATA[::-1]
ROOT = Path(__file__).parents[2]


def beside(target: Path) -> list[str]:
    """What stands in the folder of a target, without the target."""
    return sorted(path.name for path in target.parent.glob("*") if path != target)


# --- going on with what is there ------------------------------------------------------------------


def interrupted(upstream, fetcher, target, *, after: int = 100_000, **arguments) -> None:
    """Leave a partial file behind."""
    upstream.reset("/a.bin", after=after, times=1)
    with pytest.raises(TransientError):
        fetcher(attempts=1).file(upstream.url + "/a.bin", target, **arguments)
    assert ".a.bin.partial" in beside(target)
    assert (target.parent / ".a.bin.partial").stat().st_size == after


@pytest.mark.parametrize("digest", [SHA, None])
def test_the_next_run_continues(digest, upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    interrupted(upstream, fetcher, target, sha256=digest)

    got = fetcher().file(upstream.url + "/a.bin", target, sha256=digest)

    assert (got.sha256, got.received) == (SHA, len(DATA) - 100_000)
    assert beside(target) == []


@pytest.mark.parametrize("digest", [SHA, None])
def test_a_server_that_knows_no_ranges_gives_all(digest, upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    interrupted(upstream, fetcher, target, sha256=digest)
    upstream.refuse_ranges("/a.bin")

    got = fetcher().file(upstream.url + "/a.bin", target, sha256=digest)

    assert (got.sha256, got.received) == (SHA, len(DATA))


def test_all_of_it_in_wrong_bytes_is_no_matter_of_parts(upstream, fetcher, target, said):
    upstream.put("/a.bin", DATA)
    interrupted(upstream, fetcher, target, sha256=SHA)
    upstream.put("/a.bin", OTHER, ranges=False)

    with pytest.raises(PermanentError, match=f"wanted {SHA}"):
        fetcher().file(upstream.url + "/a.bin", target, sha256=SHA)

    assert not any("do not fit" in line for line in said)


@pytest.mark.parametrize("heeded", [True, False])
def test_another_version_is_fetched_whole(heeded, upstream, fetcher, target):
    upstream.put("/a.bin", OTHER)
    interrupted(upstream, fetcher, target)
    upstream.put("/a.bin", DATA)
    if not heeded:
        upstream.ignore_if_range("/a.bin")

    got = fetcher().file(upstream.url + "/a.bin", target)

    assert target.read_bytes() == DATA
    assert got.received == len(DATA)


def test_a_version_that_changes_midway(upstream, fetcher, target):
    upstream.put("/a.bin", OTHER)
    upstream.change("/a.bin", DATA, after=1000)

    fetcher().file(upstream.url + "/a.bin", target)

    assert target.read_bytes() == DATA


def test_parts_of_two_versions_are_noticed_by_the_digest(upstream, fetcher, target, said):
    upstream.put("/a.bin", OTHER, etag=None, modified=None)
    interrupted(upstream, fetcher, target, sha256=SHA)
    upstream.put("/a.bin", DATA, etag=None, modified=None)

    fetcher().file(upstream.url + "/a.bin", target, sha256=SHA)

    assert target.read_bytes() == DATA
    assert any("the parts do not fit together" in line for line in said)


@pytest.mark.parametrize(
    "names", [{"etag": 'W/"x"', "modified": None}, {"etag": None, "modified": None}]
)
def test_without_a_name_for_the_version_it_begins_anew(names, upstream, fetcher, target):
    upstream.put("/a.bin", DATA, **names)
    interrupted(upstream, fetcher, target)

    got = fetcher().file(upstream.url + "/a.bin", target)

    assert (got.sha256, got.received) == (SHA, len(DATA))
    assert "range" not in upstream.requests[1].headers


def test_a_time_of_modification_names_a_version_too(upstream, fetcher, target):
    upstream.put("/a.bin", DATA, etag=None)
    interrupted(upstream, fetcher, target)

    fetcher().file(upstream.url + "/a.bin", target)

    assert upstream.requests[1].headers["if-range"].endswith("GMT")


def test_a_time_of_just_now_does_not(upstream, fetcher, target):
    upstream.put("/a.bin", DATA, etag=None, modified=time.time() + 5)
    interrupted(upstream, fetcher, target)

    fetcher().file(upstream.url + "/a.bin", target)

    assert "range" not in upstream.requests[1].headers


def test_a_partial_file_from_before_the_host_went_down_is_not_trusted(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    interrupted(upstream, fetcher, target)
    note = target.parent / ".a.bin.partial.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "boot": "another"}))

    assert fetcher().file(upstream.url + "/a.bin", target).received == len(DATA)


@pytest.mark.parametrize("digest", [SHA, None])
def test_more_is_there_than_the_server_has(digest, upstream, fetcher, target):
    """The server says 416: what is there is of no use."""
    upstream.put("/a.bin", DATA)
    interrupted(upstream, fetcher, target, sha256=digest)
    with (target.parent / ".a.bin.partial").open("ab") as file:
        file.write(bytes(len(DATA)))

    got = fetcher().file(upstream.url + "/a.bin", target, sha256=digest)

    assert (got.sha256, got.received) == (SHA, len(DATA))
    assert [request.status for request in upstream.requests] == [200, 416, 200]


def test_a_whole_file_that_was_not_renamed_is_not_fetched_again(upstream, fetcher, target):
    target.parent.mkdir()
    (target.parent / ".a.bin.partial").write_bytes(DATA)

    got = fetcher().file(upstream.url + "/a.bin", target, sha256=SHA)

    assert (got.sha256, got.received, upstream.requests) == (SHA, 0, [])
    assert target.read_bytes() == DATA


# --- room -----------------------------------------------------------------------------------------


def test_what_cannot_fit_is_refused_before_a_byte_is_written(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)

    with pytest.raises(FullError) as caught:
        fetcher(reserve=1 << 20, free=lambda _: (1 << 20) + 100).file(
            upstream.url + "/a.bin", target, sha256=SHA
        )

    assert isinstance(caught.value, HostError)
    assert "299.9 KiB more is needed (1.0 MiB of it is left free)" in caught.value.message
    assert "vaultbuild cache prune" in (caught.value.hint or "")
    assert list(target.parent.iterdir()) == []
    assert len(upstream.requests) == 1, "a full disk does not pass"


def test_a_disk_that_fills_up_stops_the_download(upstream, fetcher, target):
    large = bytes(20 << 20)
    upstream.put("/a.bin", large)
    left = iter([1 << 40, 10])

    with pytest.raises(FullError):
        fetcher(free=lambda _: next(left)).file(upstream.url + "/a.bin", target)

    kept = (target.parent / ".a.bin.partial").stat().st_size
    assert 8 << 20 <= kept < 20 << 20
    got = fetcher().file(upstream.url + "/a.bin", target)
    assert got.received == len(large) - kept


def test_a_disk_that_is_really_full(upstream, fetcher, tmp_path, require_root, missing):
    require_root()
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        missing("no tmpfs can be mounted")
    try:
        upstream.put("/a.bin", DATA)
        with pytest.raises(FullError, match="no room for"):
            fetcher(free=lambda _: 1 << 40).file(upstream.url + "/a.bin", small / "a.bin")
        assert 0 < (small / ".a.bin.partial").stat().st_size < len(DATA)
    finally:
        subprocess.run(["umount", small], check=True)


# --- several at once ------------------------------------------------------------------------------


def test_two_that_want_one_file_fetch_it_once(upstream, fetcher, target, said):
    upstream.put("/a.bin", DATA)
    upstream.drip("/a.bin", count=60_000, seconds=0.1, times=1)
    got = []
    one = fetcher()
    threads = [
        threading.Thread(target=lambda: got.append(one.file(upstream.url + "/a.bin", target)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(upstream.requests) == 1
    assert sorted(one.received for one in got) == [0, 0, len(DATA)]
    assert {one.sha256 for one in got} == {SHA}
    assert "a.bin is fetched by another process: waiting for it" in said


FETCH = """
import sys
from pathlib import Path
from builder.fetch.breaker import Breakers
from builder.fetch import Fetcher
folder = Path(sys.argv[2]).parent
Fetcher(breakers=Breakers(folder / "breakers")).file(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_what_the_next_one_continues(number, upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    upstream.hang("/a.bin", after=100_000, times=1)
    command = [sys.executable, "-c", FETCH, upstream.url + "/a.bin", target]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    partial = target.parent / ".a.bin.partial"
    while not partial.exists() or partial.stat().st_size < 100_000:
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(number)
    run.wait()

    assert beside(target) == [".a.bin.partial", ".a.bin.partial.json"]
    got = fetcher().file(upstream.url + "/a.bin", target)
    assert (got.sha256, got.received) == (SHA, len(DATA) - 100_000)
    assert beside(target) == []


def test_the_other_goes_on_when_one_is_killed(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    upstream.hang("/a.bin", after=100_000, times=1)
    command = [sys.executable, "-c", FETCH, upstream.url + "/a.bin", target]
    run = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    partial = target.parent / ".a.bin.partial"
    while not partial.exists() or partial.stat().st_size < 100_000:
        assert run.poll() is None
        time.sleep(0.02)
    threading.Timer(0.3, run.kill).start()

    got = fetcher().file(upstream.url + "/a.bin", target)

    run.wait()
    assert (got.sha256, got.received) == (SHA, len(DATA) - 100_000)
