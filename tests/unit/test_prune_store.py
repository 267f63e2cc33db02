"""What the store holds, and removing some of it: on a real store, with locks of others."""

import fcntl
import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest

from builder import prune
from builder.digest import digest_document, digest_file
from builder.holdings import made_last, own_bytes, shares, survey, to_json
from builder.prune import DAY, Rules, decide
from builder.record import BuildRecord, DiskRecord
from builder.scratch import owned
from builder.store import DISK, Store, backing_name

MIB = 1 << 20


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "var")


def key_of(name: str) -> str:
    return (name.encode().hex() * 64)[:64]


@pytest.fixture
def put(store):
    """Commit an image or, with a role, a checkpoint, made on a day of November 2026."""

    def commit(name, parent=None, *, day=1, stage="final", role=None, checkpoint=None):
        with store.staging() as staged:
            disk = staged / DISK
            disk.write_bytes(name.encode() * 5000)
            record = BuildRecord(
                key=key_of(name),
                variant="one",
                stage=stage,
                created=f"2026-11-{day:02}T10:00:00Z",
                seconds=1.0,
                documents=({"schema": 1, "kind": "stage"},),
                parent=key_of(parent) if parent else None,
                disk=DiskRecord(digest_file(disk), disk.stat().st_size),
                role=role,
                checkpoint=key_of(checkpoint) if checkpoint else None,
            )
            return store.commit(staged, record)

    return commit


@pytest.fixture
def history(put):
    """A base, an old image through a checkpoint, and a new image."""
    put("base", stage="base")
    put("one", "base", role="tuning", day=2)
    put("old", "base", checkpoint="one", day=3)
    put("new", "base", day=4)


def left(store) -> set[str]:
    known = {key_of(name): name for name in ("base", "one", "old", "new", "late")}
    return {known[each.key] for each in store.entries()}


def choose(store, **rules):
    return decide(survey(store), Rules(**{"now": time.time(), "current": {}, "keep": 1, **rules}))


def told(choices) -> dict[str, tuple[str, str]]:
    return {each.entry.place: (each.action, each.reason) for each in choices}


def test_what_was_decided_is_done(store, history):
    done = prune.carry_out(choose(store), store)
    assert left(store) == {"base", "new"}
    assert [each.entry.stage for each in done if each.action == "remove"] == ["final", "final"]
    assert list((store.root / "images").glob(".*")) == []
    assert {each.action for each in choose(store)} == {"keep"}, "the second time nothing is to do"


@pytest.mark.parametrize("read", [0, 40], ids=["read today", "not read since"])
def test_a_compiled_module_goes_when_nobody_took_it_for_long(store, history, read):
    kept = store.root / "modules/nvidia.tar"
    kept.parent.mkdir()
    kept.write_bytes(b"module")
    now = time.time()
    os.utime(kept, (now - read * DAY, now - 90 * DAY))
    prune.carry_out(choose(store), store)
    assert kept.exists() == (read == 0)


def test_deciding_changes_nothing(store, history):
    before = sorted(store.root.rglob("*"))
    choose(store, max_bytes=0)
    assert sorted(store.root.rglob("*")) == before


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX], ids=["read", "built"])
def test_what_somebody_uses_is_found_out_when_deciding(store, history, kind):
    with hold(store, "old", kind):
        choices = choose(store)
        assert told(choices)[f"images/{key_of('old')}"] == ("keep", "in use")
        prune.carry_out(choices, store)
    assert left(store) == {"base", "one", "old", "new"}


def test_what_somebody_begins_to_use_stays_with_what_it_stands_on(store, history):
    choices = choose(store)
    with hold(store, "old", fcntl.LOCK_SH):
        done = told(prune.carry_out(choices, store))
    assert done[f"images/{key_of('old')}"] == ("keep", "in use")
    action, reason = done[f"checkpoints/{key_of('one')}"]
    assert (action, reason) == ("keep", f"image {key_of('old')[:12]} stands on it")
    assert left(store) == {"base", "one", "old", "new"}


def test_what_was_used_between_deciding_and_doing_stays(store, history):
    choices = choose(store)
    with store.locked(key_of("old"), shared=True):
        pass
    prune.carry_out(choices, store)
    assert "old" in left(store)


def test_what_came_to_stand_on_something_meanwhile_is_seen(store, put, history):
    choices = choose(store)
    put("late", "base", checkpoint="one", day=5)
    done = told(prune.carry_out(choices, store))
    assert done[f"checkpoints/{key_of('one')}"][0] == "keep"
    assert left(store) == {"base", "one", "new", "late"}


def test_trying_to_lock_is_no_use(store, history):
    with store.try_locked(key_of("old")) as held:
        assert held
    assert store.last_locked(key_of("old")) == 0
    with store.locked(key_of("old")):
        pass
    assert store.last_locked(key_of("old")) > 0


def test_using_an_image_is_a_use(store, history):
    with store.using(store.find(key_of("old"))) as held:
        assert held.key == key_of("old")
        assert store.is_locked(key_of("old"))
    used = {each.key: each.used > each.created for each in survey(store)}
    assert [key for key, later in used.items() if later] == [key_of("old")]


def test_what_stands_alone_is_removed(store, history):
    old = {
        "quarantine/20260101T000000-x/key/disk.qcow2": "quarantine",
        "logs/20260101T000000-final/ansible.log": "logs",
        "failed/one-final/disk.qcow2": "failed",
        f"verdicts/{key_of('gone')}/checks.json": "verdicts",
        f"images/.staging-{_unused_pid()}-x/disk.qcow2": "staging",
    }
    for name in old:
        age(write(store.root / name), days=40)
    for name in list(old):
        write(store.root / name.replace("20260101", "20990101").replace("one-", "two-"))
    age(write(store.root / "logs/cache-apt.log"), days=40)
    done = prune.carry_out(choose(store, keep=9), store)
    assert {each.entry.kind for each in done if each.action == "remove"} == set(old.values())
    for name in old:
        assert not (store.root / name).exists()
    assert (store.root / "quarantine/20990101T000000-x").exists()
    assert (store.root / "logs/20990101T000000-final").exists()
    assert (store.root / "failed/two-final").exists()
    assert (store.root / "logs/cache-apt.log").exists(), "a server writes into it"
    assert not list((store.root / "images").glob(".*"))


def test_a_staging_folder_that_is_held_stays(store):
    folder = store.root / "images" / f".staging-{_unused_pid()}-x"
    folder.mkdir(parents=True)
    with owned(folder):
        [choice] = prune.carry_out(choose(store), store)
        assert (choice.action, choice.reason) == ("keep", "in use")
    folder.mkdir()
    choices = choose(store)
    with owned(folder):
        [choice] = prune.carry_out(choices, store)
        assert (choice.action, choice.reason) == ("keep", "in use")


def test_what_a_killed_publish_left_is_removed(store, tmp_path):
    releases = tmp_path / "dist"
    left, held = (releases / f".staging-{_unused_pid()}-{name}" for name in "ab")
    for folder in (left, held, releases / "a-release"):
        write(folder / "disk.raw")
    with owned(held):
        choices = decide(survey(store, releases), Rules(now=time.time(), current={}, keep=1))
        done = prune.carry_out(choices, store)
    assert [(each.entry.place, each.action) for each in done] == [
        (str(left), "remove"),
        (str(held), "keep"),
    ]
    assert not left.exists()
    assert (releases / "a-release/disk.raw").exists()


def test_a_failed_disk_somebody_looks_at_stays(store):
    age(write(store.root / "failed/one-final/disk.qcow2"), days=40)
    choices = choose(store)
    assert [each.action for each in choices] == ["remove"]
    with store.locked("failed-one-final", shared=True):
        [choice] = prune.carry_out(choices, store)
    assert choice.reason == "in use"


def test_a_failed_disk_says_what_it_stands_on(store, history):
    name = backing_name(f"checkpoints/{key_of('one')}").encode()
    header = struct.pack(">4sIQI", b"QFI\xfb", 3, 104, len(name)).ljust(104, b"\0")
    path = write(store.root / "failed/one-final/disk.qcow2")
    path.write_bytes(header + name)
    [failed] = [each for each in survey(store) if each.kind == "failed"]
    assert failed.below == f"checkpoints/{key_of('one')}"
    prune.carry_out(choose(store), store)
    assert left(store) == {"base", "one", "new"}


def test_what_cannot_be_trusted_is_evidence(store, history):
    folder = store.find(key_of("new")).folder
    (folder / "record.json").unlink()
    [broken] = [each for each in survey(store) if each.kind == "broken"]
    assert "cannot be read" in broken.broken
    aged = replace(broken, used=broken.used + DAY)
    choices = decide([aged], Rules(now=aged.used + 31 * DAY))
    prune.carry_out(choices, store)
    assert not folder.exists()


def test_what_may_not_be_removed_is_told(store, history):
    class Refusing(Store):
        def remove(self, place: str) -> None:
            raise PermissionError(1, "Operation not permitted")

    done = prune.carry_out(choose(store), Refusing(store.root))
    assert {each.reason for each in done} >= {"it cannot be removed: Operation not permitted"}
    assert "old" in left(store)


# --- what it takes --------------------------------------------------------------------------------


def test_holes_take_nothing(tmp_path):
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(1 << 30)
    assert own_bytes(tmp_path) < MIB
    (tmp_path / "full").write_bytes(bytes(range(256)) * 8192)
    assert own_bytes(tmp_path) >= 2 * MIB
    assert own_bytes(tmp_path / "nosuch") == 0


def test_a_share_counts_what_is_current_and_what_is_old(store, history):
    found = {each.stage: each for each in shares(survey(store), {f"images/{key_of('new')}"})}
    assert list(found) == ["base", "final"]
    assert found["base"].old.count == 0, "the current image stands on it"
    assert (found["final"].images.count, found["final"].checkpoints.count) == (2, 1)
    assert found["final"].old.count == 2
    assert [each.key for each in found["final"].current] == [key_of("new")]


def test_the_document_tells_own_bytes_and_those_of_the_chain(store, history):
    entries = survey(store)
    document = to_json(entries, set(), known=True, root=store.root)
    by_key = {each["key"]: each for each in document["entries"]}
    old, one, base = (by_key[key_of(name)] for name in ("old", "one", "base"))
    assert old["chain_bytes"] == one["bytes"] + base["bytes"]
    assert base["chain_bytes"] == 0
    assert document["total_bytes"] == sum(each.bytes for each in entries)
    assert document["quarantine"] == {"count": 0, "bytes": 0}
    assert document["free_bytes"] > 0


def test_what_was_used_last_is_known_by_its_documents(store):
    source, stage = {"kind": "source", "a": 1}, {"kind": "stage"}
    role = {"kind": "role"}
    store.remember("one", "base", [source, stage, role])
    assert made_last(store) == {
        f"images/{digest_document(source)}",
        f"images/{digest_document(role)}",
    }


def hold(store: Store, name: str, kind: int):
    """Hold a lock by another descriptor, as another process does."""

    class Held:
        def __enter__(self):
            path = store.root / "locks" / f"{key_of(name)}.lock"
            path.parent.mkdir(exist_ok=True)
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
            fcntl.flock(self.descriptor, kind)

        def __exit__(self, *_):
            os.close(self.descriptor)

    return Held()


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("something")
    return path


def age(path: Path, *, days: int) -> None:
    """Make a file, and the folders up to the kind's, look as old as that."""
    then = time.time() - days * DAY
    for each in (path, *list(path.parents)[:2]):
        os.utime(each, (then, then))


def _unused_pid() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text())
