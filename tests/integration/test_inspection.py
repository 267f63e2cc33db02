"""What a published disk is asked before it is booted, with real disks, sound and broken."""

import subprocess
from types import SimpleNamespace

import pytest

from builder import disks, process
from builder.partitions import RootFileSystem, root_partition
from builder.release.hygiene import READ, hygiene_results
from builder.release.inspection import inspect

pytestmark = pytest.mark.integration

MIB = 1 << 20
STATUS = """\
Package: hello
Status: install ok installed
Architecture: amd64
Version: 2.10-5

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
"""
PACKAGES = {"dpkg": {"hello": "2.10-5"}, "python default": {"Typing_Extensions": "4.15.0"}}
VENV = "opt/vaultbuild/venvs/default/lib/python3.13/site-packages"
FILE = ["disk::stands alone", "disk::has the size of its image", "disk::is compressed"]
FILE += ["disk::holds nothing else"]
ROOT = ["root::is clean", "root::has the packages of the manifest"]


@pytest.fixture(autouse=True)
def _programs(require_program):
    for name in ("debugfs", "e2fsck", "mkfs.ext4", "qemu-img", "sfdisk"):
        require_program(name)


@pytest.fixture
def tree(tmp_path):
    """What is in the root file system."""
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(STATUS)
    (root / VENV / "typing_extensions-4.15.0.dist-info").mkdir(parents=True)
    (root / VENV / "typing_extensions.py").write_text("")
    return root


@pytest.fixture
def disk(tmp_path, tree):
    """Make a raw disk of the tree, and of that an image; ``spoil`` is called with the raw disk."""

    def make(spoil=lambda raw: None) -> SimpleNamespace:
        raw, made_of = tmp_path / "disk.raw", tmp_path / "image.qcow2"
        with raw.open("wb") as file:
            file.truncate(64 * MIB)
        process.run(["sfdisk", "--quiet", raw], stdin="label: gpt\nstart=1M, size=48M, type=L\n")
        start, size = root_partition(raw)
        options = ["-q", "-F", "-E", f"offset={start}", "-d", tree]
        process.run(["mkfs.ext4", *options, raw, str(size // 1024)])
        spoil(raw)
        disks.import_raw(raw, made_of)
        flat = tmp_path / "flat.qcow2"
        disks.flatten(made_of, flat, compression="zstd")
        return SimpleNamespace(flat=flat, made_of=made_of, raw=tmp_path / "seen.raw")

    return make


def asked(made, packages=PACKAGES, *, flat=None, wanted="zstd") -> dict[str, str]:
    """What is wrong, by check; empty where the check passed."""
    flat = flat or made.flat
    disks.unpack(flat, made.raw)
    seen = inspect(flat, made.raw, packages, made_of=made.made_of, wanted=wanted)
    assert {one.outcome for one in seen if one.message} <= {"failed"}
    return {one.name: one.message for one in seen}


def test_a_sound_disk_passes(disk):
    assert asked(disk()) == dict.fromkeys(FILE + ROOT, "")


def test_an_overlay_is_no_release(disk, tmp_path):
    made = disk()
    overlay = tmp_path / "overlay.qcow2"
    disks.make_overlay(made.flat, overlay)
    said = asked(made, flat=overlay)
    assert str(made.flat) in said["disk::stands alone"]
    assert said["disk::is compressed"]


def test_a_snapshot_inside_is_found(disk):
    made = disk()
    process.run(["qemu-img", "snapshot", "-c", "before", made.flat])
    assert "1 snapshots" in asked(made)["disk::holds nothing else"]


def test_another_size_is_found(disk):
    made = disk()
    process.run(["qemu-img", "resize", "-q", made.flat, "80M"])
    assert asked(made)["disk::has the size of its image"]


def test_what_is_not_compressed_is_found(disk, tmp_path):
    made = disk()
    plain = tmp_path / "plain.qcow2"
    disks.import_image(made.made_of, plain, size=0)
    assert asked(made, flat=plain)["disk::is compressed"]
    assert asked(made, wanted="zlib")["disk::is compressed"]


def test_a_damaged_file_system_is_found(disk):
    def spoil(raw):
        start, _ = root_partition(raw)
        request = "set_inode_field /var/lib/dpkg/status links_count 7"
        subprocess.run(["debugfs", "-w", "-R", request, f"{raw}?offset={start}"], check=True)

    said = asked(disk(spoil))
    assert "ref count" in said["root::is clean"]
    assert said["root::has the packages of the manifest"] == ""


def test_a_file_system_of_another_kind_is_told(disk, tmp_path):
    def spoil(raw):
        start, _ = root_partition(raw)
        with raw.open("r+b") as file:
            file.seek(start)
            file.write(b"\0" * 4096)

    made = disk(spoil)
    said = asked(made)
    assert "nobody looked at its files" in said["root::is clean"]
    assert said.keys() == {*FILE, "root::is clean"}
    (only,) = hygiene_results(RootFileSystem.find(made.raw), tmp_path)
    assert (only.name, only.outcome) == (READ, "failed")


@pytest.mark.parametrize(
    ("packages", "told"),
    [
        ({**PACKAGES, "dpkg": {"hello": "2.10-6"}}, "not listed: dpkg: hello 2.10-5"),
        ({**PACKAGES, "dpkg": {"hello": "2.10-5", "gone": "1.0"}}, "not there: dpkg: gone 1.0"),
        ({"dpkg": PACKAGES["dpkg"]}, "not listed: python default: typing-extensions 4.15.0"),
        ({**PACKAGES, "python other": {"a": "1"}}, "not there: python other: a 1"),
    ],
)
def test_a_manifest_that_lists_something_else_is_found(disk, packages, told):
    assert told in asked(disk(), packages)["root::has the packages of the manifest"]


def test_a_disk_without_partitions_has_no_root(tmp_path):
    (tmp_path / "raw").write_bytes(bytes(MIB))
    assert RootFileSystem.find(tmp_path / "raw") is None


def test_files_are_read_as_they_are(disk):
    made = disk()
    disks.unpack(made.flat, made.raw)
    root = RootFileSystem.find(made.raw)
    assert root.read("/var/lib/dpkg/status") == STATUS
    assert root.read("/nothing") == ""
    assert root.names("/var/lib") == ["dpkg"]
    assert root.names("/nothing") == []
