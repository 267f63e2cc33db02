"""The store: what is found, what is trusted, and what is moved out of the way."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from builder.digest import digest_file
from builder.errors import StoreError
from builder.record import BuildRecord, DiskRecord
from builder.scratch import owned
from builder.store import DISK, Store


def key_of(name: str) -> str:
    return (name.encode().hex() * 64)[:64]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def put(store):
    """Commit an image, or with ``role`` a checkpoint; ``parent`` is the name of another.

    ``below`` is the disk that it was made on, if anybody wrote it down.
    """

    def commit(
        name: str,
        parent: str | None = None,
        content: bytes = b"disk",
        *,
        role: str | None = None,
        checkpoint: str | None = None,
        below: bytes | None = None,
        **options,
    ):
        with store.staging() as staged:
            disk = staged / DISK
            disk.write_bytes(content)
            record = BuildRecord(
                key=key_of(name),
                variant="one",
                stage=name,
                created="2026-11-20T10:00:00Z",
                seconds=1.0,
                documents=({"schema": 1, "kind": "stage"},),
                parent=key_of(parent) if parent else None,
                disk=DiskRecord(digest_file(disk), disk.stat().st_size),
                role=role,
                checkpoint=key_of(checkpoint) if checkpoint else None,
                below_sha256=hashlib.sha256(below).hexdigest() if below is not None else None,
            )
            return store.commit(staged, record, **options)

    return commit


def rewrite(disk: Path, content: bytes) -> None:
    disk.chmod(0o644)
    disk.write_bytes(content)


def quarantined(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "quarantine").glob("*/*"))


# --- commit and find ------------------------------------------------------------------------------


def test_an_empty_store_has_nothing(store):
    assert store.find(key_of("base")) is None
    assert list(store.all()) == []
    store.sweep()


def test_what_was_committed_is_found(store, put):
    image = put("base")
    found = store.find(key_of("base"))
    assert found == image
    assert found.disk.read_bytes() == b"disk"
    assert found.record.stage == "base"
    assert found.key == key_of("base")
    assert [each.key for each in store.all()] == [key_of("base")]


def test_an_image_cannot_be_written(put):
    assert put("base").disk.stat().st_mode & 0o222 == 0


def test_staging_goes_away(store):
    with store.staging() as staged:
        (staged / "work").mkdir()
        assert staged.parent == store.root / "images", "beside the images: one rename away"
    assert not staged.exists()


def test_staging_goes_away_when_a_build_fails(store):
    def fail() -> None:
        with store.staging() as staged:
            (staged / DISK).write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list((store.root / "images").iterdir()) == []


def test_a_staging_folder_is_no_image(store):
    with store.staging() as staged:
        (staged / DISK).write_bytes(b"half")
        assert list(store.all()) == []


def test_the_first_of_two_commits_stays(store, put):
    put("base", content=b"first")
    assert put("base", content=b"again").disk.read_bytes() == b"first"


# --- what cannot be trusted -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: rewrite(folder / DISK, b"dis"), "has 3 bytes, its record says 4"),
        (lambda folder: (folder / DISK).unlink(), "has 0 bytes"),
        (lambda folder: (folder / "record.json").unlink(), "record.json cannot be read"),
        (lambda folder: (folder / "record.json").write_text(""), "record.json cannot be read"),
        (lambda folder: (folder / "record.json").write_text("{}"), "its schema is None"),
        (lambda folder: (folder / "record.json").write_text('{"schema": 99}'), "its schema is 99"),
    ],
    ids=["short", "no disk", "no record", "empty record", "no schema", "newer schema"],
)
def test_a_damaged_image_counts_as_none_and_gives_way_to_a_build(
    store, put, caplog, damage, reason
):
    damage(put("base").folder)
    assert store.find(key_of("base")) is None
    assert reason in caplog.text
    assert quarantined(store) == [], "looking changes nothing"
    assert put("base").disk.exists()
    assert quarantined(store) == [key_of("base")]
    assert "quarantine" in caplog.text


def test_a_record_of_another_image_is_not_believed(store, put):
    image = put("base")
    document = json.loads((image.folder / "record.json").read_text())
    (image.folder / "record.json").write_text(json.dumps({**document, "key": key_of("other")}))
    assert store.find(key_of("base")) is None
    store.clear(key_of("base"))
    assert quarantined(store) == [key_of("base")]


def test_an_image_without_its_parent_is_no_disk(store, put, caplog):
    put("base")
    put("final", parent="base")
    (store.root / "images" / key_of("base")).rename(store.root / "elsewhere")
    assert store.find(key_of("final")) is None
    assert "what it stands on is gone" in caplog.text


def test_a_flipped_bit_is_seen_by_who_builds_on_it(tmp_path, put):
    put("base")
    put("final", parent="base", content=b"over")
    rewrite(tmp_path / "images" / key_of("base") / DISK, b"dist")
    store = Store(tmp_path)
    assert store.find(key_of("final")) is not None, "finding is cheap and reads no disk"
    with pytest.raises(StoreError, match="base was damaged after it was built") as caught:
        store.verified(key_of("final"))
    assert "run the command again" in caught.value.hint
    assert quarantined(store) == sorted([key_of("base"), key_of("final")])
    assert list(store.all()) == []


def test_a_sound_lineage_is_verified(tmp_path, put):
    put("base")
    put("final", parent="base", content=b"over")
    assert Store(tmp_path).verified(key_of("final")).record.stage == "final"


def test_what_is_not_there_cannot_be_verified(store):
    with pytest.raises(StoreError, match="not in the store"):
        store.verified(key_of("base"))


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture
def chain(put):
    """An image, two checkpoints on it, and the image that came of them."""
    put("base")
    put("one", parent="base", role="tuning", below=b"disk", content=b"tuned")
    put("two", parent="base", role="sealing", checkpoint="one", below=b"tuned", content=b"sealed")
    return put("final", parent="base", checkpoint="two", below=b"sealed", content=b"done")


def test_a_checkpoint_is_found_as_one_and_is_no_image(store, chain):
    found = store.checkpoint(key_of("two"))
    assert found.record.role == "sealing"
    assert found.backing == f"../../checkpoints/{key_of('two')}/{DISK}"
    assert store.find(key_of("two")) is None
    assert {image.record.stage for image in store.all()} == {"base", "final"}
    assert len(list(store.entries())) == 4


def test_an_image_is_verified_down_through_its_checkpoints(tmp_path, chain):
    assert Store(tmp_path).verified(chain.key)
    rewrite(tmp_path / "checkpoints" / key_of("one") / DISK, b"tuner")
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="checkpoint 6f6e656f6e65 of stage one was damaged"):
        store.verified(chain.key)
    assert quarantined(store) == sorted(key_of(name) for name in ("one", "two", "final"))
    assert [image.record.stage for image in store.entries()] == ["base"]


def test_a_new_parent_takes_the_checkpoints_along(store, put, chain, caplog):
    put("base", content=b"new", replace=True)
    assert [image.record.stage for image in store.entries()] == ["base"]
    assert "image 66696e616c66 of stage final goes too" in caplog.text


def test_nothing_is_committed_on_a_parent_that_was_replaced(store, put):
    put("base", content=b"first")
    with pytest.raises(StoreError, match="was replaced meanwhile") as caught:
        put("final", parent="base", below=b"other")
    assert "again" in caught.value.hint
    assert store.find(key_of("final")) is None


def test_an_overlay_on_other_bytes_is_found_out(tmp_path, put, chain):
    record = tmp_path / "checkpoints" / key_of("one") / "record.json"
    disk = record.with_name(DISK)
    rewrite(disk, b"TUNED")
    document = json.loads(record.read_text())
    document["disk"]["sha256"] = digest_file(disk)
    record.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="checkpoint 74776f74776f of stage two was damaged"):
        Store(tmp_path).verified(chain.key)


# --- replace and discard --------------------------------------------------------------------------


def test_discarding_takes_what_stands_on_it_along(store, put):
    put("base")
    put("drivers", parent="base")
    put("final", parent="drivers")
    put("other")
    store.discard(f"images/{key_of('base')}")
    assert [image.record.stage for image in store.all()] == ["other"]
    assert list((store.root / "images").glob(".*")) == []


def test_an_image_that_is_built_again_replaces_the_old_and_its_children(store, put):
    put("base")
    put("final", parent="base")
    assert put("base", content=b"new", replace=True).disk.read_bytes() == b"new"
    assert [image.record.stage for image in store.all()] == ["base"]
    assert quarantined(store) == []


def test_what_is_not_there_is_discarded_already(store, put):
    put("base")
    store.discard(f"images/{key_of('other')}")
    assert len(list(store.all())) == 1


def test_nothing_is_removed_that_something_stands_on(store, chain):
    with pytest.raises(StoreError, match="checkpoint 74776f74776f stands on checkpoint 6f6e656f6e"):
        store.remove(f"checkpoints/{key_of('one')}")
    assert store.standing_on(f"images/{key_of('base')}") == [f"checkpoints/{key_of('one')}"]
    for name in ("images/final", "checkpoints/two", "checkpoints/one", "images/base"):
        kind, _, stage = name.partition("/")
        store.remove(f"{kind}/{key_of(stage)}")
    assert list(store.entries()) == []
    assert list((store.root / "images").iterdir()) == []


def test_what_was_built_again_stands_on_what_it_stands_on_now(store, put, chain):
    one = f"checkpoints/{key_of('one')}"
    assert store.standing_on(one) == [f"checkpoints/{key_of('two')}"]
    put("two", parent="base", role="sealing", content=b"merged", replace=True)
    assert store.standing_on(one) == []


def test_what_is_used_is_held_and_must_be_there(store, put):
    image = put("base")
    with store.using(image) as held:
        assert held == image
        assert store.is_locked(image.key)
    assert not store.is_locked(image.key)
    store.remove(image.place)
    with pytest.raises(StoreError, match="is gone"), store.using(image):
        pass


def test_a_survey_tells_what_does_not_count(store, put, chain):
    (chain.folder / "record.json").unlink()
    found = dict(store.survey())
    assert "record.json cannot be read" in found.pop(chain.place)
    assert sorted(found) == sorted(each.place for each in store.entries())


# --- sweep ----------------------------------------------------------------------------------------


def test_staging_that_nobody_holds_is_swept(store):
    images = store.root / "images"
    dead = images / f".staging-{_unused_pid()}-abc"
    foreign = images / f".staging-{_unused_pid()}-def"
    fresh = images / f".staging-{os.getpid()}-ghi"
    for folder in (dead, foreign, fresh):
        folder.mkdir(parents=True)
        (folder / DISK).write_bytes(b"half")
    with owned(foreign), store.staging() as held:
        store.sweep()
        assert not dead.exists()
        assert foreign.exists(), "held by a process of another namespace, whatever its number"
        assert fresh.exists(), "made this moment, and not held yet"
        assert held.exists()


def _unused_pid() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text())


# --- what was built last --------------------------------------------------------------------------


def test_it_remembers_by_variant_and_stage(store):
    store.remember("one", "base", [{"kind": "stage", "files": {"a": "1"}}])
    store.remember("two", "base", [{"kind": "stage", "files": {"a": "2"}}])
    assert store.last("one", "base") == [{"kind": "stage", "files": {"a": "1"}}]
    assert store.last("two", "base") == [{"kind": "stage", "files": {"a": "2"}}]
    assert store.last("one", "final") is None


def test_all_memories_are_told(store):
    store.remember("one", "base", [{"kind": "stage"}])
    store.remember("two", "final", [{"kind": "role"}])
    (store.root / "latest/one/broken.json").write_text("{")
    assert list(store.remembered()) == [[{"kind": "stage"}], [{"kind": "role"}]]


def test_an_unreadable_memory_is_none(store):
    store.remember("one", "base", [{}])
    (store.root / "latest/one/base.json").write_text("{")
    assert store.last("one", "base") is None
