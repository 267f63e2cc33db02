"""The root of a cloud image takes up the disk; the image is made here, as Ubuntu lays it out."""

from __future__ import annotations

import re

import pytest

from builder import disks, process
from builder.partitions import PartitionTable, RootFileSystem
from builder.sources import cloud_image, growth

pytestmark = pytest.mark.integration

MIB = 1 << 20
SIZE = 512 * MIB
ROOT_FIRST = """\
label: gpt
start=22M, size=40M, type=L
start=62M, size=1M, type=U
"""


@pytest.fixture(autouse=True)
def _programs(require_program):
    for name in ("sfdisk", "mkfs.ext4", "resize2fs", "e2fsck", "debugfs", "qemu-img"):
        require_program(name)


def blocks(root):
    told = process.run(["dumpe2fs", "-h", root.name]).stdout
    count, size = (int(re.findall(rf"^{word}: +(\d+)$", told, re.MULTILINE)[0])
                   for word in ("Block count", "Block size"))  # fmt: skip
    return count * size


def test_partition_and_file_system_take_up_the_disk(cloud_disk, tmp_path):
    raw = cloud_disk()
    before = PartitionTable.read(raw)
    content = (tmp_path / "tree/data").read_bytes()
    assert growth.grow(raw, SIZE)
    after = PartitionTable.read(raw)
    assert raw.stat().st_size == SIZE
    assert after.root.start == before.root.start
    assert after.root.start + after.root.size > SIZE - MIB
    assert after.root.uuid == before.root.uuid
    assert [part for part in after.partitions if part != after.root] == [
        part for part in before.partitions if part != before.root
    ], "the other partitions, their types, names and ids are as they were"
    root = RootFileSystem.find(raw)
    assert root.complaints() == ""
    assert blocks(root) > after.root.size - MIB
    process.run(["debugfs", "-R", f"dump /data {tmp_path / 'out'}", root.name])
    assert (tmp_path / "out").read_bytes() == content


def test_boot_code_and_both_tables_are_whole(cloud_disk):
    raw = cloud_disk()
    growth.grow(raw, SIZE)
    with raw.open("rb") as file:
        assert file.read(9) == b"boot code"
        file.seek(SIZE - 512)
        assert file.read(8) == b"EFI PART", "the second table is at the end"
    assert "No errors detected" in process.run(["sfdisk", "--verify", raw]).stdout


def test_it_stays_sparse_and_leaves_nothing_beside_it(cloud_disk, tmp_path):
    raw = cloud_disk()
    there = set(tmp_path.iterdir())
    growth.grow(raw, 4 << 30)
    assert raw.stat().st_blocks * 512 < 128 * MIB
    assert set(tmp_path.iterdir()) == there


@pytest.mark.parametrize("layout", [ROOT_FIRST, "label: dos\nstart=22M, size=40M, type=83\n"])
def test_another_layout_is_left_as_it_is(layout, cloud_disk):
    raw = cloud_disk(layout=layout)
    before = raw.read_bytes()
    assert not growth.grow(raw, SIZE)
    assert raw.read_bytes() == before


def test_another_file_system_is_left_as_it_is(cloud_disk):
    raw = cloud_disk()
    with raw.open("r+b") as file:
        file.seek(22 * MIB)
        file.write(bytes(MIB))
    assert not growth.grow(raw, SIZE)
    assert raw.stat().st_size == 64 * MIB


def test_the_disk_of_a_cloud_image_has_the_room_that_was_asked_for(cloud_disk, tmp_path):
    disks.import_raw(cloud_disk(), tmp_path / "image.qcow2")
    disk = tmp_path / "disk.qcow2"
    cloud_image.make_disk(tmp_path / "image.qcow2", disk, size=SIZE)
    found = disks.info(disk)
    assert (found.format, found.virtual_bytes, found.backing) == ("qcow2", SIZE, None)
    disks.check(disk)
    assert not disk.with_suffix(".raw").exists()
    disks.unpack(disk, tmp_path / "back.raw")
    assert PartitionTable.read(tmp_path / "back.raw").root.size > SIZE - 24 * MIB
