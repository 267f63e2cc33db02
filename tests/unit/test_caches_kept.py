"""What of the caches may go, and what never does."""

from __future__ import annotations

import fcntl
import os

import pytest

from builder import caches
from builder.caches import kept
from builder.caches.apt import mend, place
from builder.caches.kept import Holds, Item, Rules
from builder.caches.state import Places

NOW = 1_800_000_000.0
DAY = 24 * 3600.0


def item(name: str, days: float, size: int = 10, **more) -> Item:
    return Item("apt", f"apt/packages/{name}", size, NOW - days * DAY, **more)


def removed(items, **rules) -> list[str]:
    choices = kept.decide(items, Rules(NOW, **rules))
    assert {choice.item for choice in choices} == set(items)
    return [c.item.place.rpartition("/")[2] for c in choices if c.action == "remove"]


def test_without_a_rule_nothing_goes():
    assert removed([item("old", 400)]) == []


def test_what_was_not_used_for_an_age_goes_the_oldest_first():
    items = [item("new", 1), item("old", 40), item("older", 90)]
    assert removed(items, older_than=30 * DAY) == ["older", "old"]


def test_for_a_size_the_longest_unused_goes_until_the_rest_fits():
    items = [item("a", 3, 10), item("b", 2, 10), item("c", 1, 10)]
    assert removed(items, max_bytes=20) == ["a"]
    assert removed(items, max_bytes=19) == ["a", "b"]
    assert removed(items, max_bytes=30) == []
    assert removed(items, max_bytes=0) == ["a", "b", "c"]


def test_an_age_protects_from_a_size():
    items = [item("a", 3, 10), item("b", 2, 10)]
    assert removed(items, max_bytes=0, older_than=2.5 * DAY) == ["a"]


def test_what_is_in_force_or_in_use_stays():
    items = [item("index", 400, current="in force"), item("held", 400, held=True), item("x", 400)]
    choices = kept.decide(items, Rules(NOW, older_than=DAY, max_bytes=0))
    assert {c.item.place.rpartition("/")[2]: c.reason for c in choices if c.action == "keep"} == {
        "index": "in force",
        "held": "in use",
    }


def test_each_choice_has_a_reason_that_a_person_can_read():
    choices = kept.decide([item("a", 40)], Rules(NOW, older_than=DAY))
    assert choices[0].to_json() == {
        "action": "remove",
        "cache": "apt",
        "place": "apt/packages/a",
        "bytes": 10,
        "reason": "last used 40 days ago",
    }


def test_what_is_kept_is_counted():
    found = kept.holds([item("a", 3, 10), item("b", 2, 5)])
    assert found == Holds(2, 15, NOW - 3 * DAY)
    assert found.to_json() == {"files": 2, "bytes": 15, "oldest_use": "2027-01-12T08:00:00Z"}
    assert kept.holds([]).to_json() == {"files": 0, "bytes": 0, "oldest_use": None}


# --- doing it -------------------------------------------------------------------------------------


@pytest.fixture
def packages(tmp_path):
    """A cache of packages as apt-cacher-ng leaves it, last used a hundred days ago."""
    digest, gone = "a" * 64, "b" * 64
    files = {
        "mirror.example/debian/dists/trixie/InRelease": f"SHA256:\n {digest} 1 main/Packages\n",
        f"mirror.example/debian/dists/trixie/main/by-hash/SHA256/{digest}": "in force",
        f"mirror.example/debian/dists/trixie/main/by-hash/SHA256/{gone}": "not any more",
        "mirror.example/debian/pool/main/h/hello/hello_1_amd64.deb": "package",
        "mirror.example/flat/Packages.gz": "an index without a folder",
        "mirror.example/flat/driver_2_amd64.deb": "package",
    }
    folder = tmp_path / "cache/var/apt/packages"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.with_name(path.name + ".head").write_text("HTTP/1.1 200 OK\r\n\r\n")
        os.utime(path, (NOW - 100 * DAY,) * 2)
    (folder / "_xstore").mkdir()
    (folder / "_xstore/7").write_text("the server's own")
    (tmp_path / "cache/etc").mkdir()
    return folder


def test_packages_and_old_indexes_go_with_their_heads_and_folders(tmp_path, packages):
    rules = Rules(NOW, older_than=30 * DAY)
    assert caches.holds(tmp_path, ["apt"])["apt"].files == 6
    wanted = ["b" * 64, "driver_2_amd64.deb", "hello_1_amd64.deb"]
    for dry_run in (True, False):
        choices = caches.prune(tmp_path, ["apt"], rules, dry_run=dry_run)
        names = [c.item.place.rpartition("/")[2] for c in choices if c.action == "remove"]
        assert sorted(names) == wanted
    left = sorted(path.name for path in packages.rglob("*") if path.is_file())
    assert left == ["7", "InRelease", "InRelease.head", "Packages.gz", "Packages.gz.head",
                    "a" * 64, "a" * 64 + ".head"]  # fmt: skip
    assert not (packages / "mirror.example/debian/pool").exists()


def test_what_was_used_since_it_was_decided_stays(tmp_path, packages):
    cache, places = caches.CACHES[0], Places("apt", tmp_path, tmp_path / "cache/var")
    found = next(each for each in cache.items(places) if each.place.endswith("hello_1_amd64.deb"))
    path = tmp_path / "cache/var" / found.place
    os.utime(path, (found.used + 1, found.used))
    [choice] = kept.carry_out(
        [kept.Choice(found, "remove", "old")], lambda each: cache.drop(places, each)
    )
    assert (choice.action, choice.reason) == ("keep", "used since this was decided")
    assert path.exists()


def test_one_file_that_cannot_be_removed_does_not_save_the_others():
    def drop(each):
        if each.place.endswith("a"):
            raise PermissionError(13, "Permission denied")
        return True

    choices = kept.decide([item("a", 3), item("b", 2)], Rules(NOW, max_bytes=0))
    done = kept.carry_out(choices, drop)
    assert [choice.action for choice in done] == ["keep", "remove"]
    assert "Permission denied" in done[0].reason


def test_a_file_that_is_used_keeps_the_whole_cache(tmp_path, packages):
    settings = Rules(NOW, max_bytes=0)
    service_lock = tmp_path / "cache/var/run/apt-offline.users"
    service_lock.parent.mkdir()
    with service_lock.open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        choices = caches.prune(tmp_path, ["apt"], settings)
    assert {choice.action for choice in choices} == {"keep"}
    assert len([*packages.rglob("*.deb")]) == 2


# --- what upstream's errors leave behind ----------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "http://mirror.example/debian/dists/x/InRelease",
            "mirror.example/debian/dists/x/InRelease",
        ),
        ("http://mirror.example:8080/a/b%2bc", "mirror.example/a/b+c"),
        ("http://HTTPS///mirror.example/a//b", "mirror.example/a/b"),
        ("http://mirror.example/../../etc/passwd", None),
        ("http://mirror.example/a/%2e%2e/%2e%2e/b", None),
        ("/no/host", None),
    ],
)
def test_a_url_has_its_place_and_leads_nowhere_else(url, expected, tmp_path):
    assert place(tmp_path, url) == (tmp_path / expected if expected else None)


@pytest.mark.parametrize(
    ("fields", "mended"),
    [
        ("Content-Length: 6\r\nX-Original-Source: x\r\n", True),
        ("X-Original-Source: x\r\n", True),
        ("Content-Length: 7\r\n", False),
        # Half a file, with the length it should have.
        ("Content-Length: 70\r\nLast-Modified: then\r\n", False),
        ("Content-Length: 70\r\n", False),
        ("Last-Modified: then\r\n", False),
    ],
)
def test_a_length_is_put_back_where_it_was_lost(fields, mended, tmp_path):
    (tmp_path / "mirror.example").mkdir()
    path = tmp_path / "mirror.example/InRelease"
    path.write_text("release")
    head = path.with_name("InRelease.head")
    before = f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode()
    head.write_bytes(before)
    assert mend(tmp_path, "http://mirror.example/InRelease") == int(mended)
    after = head.read_bytes()
    assert (after == before) is not mended
    if mended:
        assert after.startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n")
        assert after.endswith(b"\r\n\r\n")
        assert (b"X-Original-Source: x\r\n" in after) == ("X-Original" in fields)
    assert mend(tmp_path) == 0
