"""What caches of whole files share: locks, quarantine, stamps, and what may go."""

from __future__ import annotations

import hashlib
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
    return SimpleNamespace(bytes=4, received=4, seconds=0.5, etag='"x"', modified=None)


def never(path):
    raise AssertionError(path)


def broken(path):
    raise VaultbuildError("no")


def test_what_is_not_there_is_fetched(store, path):
    kept = store.obtain(path, SHA256, fetch)
    assert (kept.bytes, kept.received, kept.spoiled, kept.etag) == (4, 4, False, '"x"')
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


def item(name, size=10, used=0.0, **more):
    return Item("isos", f"isos/{name}", name, size, used, **more)


ITEMS = [
    item("a", used=1),
    item("b", used=2),
    item("c", used=3, partial_bytes=5),
    item("d", used=4, held=True),
]


def goes(**rules):
    found = shelf.decide(ITEMS, now=10.0, **rules)
    assert [choice.item for choice in found] == ITEMS
    return {choice.item.digest for choice in found if choice.action == "remove"}


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        ({}, set()),
        ({"current": {"a"}}, {"b", "c"}),
        ({"current": set()}, {"a", "b", "c"}),
        ({"older_than": 7.5}, {"a", "b"}),
        ({"older_than": 7.5, "current": {"a"}}, {"b"}),
        ({"max_bytes": 45}, set()),
        ({"max_bytes": 44}, {"a"}),
        ({"max_bytes": 44, "current": {"a"}}, {"b"}),
        ({"max_bytes": 0}, {"a", "b", "c"}),
        ({"max_bytes": 25, "older_than": 8.5}, {"a", "b"}),
    ],
)
def test_what_goes(rules, gone):
    assert goes(**rules) == gone


def test_every_choice_has_a_reason():
    reasons = {c.item.digest: c.reason for c in shelf.decide(ITEMS, now=10.0, current={"c"})}
    assert reasons == {
        "a": "no stage of the project names it",
        "b": "no stage of the project names it",
        "c": "current",
        "d": "in use",
    }


def test_what_a_cache_holds():
    items = [
        item("a", used=5.0, checked=100.0),
        item("b", used=4.0),
        item("c", size=0, partial_bytes=3),
    ]
    held = shelf.holds(items, ttl=50.0, now=120.0)
    assert (held.count, held.bytes, held.oldest, held.stale, held.partial_bytes) == (
        2,
        20,
        4.0,
        1,
        3,
    )
    assert shelf.holds(items, ttl=None, now=120.0).stale == 0
    assert shelf.holds([], ttl=1.0, now=0.0).oldest is None


def test_what_is_in_use_is_not_removed(store, path, tmp_path):
    path.write_bytes(GOOD)
    one = Item("isos", f"isos/{SHA256}", SHA256, 4, 0.0)
    with lock(store.lock_file(SHA256)):
        assert not shelf.remove(tmp_path, one, store.lock_file(SHA256))
    assert path.exists()
    assert shelf.remove(tmp_path, one, store.lock_file(SHA256))
    assert not path.parent.exists()


def test_offline_errors_say_what_is_missing_and_what_to_type():
    error = shelf.not_cached("wheels are", ["one==1.0", "two==2.0"], cache="wheels")
    assert (
        error.message
        == "offline, and wheels are not in the wheels cache:\n       one==1.0\n       two==2.0"
    )
    assert error.hint == "with the network on: vaultbuild cache warm wheels"
