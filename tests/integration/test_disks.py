"""What qemu-img does for us, with real disks."""

import pytest

from builder import disks, process
from builder.digest import digest_file
from builder.errors import CommandError, StoreError

pytestmark = pytest.mark.integration

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _programs(require_program):
    require_program("qemu-img")
    require_program("qemu-io")


@pytest.fixture
def raw(tmp_path):
    """A raw disk of four MiB: a letter for each MiB, and nothing in the last one."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"a" * MIB + b"b" * MIB + b"c" * MIB + bytes(MIB))
    return path


@pytest.fixture
def base(tmp_path, raw):
    folder = tmp_path / "base"
    folder.mkdir()
    disks.import_raw(raw, folder / "disk.qcow2")
    return folder / "disk.qcow2"


def read(disk, tmp_path) -> bytes:
    process.run(["qemu-img", "convert", "-O", "raw", disk, tmp_path / "read.raw"])
    return (tmp_path / "read.raw").read_bytes()


def write(disk, letter: str, start: int, length: int) -> None:
    process.run(["qemu-io", "-c", f"write -P {ord(letter)} {start} {length}", disk])


def test_a_raw_disk_is_imported_without_its_zeros(base, raw, tmp_path):
    found = disks.info(base)
    assert (found.format, found.virtual_bytes, found.backing) == ("qcow2", 4 * MIB, None)
    assert found.file_bytes < 4 * MIB
    assert read(base, tmp_path) == raw.read_bytes()


def test_an_image_of_any_format_is_imported_and_grown(raw, tmp_path):
    vmdk = tmp_path / "image.vmdk"
    process.run(["qemu-img", "convert", "-O", "vmdk", raw, vmdk])
    disks.import_image(vmdk, tmp_path / "disk.qcow2", size=8 * MIB)
    found = disks.info(tmp_path / "disk.qcow2")
    assert (found.format, found.virtual_bytes) == ("qcow2", 8 * MIB)
    assert read(tmp_path / "disk.qcow2", tmp_path)[: 4 * MIB] == raw.read_bytes()


def test_an_image_is_never_shrunk(raw, tmp_path):
    disks.import_image(raw, tmp_path / "disk.qcow2", size=MIB)
    assert disks.info(tmp_path / "disk.qcow2").virtual_bytes == 4 * MIB


def test_an_overlay_reads_from_its_parent_and_keeps_it_as_it_is(base, raw, tmp_path):
    before = digest_file(base)
    (tmp_path / "over").mkdir()
    overlay = tmp_path / "over/disk.qcow2"
    disks.make_overlay("../base/disk.qcow2", overlay)
    assert disks.info(overlay).backing == "../base/disk.qcow2"
    write(overlay, "z", 0, MIB)
    assert read(overlay, tmp_path) == b"z" * MIB + raw.read_bytes()[MIB:]
    assert digest_file(base) == before


def test_an_overlay_needs_its_parent(tmp_path):
    with pytest.raises(CommandError, match="qemu-img failed"):
        disks.make_overlay("nowhere.qcow2", tmp_path / "disk.qcow2")


def test_an_overlay_that_moves_finds_its_parent(base, tmp_path):
    overlay = tmp_path / "disk.qcow2"
    disks.make_overlay(base, overlay)
    write(overlay, "z", 0, MIB)
    folder = tmp_path / "deep/er"
    folder.mkdir(parents=True)
    disks.rebase(overlay, "../../base/disk.qcow2", moved_to=folder / "disk.qcow2")
    assert not overlay.exists()
    assert disks.info(folder / "disk.qcow2").backing == "../../base/disk.qcow2"
    assert read(folder / "disk.qcow2", tmp_path)[: MIB + 1] == b"z" * MIB + b"b"


def test_a_sound_disk_passes(base):
    disks.check(base)


def test_a_disk_that_lost_its_end_does_not(base):
    with base.open("r+b") as file:
        file.truncate(base.stat().st_size // 2)
    with pytest.raises(StoreError, match="damaged"):
        disks.check(base)


@pytest.mark.parametrize("compression", ["zstd", "zlib"])
def test_a_flat_copy_has_everything_and_stands_alone(base, tmp_path, compression):
    overlay = tmp_path / "overlay.qcow2"
    disks.make_overlay(base, overlay)
    write(overlay, "z", 0, MIB)
    flat = tmp_path / "flat.qcow2"
    disks.flatten(overlay, flat, compression=compression)
    expected = read(overlay, tmp_path)
    overlay.unlink()
    base.unlink()
    assert disks.info(flat).backing is None
    assert read(flat, tmp_path) == expected
    disks.check(flat)


def test_a_flat_copy_is_the_same_every_time(base, tmp_path):
    digests = set()
    for number in range(3):
        disks.flatten(base, tmp_path / f"{number}.qcow2", compression="zstd")
        digests.add(digest_file(tmp_path / f"{number}.qcow2"))
    assert len(digests) == 1
