"""Sealing the disk of a machine that is off: what goes, what stays, what its free blocks hold."""

import re
from pathlib import Path

import pytest

from builder import disks, process, sealing
from builder.errors import CommandError
from builder.partitions import RootFileSystem, root_partition

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
BLOCK = 4096
GONE = (
    "etc/ssh/ssh_host_ed25519_key",
    "root/.bash_history",
    "var/lib/systemd/random-seed",
    "var/log/journal/0123/system.journal",
    "var/log/wtmp",
    "var/tmp/systemd-private-0123-x/tmp/left",
)
SECRET = b"a secret that is told to nobody "


@pytest.fixture(autouse=True)
def _needs(require_root, require_program):
    require_root()
    for name in ("dumpe2fs", "e2fsck", "fstrim", "mkfs.ext4", "qemu-storage-daemon", "unshare"):
        require_program(name)


@pytest.fixture
def host(tmp_path):
    """A folder of this host, to which links in the image lead."""
    folder = tmp_path / "host"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    return folder


@pytest.fixture
def disk(tmp_path, host, raw_disk):
    """A closed disk: what a machine leaves when it is stopped, and files between files."""
    tree = tmp_path / "tree"
    for name in (*GONE, "etc/fstab", "root/.profile", "srv/build/left"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tree / "var/crash").symlink_to(host)
    # Files of one block each, side by side: clusters of the QCOW2 have some of both kinds.
    for number in range(200):
        folder = tree / ("var/crashes" if number % 2 else "srv/kept")
        folder.mkdir(parents=True, exist_ok=True)
        text = SECRET if number % 2 else b"this may be read by everybody.. "
        (folder / f"{number:03}").write_bytes(text * (BLOCK // len(text)))
    raw, made = raw_disk("raw", tree), tmp_path / "disk.qcow2"
    disks.import_raw(raw, made)
    raw.unlink()
    return made


def sealed(disk, *patterns):
    """Seal it; return the root file system that it has then, and what was said."""
    folder = disk.parent
    sealing.seal(disk, ROOT, patterns, work=folder / "work", logs=folder / "logs")
    assert not (folder / "work").exists()
    disks.check(disk)
    disks.unpack(disk, folder / "seen.raw")
    return RootFileSystem.find(folder / "seen.raw"), (folder / "logs/seal.log").read_text()


def test_what_a_stopping_machine_wrote_is_removed(disk):
    root, said = sealed(disk)
    assert [name for name in GONE if root.read(f"/{name}")] == []
    assert root.read("/etc/machine-id") == ""
    assert "machine-id" in root.names("/etc")
    assert "/var/log/wtmp" in said.splitlines()
    assert root.complaints() == ""


def test_all_else_stays(disk):
    root, _ = sealed(disk)
    assert root.read("/etc/fstab") == "etc/fstab"
    assert root.read("/srv/build/left") == "srv/build/left"
    assert len(root.names("/var/crashes")) == 100


def test_patterns_name_more(disk):
    root, said = sealed(disk, "/srv/build")
    assert root.names("/srv") == ["kept"]
    assert "/srv/build" in said.splitlines()


def test_links_do_not_lead_to_this_host(disk, host):
    root, _ = sealed(disk, "/var/crash/*")
    assert (host / "mine").read_text() == "mine"
    assert "crash" in root.names("/var")


def test_free_blocks_hold_nothing(disk):
    assert SECRET in unpacked(disk), "the disk is none that could tell"
    root, said = sealed(disk, "/var/crashes/*")
    seen = root.raw.read_bytes()
    assert SECRET not in seen
    assert seen.count(b"this may be read by everybody") >= 100
    assert not any(seen[first:last].strip(b"\0") for first, last in root.free())
    # fstrim gives back whole clusters; what shares one with a file is ours to clear.
    assert int(re.findall(r"(\d+) bytes in free blocks", said)[0]) > 0


def test_without_root_free_blocks_hold_nothing_either(disk, tmp_path):
    raw = tmp_path / "spoiled.raw"
    disks.unpack(disk, raw)
    start, _ = root_partition(raw)
    lines = [f"rm /var/crashes/{number:03}" for number in range(1, 200, 2)]
    process.run(["debugfs", "-w", f"{raw}?offset={start}"], stdin="\n".join([*lines, "quit\n"]))
    disks.import_raw(raw, disk)
    assert SECRET in unpacked(disk)
    sealing.clear(disk, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    seen = unpacked(disk)
    assert SECRET not in seen
    assert seen.count(b"this may be read by everybody") >= 100
    disks.check(disk)


def test_another_file_system_is_left_alone(disk, tmp_path):
    raw = tmp_path / "spoiled.raw"
    disks.unpack(disk, raw)
    start, _ = root_partition(raw)
    with raw.open("r+b") as file:
        file.seek(start)
        file.write(bytes(BLOCK))
    disks.import_raw(raw, disk)
    sealing.seal(disk, ROOT, (), work=tmp_path / "work", logs=tmp_path / "logs")
    assert "none that can be sealed" in (tmp_path / "logs/seal.log").read_text()
    sealing.clear(disk, tmp_path / "work")


def test_a_second_time_there_is_nothing_to_do(disk):
    sealed(disk)
    assert "nothing was left to remove" in sealed(disk)[1]


def test_a_program_that_fails_is_told(disk, tmp_path):
    program = tmp_path / "ansible/roles/seal/files/seal.py"
    program.parent.mkdir(parents=True)
    program.write_text("raise SystemExit('cannot seal this')\n")
    with pytest.raises(CommandError, match="cannot seal this"):
        sealing.seal(disk, tmp_path, (), work=tmp_path / "work", logs=tmp_path / "logs")
    assert str(tmp_path) not in process.run(["cat", "/proc/mounts"]).stdout
    disks.check(disk)


def test_a_file_system_that_is_not_clean_is_told(disk, tmp_path):
    raw = tmp_path / "spoiled.raw"
    disks.unpack(disk, raw)
    start, _ = root_partition(raw)
    request = "set_inode_field /etc/fstab links_count 7"
    process.run(["debugfs", "-w", "-R", request, f"{raw}?offset={start}"])
    disks.import_raw(raw, disk)
    with pytest.raises(CommandError, match="not clean"):
        sealed(disk)


def test_without_the_program_it_says_so(tmp_path):
    assert "seal.py" in (sealing.obstacle(tmp_path) or "")
    assert sealing.obstacle(ROOT) is None


def unpacked(disk) -> bytes:
    disks.unpack(disk, disk.with_suffix(".unpacked"))
    return disk.with_suffix(".unpacked").read_bytes()
