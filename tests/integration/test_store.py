"""The store with real disks: chains of overlays that move, and copies that are found out."""

import shutil

import pytest

from builder import disks, process
from builder.digest import digest_file
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK, Store

pytestmark = pytest.mark.integration

MIB = 1 << 20


@pytest.fixture
def store(tmp_path, require_program) -> Store:
    """A store with an image ``a`` of zeros, and ``b`` on it that has an ``x`` in the beginning."""
    require_program("qemu-img")
    require_program("qemu-io")
    store = Store(tmp_path / "var")
    with store.staging() as staged:
        process.run(["qemu-img", "create", "-q", "-f", "qcow2", staged / DISK, str(MIB)])
        commit(store, staged, "a", None)
    with store.staging() as staged:
        disks.make_overlay(f"../{'a' * 64}/{DISK}", staged / DISK)
        process.run(["qemu-io", "-c", "write -P 120 0 512", staged / DISK])
        commit(store, staged, "b", "a")
    return store


def commit(store, staged, key, parent):
    disk = staged / DISK
    record = BuildRecord(
        key=key * 64,
        variant="one",
        stage="base",
        created="2026-11-20T10:00:00Z",
        seconds=1.0,
        documents=(),
        parent=parent and parent * 64,
        disk=DiskRecord(digest_file(disk), disk.stat().st_size),
    )
    store.commit(staged, record)


def content(store: Store, key: str, raw) -> bytes:
    process.run(["qemu-img", "convert", "-O", "raw", store.verified(key * 64).disk, raw])
    return raw.read_bytes()


def test_an_overlay_finds_its_parent_after_the_rename(store, tmp_path):
    assert content(store, "b", tmp_path / "raw") == b"x" * 512 + bytes(MIB - 512)


def test_a_moved_store_is_whole(store, tmp_path):
    moved = shutil.move(store.root, tmp_path / "elsewhere")
    assert content(Store(moved), "b", tmp_path / "raw")[:512] == b"x" * 512


def test_a_copied_store_is_whole(store, tmp_path):
    shutil.copytree(store.root, tmp_path / "copy")
    shutil.rmtree(store.root)
    assert content(Store(tmp_path / "copy"), "b", tmp_path / "raw")[:512] == b"x" * 512


def test_reading_an_image_does_not_change_it(store, tmp_path):
    before = digest_file(store.find("a" * 64).disk)
    overlay = tmp_path / "overlay.qcow2"
    disks.make_overlay(store.find("b" * 64).disk, overlay)
    process.run(["qemu-io", "-c", "write -P 121 0 512", overlay])
    disks.check(overlay)
    assert digest_file(store.find("a" * 64).disk) == before
    assert content(store, "b", tmp_path / "raw")[:512] == b"x" * 512
