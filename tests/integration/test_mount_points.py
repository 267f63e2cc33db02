"""What is mounted below a root: the image's own /boot, by its fstab or by the GPT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from builder import process
from builder.errors import CommandError
from builder.mount_points import BOOT, missing, mount_points
from builder.partitions import PartitionTable

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
# What a stage does: it installs a kernel; and what holds a checkpoint, tried from outside.
INSTALLER = """
import contextlib, errno, fcntl, json, os, sys
from pathlib import Path
from builder import in_guest
from builder.rawdisk import mounted

def held(place):
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, in_guest.FIFREEZE, 0)
        fcntl.ioctl(descriptor, in_guest.FITHAW, 0)
    except OSError as error:
        return error.errno == errno.EBUSY
    finally:
        os.close(descriptor)
    return False

class Host:
    def __init__(self, root):
        self.root = root
    def readline(self):
        said["held"] = [held(self.root), held(self.root / "boot")]
        return "go on"

said = {}
with mounted(Path(sys.argv[1]), Path(sys.argv[2])) as root:
    said["found"] = sorted(path.name for path in (root / "boot").iterdir())
    (root / "boot/vmlinuz-2").write_text("another kernel")
    sys.stdin, sys.stdout, out = Host(root), sys.stderr, sys.stdout
    in_guest.freeze(root, {"public_key": "none", "patience": 20})
    said["after"] = [held(root), held(root / "boot")]
    print(json.dumps(said), file=out)
"""


@pytest.fixture(autouse=True)
def _programs(require_program):
    for name in ("sfdisk", "mkfs.ext4", "blkid", "debugfs"):
        require_program(name)


def root_of(tmp_path):
    """The root that the fixture filled the disk with, as a folder."""
    return tmp_path / "tree"


@pytest.mark.parametrize(
    "what",
    ["LABEL=BOOT", 'LABEL="BOOT"', "UUID", "PARTLABEL=boot", "PARTUUID", "/dev/disk/by-label/BOOT"],
)
def test_boot_is_what_the_fstab_names(what, cloud_disk, tmp_path):
    raw = cloud_disk("")
    part = PartitionTable.read(raw).partitions[2]
    uuid = process.run(["blkid", "--probe", "--offset", str(6 * MIB), "-s", "UUID", "-o", "value",
                        raw]).stdout.strip()  # fmt: skip
    named = {"UUID": f"UUID={uuid}", "PARTUUID": f"PARTUUID={part.uuid.lower()}"}.get(what, what)
    fstab = f"# a comment\nLABEL=cloudimg-rootfs / ext4 discard 0 1\n{named}\t/boot ext4 a 0 2\n"
    (root_of(tmp_path) / "etc/fstab").write_text(fstab)
    (found,) = mount_points(raw, root_of(tmp_path))
    assert (found.path, found.kind, found.start, found.size) == (BOOT, "ext4", 6 * MIB, 16 * MIB)
    assert missing(raw, root_of(tmp_path)) is None


def test_without_a_word_of_the_fstab_an_empty_boot_is_that_of_the_gpt(cloud_disk, tmp_path):
    raw = cloud_disk("")
    (found,) = mount_points(raw, root_of(tmp_path))
    assert (found.path, found.start) == (BOOT, 6 * MIB)
    (root_of(tmp_path) / "boot/vmlinuz").touch()
    assert mount_points(raw, root_of(tmp_path)) == []


def test_a_disk_with_a_root_alone_has_nothing_below_it(raw_disk, tmp_path):
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/fstab").write_text("LABEL=vaultbuild-root / ext4 errors=remount-ro 0 1\n")
    raw = raw_disk("one.raw")
    assert mount_points(raw, tmp_path / "root") == []
    assert missing(raw, tmp_path / "root") is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/dev/vda2 /boot ext4 defaults 0 2", "mounts /boot from /dev/vda2, which is not on the"),
        (
            "LABEL=BOOT /var ext4 defaults 0 2",
            "mounts /var from LABEL=BOOT, and a container mounts",
        ),
    ],
)
def test_what_a_container_would_be_without_is_told(line, says, cloud_disk, tmp_path):
    raw = cloud_disk(f"{line}\n")
    assert says in missing(raw, root_of(tmp_path))


@pytest.mark.parametrize("options", ["noauto", "defaults,nofail"])
def test_what_need_not_be_there_is_not_missed(options, cloud_disk, tmp_path):
    raw = cloud_disk(f"/dev/vda2 /boot ext4 {options} 0 2\nserver:/home /home nfs _netdev 0 0\n")
    assert missing(raw, root_of(tmp_path)) is None


def test_a_kernel_that_is_installed_is_on_the_partition_of_boot(
    cloud_disk, tmp_path, require_root, require_program
):
    require_root()
    require_program("unshare")
    raw = cloud_disk()
    work = tmp_path / "work"
    work.mkdir()
    said = run(raw, work)
    assert said["found"] == ["lost+found", "vmlinuz"]
    assert said["held"] == [True, True], "a checkpoint holds both"
    assert said["after"] == [False, False], "and lets both go"
    on_boot = process.run(["debugfs", "-R", "ls -p /", f"{raw}?offset={6 * MIB}"]).stdout
    assert "/vmlinuz-2/" in on_boot
    below = process.run(["debugfs", "-R", "ls -p /boot", f"{raw}?offset={22 * MIB}"]).stdout
    assert "vmlinuz" not in below


def test_a_mount_point_that_leads_out_of_the_image_is_refused(
    cloud_disk, tmp_path, require_root, require_program
):
    require_root()
    require_program("unshare")
    raw = cloud_disk()
    root = f"{raw}?offset={22 * MIB}"
    for request in ("rmdir /boot", f"symlink /boot {tmp_path / 'outside'}"):
        process.run(["debugfs", "-w", "-R", request, root])
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(CommandError, match="leads out of the image"):
        run(raw, work)
    assert not (tmp_path / "outside").exists()


def run(raw, work):
    argv = ["unshare", "--mount", sys.executable, "-c", INSTALLER, raw, work]
    return json.loads(process.run(argv, env={"PYTHONPATH": str(ROOT)}).stdout)
