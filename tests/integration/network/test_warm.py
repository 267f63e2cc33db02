"""``cache warm`` with the real apt-cacher-ng: all of it, once, and what is in the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder import caches, network
from builder.cli import main
from builder.prefetch import Order, prefetch
from builder.warm import Limits, Warmer, wants_of

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def lock(desk, archive):
    """What a build was handed: the index, its list, two packages. The caches forgot it."""
    with desk.guest() as guest:
        guest.well("alpha", "beta")
        found = network.lock_of(guest.journal, mode="caches", offline=False)
    shutil.rmtree(desk.var)
    archive.upstream.requests.clear()
    return found


@pytest.fixture
def warm(desk, lock):
    """Warm what the lock names."""

    def run(*, budget=None, name="warm", locks=(lock,), told=lambda _: None):
        logs = desk.folder / "logs" / name
        logs.mkdir(parents=True, exist_ok=True)
        order = Order(frozenset({"apt"}), locks, budget)
        return prefetch(desk.project, order, desk.reporter, logs, told)

    return run


def states(warmed) -> dict[str, str]:
    return {one.want.url.rpartition("/")[2]: one.state for one in warmed.found}


def whole(desk, archive) -> None:
    """An offline guest finds everything."""
    with desk.guest(f"offline-{time.monotonic_ns()}", offline=True) as guest:
        guest.well("alpha", "beta")


def test_an_empty_cache_has_everything_and_the_second_time_nothing_comes(desk, archive, warm):
    first = warm()
    assert set(states(first).values()) == {"fetched"}
    assert len(first.found) == 4
    assert first.received == sum(each.want.bytes for each in first.found)
    whole(desk, archive)
    asked = archive.upstream.sent
    second = warm()
    assert set(states(second).values()) == {"present"}
    assert second.received == 0
    assert archive.upstream.sent - asked <= 1
    assert (first.failed, second.failed, second.left) == ([], [], [])


def test_what_breaks_or_is_wrong_once_is_fetched_all_the_same(desk, archive, warm):
    archive.upstream.reset(archive.deb("alpha"), after=300_000, times=1)
    archive.upstream.corrupt(archive.deb("beta"), times=1)
    archive.upstream.corrupt(archive.list, times=1)
    assert set(states(warm()).values()) == {"fetched"}
    whole(desk, archive)


def test_what_is_damaged_is_fetched_again(desk, archive, warm):
    warm()
    for path in (archive.deb("alpha"), archive.list):
        kept = desk.kept(path)
        kept.write_bytes(b"X" + kept.read_bytes()[1:])
    again = states(warm())
    assert sorted(again.values()) == ["fetched", "fetched", "present", "present"]
    assert again["alpha_1.0_all.deb"] == "fetched"
    whole(desk, archive)


def test_an_archive_that_moved_is_followed(desk, archive, warm):
    archive.upstream.remove(archive.list)
    archive.publish(alpha="2.0")
    moved = warm()
    assert moved.failed == []
    found = states(moved)
    assert found["InRelease"] == "moved"
    assert found["alpha_2.0_all.deb"] == "fetched"
    assert (found["alpha_1.0_all.deb"], found["beta_1.0_all.deb"]) == ("fetched", "fetched")
    whole(desk, archive)
    # Though the list is there by then, it is still read.
    desk.kept(archive.deb("alpha")).unlink()
    assert states(warm())["alpha_2.0_all.deb"] == "fetched"


def test_a_package_that_gave_way_to_another_is_no_failure(desk, archive, warm):
    archive.upstream.remove(archive.deb("alpha"))
    archive.publish(alpha="2.0")
    moved = warm()
    assert states(moved)["alpha_1.0_all.deb"] == "moved"
    assert moved.failed == []


def test_a_list_of_another_suite_is_not_excused(desk, archive, warm, lock):
    url = archive.url + "/dists/trixie-updates/main/binary-amd64/by-hash/SHA256/" + "1" * 64
    other = network.Handed("apt", url, "1" * 64, 10, "file", "upstream")
    archive.publish(alpha="2.0")
    more = network.NetworkLock("caches", handed=(other,))
    assert [one.want.url for one in warm(locks=(lock, more)).failed] == [url]


def test_a_budget_stops_before_what_is_too_much(desk, archive, warm, lock):
    small = sum(one.bytes for one in lock.handed if not one.url.endswith(".deb"))
    some = warm(budget=small + 700_000)
    assert sorted(states(some).values()) == ["fetched", "fetched", "fetched", "left"]
    assert some.failed == []
    # What is there costs nothing.
    assert sorted(states(warm(budget=700_000)).values()) == ["fetched", *["present"] * 3]


def test_what_is_there_counts_as_progress_and_not_as_received(desk, warm, lock):
    for received in (True, False):
        told = []
        done = warm(told=told.append, name=str(received))
        assert sum(told) == sum(one.bytes for one in lock.handed)
        assert (done.received > 0) is received


def test_an_index_that_grew_beyond_the_budget_ends_nothing(desk, archive, warm, lock):
    archive.publish(**{f"more{number}": "1.0" for number in range(3)})
    (release,) = [one.bytes for one in lock.handed if one.url.endswith("InRelease")]
    found = warm(budget=release)
    assert found.failed == []
    assert "left" in states(found).values()


def test_a_full_disk_stops_what_would_be_fetched(desk, archive, lock):
    with desk.supplies() as supplies, supplies.served(None, desk.folder / "journal") as seen:
        limits = Limits(None, lambda: 100_000, 50_000)
        found = Warmer(seen.urls, supplies.stocks, limits, lambda _: None).warm(wants_of([lock]))
    assert {one.why for one in found if one.want.url.endswith(".deb")} == {"the disk is full"}
    assert archive.upstream.asked(archive.deb("alpha")) == []


def test_two_at_once_fetch_once(desk, archive, warm):
    archive.upstream.drip(archive.deb("alpha"), count=60_000, seconds=0.03)
    found = []
    runs = [
        threading.Thread(target=lambda name=name: found.append(warm(name=name)))
        for name in ("one", "two")
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert [one.failed for one in found] == [[], []]
    assert len(archive.upstream.asked(archive.deb("alpha"))) == 1
    assert sorted(one.received > 0 for one in found) == [False, True]
    assert "another run warms the caches" in desk.said


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def run(desk):
    """Call the command line for the project, in this process."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.getsignal(number) for number in signals}
    yield lambda *words: CliRunner().invoke(
        main, ["--project", str(desk.folder), "cache", "warm", *map(str, words)]
    )
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def file(lock, tmp_path) -> Path:
    path = tmp_path / "network.json"
    network.write(path, lock)
    return path


def test_the_document_is_what_it_was(run, file, archive):
    done = run("apt", "--lock", file, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    (one,) = document["warmed"]
    assert (document["schema"], one["schema"]) == (1, 1)
    assert one["counts"] == {"fetched": 4}
    assert set(one) == {
        "schema", "counts", "received", "changed", "wheels", "models", "image", "beyond", "left",
    }  # fmt: skip
    assert {tuple(sorted(each)) for each in one["changed"]} == {
        ("cache", "received", "state", "url")
    }
    again = json.loads(run("apt", "--lock", file, "--json").stdout)["warmed"][0]
    assert (again["counts"], again["received"], again["changed"]) == ({"present": 4}, 0, [])


def test_what_is_gone_is_named_and_fails(run, file, archive):
    archive.upstream.remove(archive.deb("alpha"))
    done = run("apt", "--lock", file)
    assert done.exit_code == 1
    assert f"1 things could not be had, such as {archive.url}" in done.stderr
    assert "alpha_1.0_all.deb" in done.stderr


_HEAD = '{"schema": 1, "mode": "caches", "offline": false, "handed": '
_ENTRY = '[{"cache": "apt", "url": "x", "sha256": "", "bytes": "x", "kind": "file", "from": "x"}]}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no network lock"),
        ("[]", "it is no network lock of schema 1"),
        ('{"schema": 2}', "it is no network lock of schema 1"),
        (_HEAD + "3}", "it is incomplete"),
        (_HEAD + _ENTRY, "it is incomplete"),
        ("\0\xff", "is no network lock"),
    ],
)  # fmt: skip
def test_nonsense_is_told_with_its_file(run, tmp_path, text, reason):
    path = tmp_path / "nonsense.json"
    path.write_bytes(text.encode("latin-1"))
    done = run("--lock", path)
    assert done.exit_code == 2
    assert str(path) in done.stderr
    assert reason in done.stderr


def test_a_file_that_is_not_there_is_told(run, tmp_path):
    done = run("--lock", tmp_path / "nothing.json")
    assert done.exit_code == 2
    assert "nothing.json" in done.stderr


def test_a_run_that_is_interrupted_ends_soon_and_the_next_goes_on(desk, run, file, archive):
    # It stays, so that its end ends nothing.
    caches.up({}, desk.folder, ["apt"])
    path = archive.deb("beta")
    archive.upstream.drip(path, count=1000, seconds=0.5)
    argv = [sys.executable, "-m", "builder", "--project", desk.folder, "cache", "warm", "apt"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [*argv, "--lock", file], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        while not archive.upstream.asked(path):
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, said
    assert "what was finished is kept" in said
    archive.upstream.heal()
    caches.down({}, desk.folder)
    done = run("apt", "--lock", file, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["warmed"][0]["counts"]["fetched"] == 1
    whole(desk, archive)
