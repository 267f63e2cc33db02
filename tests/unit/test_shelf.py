"""What caches of whole files share: locks, quarantine, stamps, and what may go."""

from __future__ import annotations

import hashlib
import json
import os
import time
from types import SimpleNamespace

import pytest

from builder.caches import shelf
from builder.caches.shelf import Item, Shelf, Stamp
from builder.errors import VaultbuildError
from builder.files import lock

GOOD = b"good"
SHA256 = hashlib.sha256(GOOD).hexdigest()
DAY = 24 * 3600.0


@pytest.fixture
def store(tmp_path):
    return Shelf("isos", tmp_path)


@pytest.fixture
def path(store):
    place = store.folder / SHA256 / "image"
    place.parent.mkdir(parents=True)
    return place


def fetch(path):
    path.write_bytes(GOOD)
    return SimpleNamespace(bytes=4, received=4, seconds=0.5)


def never(path):
    raise AssertionError(path)


def broken(path):
    raise VaultbuildError("no")


def test_what_is_not_there_is_fetched(store, path):
    kept = store.obtain(path, SHA256, fetch)
    assert (kept.bytes, kept.received, kept.spoiled, kept.fetched) == (4, 4, False, True)
    assert store.obtain(path, SHA256, never).received == 0


def test_what_may_not_be_fetched_is_none(store, path):
    assert store.obtain(path, SHA256, None) is None
    path.write_bytes(b"evil")
    assert store.obtain(path, SHA256, None) is None
    assert not path.exists(), "wrong bytes are never used"


def test_wrong_bytes_stay_as_evidence_even_when_fetching_fails(store, path, tmp_path):
    path.write_bytes(b"evil")
    with pytest.raises(VaultbuildError):
        store.obtain(path, SHA256, broken)
    (evidence,) = tmp_path.glob("quarantine/*-isos-image-*/image")
    assert evidence.read_bytes() == b"evil"
    found = hashlib.sha256(b"evil").hexdigest()
    why = evidence.with_name("why").read_text()
    assert why == f"isos/{SHA256}/image: its SHA-256 is {found}, wanted {SHA256}\n"
    with lock(store.lock_file(SHA256), waiting=never):
        pass  # and nobody holds the lock


def test_of_a_link_what_it_leads_to_is_put_aside(store, tmp_path):
    blob, pointer = store.folder / "blob", store.folder / "deep/er/pointer"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"evil")
    shelf.relative_link(pointer, blob)
    assert pointer.readlink().as_posix() == "../../blob"
    moved = store.quarantine(pointer, "because")
    assert moved.read_bytes() == b"evil"
    assert not blob.exists()
    assert not pointer.is_symlink()


def test_a_link_is_made_once_and_replaced_in_one_step(store):
    one, two, link = (store.folder / name for name in ("one", "two", "link"))
    store.folder.mkdir()
    one.write_text("1")
    two.write_text("2")
    for target, text in ((one, "1"), (one, "1"), (two, "2")):
        shelf.relative_link(link, target)
        assert link.read_text() == text
    assert sorted(path.name for path in store.folder.iterdir()) == ["link", "one", "two"]


@pytest.mark.parametrize("change", ["bytes", "another file", "old", "torn"])
def test_what_was_read_is_believed_while_it_looks_the_same(store, path, change):
    store.obtain(path, SHA256, fetch)
    assert shelf.was_read(store.folder, path, SHA256)
    assert not shelf.was_read(store.folder, path, "0" * 64)
    (note,) = store.folder.glob(".read/*")
    if change == "bytes":
        before = path.stat()
        path.write_bytes(b"evil")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "another file":
        path.rename(path.with_name("old"))
        path.write_bytes(GOOD)
    else:
        said = json.loads(note.read_text()) if change == "old" else {}
        note.write_text(json.dumps({**said, "time": time.time() - 2 * DAY}))
    assert not shelf.was_read(store.folder, path, SHA256)


# --- stamps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checked", "fresh"),
    [
        (None, False),
        (1000.0, True),
        (1000.0 - DAY + 1, True),
        (1000.0 - DAY, False),
        (1001.0, False),
    ],
)
def test_a_stamp_is_fresh_for_a_while(checked, fresh):
    assert Stamp("u", checked).fresh(DAY, now=1000.0) is fresh


def test_a_stamp_is_kept(tmp_path):
    stamp = Stamp("u", 1.5, '"e"', "m", "t", {"moved": "x"})
    stamp.write(tmp_path / "checked.json")
    assert Stamp.read(tmp_path / "checked.json") == stamp


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "{}", '{"schema": 2, "url": "u"}',
                                  '{"schema": 1, "url": "u", "new": 1}'])  # fmt: skip
def test_a_stamp_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / "checked.json").write_text(text)
    assert Stamp.read(tmp_path / "checked.json") is None
    assert Stamp.read(tmp_path / "nowhere.json") is None


def test_progress_adds_up_over_files_that_begin_again():
    heard = []
    for sizes in ([10, 30, 5, 40], [7]):
        told = shelf.growing(heard.append)
        for size in sizes:
            told(size)
    assert sum(heard) == 47
    assert shelf.growing(None) is None


# --- what may go ----------------------------------------------------------------------------------


@pytest.fixture
def item(path):
    path.write_bytes(GOOD)
    path.with_name("checked.json").write_text("{}")
    return Item("isos", f"isos/{SHA256}", 4, used=time.time() + 5, digest=SHA256, checked=100.0)


def test_what_is_dropped_is_gone_with_all_that_is_beside_it(store, item, tmp_path, path):
    assert shelf.drop(store, item, [SHA256])
    assert not path.parent.exists()


def test_what_is_in_use_is_not_dropped(store, item, tmp_path, path):
    with lock(store.lock_file(SHA256)):
        assert not shelf.drop(store, item, ["0" * 64, SHA256])
    assert path.exists()


def test_what_was_used_since_it_was_looked_at_is_not_dropped(store, item, tmp_path, path):
    with lock(store.lock_file(SHA256)):
        pass
    os.utime(store.lock_file(SHA256), (item.used + 1, item.used + 1))
    assert not shelf.drop(store, item, [SHA256])
    assert path.exists()


def test_what_upstream_did_not_confirm(item):
    assert shelf.stale([item], ttl=50.0, now=120.0) == []
    assert shelf.stale([item], ttl=50.0, now=150.0) == [item]
    never = Item("isos", "isos/x", 4, used=0.0)
    assert shelf.stale([never], ttl=50.0, now=0.0) == [never]


def test_offline_errors_say_what_is_missing_and_what_to_type():
    error = shelf.not_cached("wheels are", ["one==1.0", "two==2.0"], cache="wheels")
    assert (
        error.message
        == "offline, and wheels are not in the wheels cache:\n       one==1.0\n       two==2.0"
    )
    assert (
        error.hint
        == "with the network on: vaultbuild cache warm wheels, and --variant as in this run"
    )
