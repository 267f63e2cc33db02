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


def test_an_overlay_may_call_its_parent_by_another_name(base, tmp_path):
    overlay = tmp_path / "overlay.qcow2"
    disks.make_overlay(base, overlay)
    write(overlay, "z", 0, MIB)
    disks.name_backing(overlay, "base/disk.qcow2")
    assert disks.info(overlay).backing == "base/disk.qcow2"
    assert read(overlay, tmp_path)[: MIB + 1] == b"z" * MIB + b"b"


@pytest.fixture
def chain(base, tmp_path):
    """Three layers on ``base``, each with a mebibyte of its own."""
    below = base
    for number, letter in enumerate("xyz"):
        layer = tmp_path / f"layer-{number}.qcow2"
        disks.make_overlay(below, layer)
        write(layer, letter, number * MIB, MIB)
        below = layer
    return below


def test_a_disk_knows_how_deep_it_is(chain, base):
    assert disks.depth(chain, below=base) == 3
    assert disks.depth(chain, below=chain) == 0


def test_merged_layers_have_the_same_content_and_need_only_the_parent(chain, base, tmp_path):
    before = read(chain, tmp_path)
    disks.merge(chain, str(base))
    for below in ("layer-0.qcow2", "layer-1.qcow2"):
        (tmp_path / below).unlink()
    assert disks.depth(chain, below=base) == 1
    assert read(chain, tmp_path) == before
    assert before.startswith(b"x" * MIB + b"y" * MIB + b"z" * MIB)


def test_a_layer_may_be_made_before_what_it_stands_on(base, tmp_path):
    layer = tmp_path / "layer.qcow2"
    disks.make_layer("elsewhere/disk.qcow2", layer, size=4 * MIB)
    assert disks.info(layer).virtual_bytes == 4 * MIB
    assert disks.info(layer).backing == "elsewhere/disk.qcow2"


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
