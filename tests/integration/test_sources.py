"""Root disks: their layout, what they are bootstrapped from, and disks of cloud images."""

import json
import os
from pathlib import Path

import pytest

from builder import disks, process
from builder.errors import CommandError, HostError, VaultbuildError
from builder.pipeline import load_pipeline
from builder.sources import bootstrap, cloud_image, make_source, rootdisk
from builder.sources.nocloud import write_seed

pytestmark = pytest.mark.integration

MIB = 1 << 20
CMDLINE = "console=ttyS0"
# GRUB is the guest's own; here is no guest, and what it makes is taken as it is.
CHROOT = """\
#!/bin/sh
root=$1; shift
while [ "$1" != --output ]; do shift; done
head -c 65536 /dev/zero | tr '\\0' G > "$root$2"
"""


# --- the layout of a root disk --------------------------------------------------------------------


@pytest.fixture
def root(tmp_path, program, require_program) -> Path:
    """A root file system, as far as a disk needs one."""
    for name in ("sfdisk", "mkfs.ext4", "mkfs.vfat", "mmd", "mcopy"):
        require_program(name)
    program("chroot", CHROOT)
    folder = tmp_path / "root"
    for name in ("boot", "tmp", "etc", "usr/lib/grub/i386-pc"):
        (folder / name).mkdir(parents=True)
    (folder / "boot/vmlinuz-6.12").write_text("kernel")
    (folder / "boot/initrd.img-6.12").write_text("initrd")
    (folder / "etc/hostname").write_text("localhost\n")
    (folder / "usr/lib/grub/i386-pc/boot.img").write_bytes(b"B" * 512)
    return folder


@pytest.fixture
def disk(root, tmp_path) -> Path:
    place = tmp_path / "disk.raw"
    rootdisk.assemble(root, place, size=200 * MIB, cmdline=CMDLINE, identity="one")
    return place


def partitions(disk: Path) -> dict[str, dict]:
    table = json.loads(process.run(["sfdisk", "--json", disk]).stdout)["partitiontable"]
    assert (table["label"], table["sectorsize"]) == ("gpt", 512)
    return {part["name"]: part for part in table["partitions"]}


def start(part) -> int:
    return part["start"] * 512


def test_a_disk_has_a_partition_for_each_firmware_and_the_root(disk):
    found = partitions(disk)
    assert list(found) == ["bios", "esp", "root"]
    end = 0
    for part in found.values():
        assert start(part) % MIB == 0, "aligned"
        assert start(part) >= end, "and none lies over another"
        end = start(part) + part["size"] * 512
    assert end <= disk.stat().st_size == 200 * MIB


def test_partition_types_are_the_discoverable_ones(disk):
    found = {name: part["type"] for name, part in partitions(disk).items()}
    assert found == {
        "bios": "21686148-6449-6E6F-744E-656564454649",
        "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "root": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    }


def test_the_root_is_found_by_its_label_and_holds_the_tree(disk, tmp_path, require_program):
    part = partitions(disk)["root"]
    probe = ["blkid", "--probe", "--offset", str(start(part)), "--output", "export", disk]
    said = dict(line.split("=", 1) for line in process.run(probe).stdout.splitlines())
    assert (said["LABEL"], said["TYPE"]) == (rootdisk.ROOT_LABEL, "ext4")
    file = tmp_path / "root.ext4"
    file.write_bytes(disk.read_bytes()[start(part) : start(part) + part["size"] * 512])
    process.run(["e2fsck", "-f", "-n", file])
    shown = process.run([require_program("debugfs"), "-R", "cat /boot/grub/grub.cfg", file]).stdout
    assert f"linux /boot/vmlinuz-6.12 root=LABEL={rootdisk.ROOT_LABEL} ro {CMDLINE}" in shown


def test_grub_is_where_the_bios_starts_it(disk):
    content = disk.read_bytes()
    core = start(partitions(disk)["bios"])
    assert content[:0x5C] == b"B" * 0x5C, "GRUB's boot sector"
    assert int.from_bytes(content[0x5C:0x64], "little") * 512 == core
    assert content[core : core + 8] == b"G" * 8
    assert int.from_bytes(content[core + 0x1F4 : core + 0x1FC], "little") * 512 == core + 512
    assert content[446:450] != b"BBBB", "and the partition table is not part of it"


def test_the_esp_holds_what_uefi_starts(disk):
    place = f"{disk}@@{start(partitions(disk)['esp'])}"
    shown = process.run(["mtype", "-i", place, "::EFI/BOOT/BOOTX64.EFI"]).stdout
    assert shown == "G" * 65536


def test_identities_follow_the_content(root, disk, tmp_path):
    again, other = tmp_path / "again.raw", tmp_path / "other.raw"
    rootdisk.assemble(root, again, size=200 * MIB, cmdline=CMDLINE, identity="one")
    rootdisk.assemble(root, other, size=200 * MIB, cmdline=CMDLINE, identity="two")

    def identity(place: Path) -> str:
        return json.loads(process.run(["sfdisk", "--json", place]).stdout)["partitiontable"]["id"]

    assert identity(again) == identity(disk)
    assert identity(other) != identity(disk)


def test_nothing_of_the_making_stays_in_the_root(root, disk):
    assert list((root / "tmp").iterdir()) == []


def test_a_root_that_does_not_fit_is_a_matter_of_the_disk(root, tmp_path):
    (root / "large").write_bytes(os.urandom(120 * MIB))
    with pytest.raises(VaultbuildError, match="does not fit on a disk of 150 MiB") as caught:
        rootdisk.assemble(
            root, tmp_path / "disk.raw", size=150 * MIB, cmdline=CMDLINE, identity="one"
        )
    assert "resources.disk" in caught.value.hint


# --- packages -------------------------------------------------------------------------------------

SETTINGS = {
    "suite": "trixie",
    "components": ["main"],
    "mirrors": ["deb http://mirror.example/debian trixie main"],
    "packages": ["linux-image-amd64", "hello=1.0"],
    "hold": [],
    "cmdline": CMDLINE,
}


def make(tmp_path, **changes):
    bootstrap.make_disk(
        {**SETTINGS, **changes},
        tmp_path / "disk.raw",
        size=200 * MIB,
        identity="one",
        apt_proxy="http://127.0.0.1:9",
        log=tmp_path / "mmdebstrap.log",
    )


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("E: Version '1.0' for 'hello' was not found", "source.bootstrap.packages"),
        ("E: Package 'hello' has no installation candidate", "source.bootstrap.packages"),
        ("E: Failed to fetch http://mirror.example/x  404", "apt-get update"),
        ("Unable to connect to mirror.example:80", "apt-get update"),
    ],
)
def test_why_packages_cannot_be_had(tmp_path, program, require_root, said, hint):
    require_root()
    program("mmdebstrap", f'#!/bin/sh\nmkdir "$6"\necho "{said}" >&2\nexit 100\n')
    with pytest.raises(CommandError, match="mmdebstrap failed") as caught:
        make(tmp_path)
    assert said.split()[-1] in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.log == tmp_path / "mmdebstrap.log"
    assert not (tmp_path / "root").exists(), "what it had begun is gone"
    assert not (tmp_path / "disk.raw").exists()


def test_mmdebstrap_is_asked_for_exactly_what_the_project_says(tmp_path, program, require_root):
    require_root()
    program(
        "mmdebstrap",
        '#!/bin/sh\necho "proxy=$http_proxy"\nfor last; do :; done\ncat "$last"\nexit 1\n',
    )
    with pytest.raises(CommandError) as caught:
        make(tmp_path)
    log = caught.value.log.read_text()
    assert "--include linux-image-amd64,hello=1.0" in log
    assert "proxy=http://127.0.0.1:9" in log
    assert "deb http://mirror.example/debian trixie main" in log
    assert "aptopt" not in log, "that would stay in the image"


def test_bootstrapping_needs_root(tmp_path):
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(HostError, match="as root only") as caught:
            make(tmp_path)
    finally:
        os.seteuid(was)
    assert "cloud_image with --engine qemu" in caught.value.hint


def test_mirrors_are_those_of_the_host(program):
    codename = next(
        line.partition("=")[2].strip('"')
        for line in Path("/etc/os-release").read_text().splitlines()
        if line.startswith("VERSION_CODENAME=")
    )
    targets = f"http://a.example/debian {codename}\\nhttp://b.example/security {codename}-security"
    program("apt-get", f"#!/bin/sh\nprintf '{targets}\\n'\n")
    assert bootstrap.host_mirrors("trixie", ["main", "contrib"]) == (
        "deb http://a.example/debian trixie main contrib",
        "deb http://b.example/security trixie-security main contrib",
    )


def test_a_host_without_mirrors(program):
    program("apt-get", "#!/bin/sh\n")
    with pytest.raises(HostError, match="names no archive") as caught:
        bootstrap.host_mirrors("trixie", ["main"])
    assert "source.bootstrap.mirrors" in caught.value.hint


# --- a cloud image --------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path, require_program) -> Path:
    """An image of four MiB."""
    require_program("qemu-img")
    raw = tmp_path / "image.raw"
    raw.write_bytes(b"c" * MIB + bytes(3 * MIB))
    disks.import_raw(raw, tmp_path / "image.qcow2")
    return tmp_path / "image.qcow2"


def test_a_disk_is_made_of_it(image, tmp_path):
    cloud_image.make_disk(image, tmp_path / "disk.qcow2", size=8 * MIB)
    found = disks.info(tmp_path / "disk.qcow2")
    assert (found.format, found.virtual_bytes, found.backing) == ("qcow2", 8 * MIB, None)


def test_an_image_larger_than_the_disk(image, tmp_path):
    with pytest.raises(VaultbuildError, match=r"resources\.disk is") as caught:
        cloud_image.make_disk(image, tmp_path / "disk.qcow2", size=2 * MIB)
    assert "raise resources.disk" in caught.value.hint
    assert not (tmp_path / "disk.qcow2").exists()


def test_the_disk_of_a_pipeline_is_made_of_the_image_in_the_cache(
    image, project, upstream, tmp_path, downloads
):
    sha256 = upstream.put("/image.qcow2", image.read_bytes())
    settings = f"url: {upstream.url}/image.qcow2\n                sha256: {sha256}"
    text = MINIMAL.replace("SETTINGS", settings)
    pipeline = load_pipeline(project({"stages/pipeline.yml": text}))
    for offline in (False, True):
        disk = tmp_path / f"{offline}.qcow2"
        got = make_source(
            pipeline, disk, identity="x", apt_proxy=None, logs=tmp_path, fetcher=downloads,
            offline=offline,
        )  # fmt: skip
        assert disks.info(disk).virtual_bytes == pipeline.resources.disk_bytes
        assert got.path == pipeline.project / "cache/var/isos" / sha256 / "image.qcow2"
        assert got.received == (0 if offline else got.bytes)
    assert len(upstream.asked("/image.qcow2")) == 1


MINIMAL = """\
    schema: 1
    name: tiny
    version: "1.0.0"
    variant: one
    stages: [base, final]
    resources: {disk: 8M}
    variants:
      one:
        source:
          cloud_image:
                SETTINGS
    """


# --- what cloud-init is told ----------------------------------------------------------------------


def test_a_seed_lets_us_in_beside_the_projects_own(tmp_path):
    told = {"ssh_authorized_keys": ["ssh-ed25519 AAA them"], "write_files": [{"path": "/etc/x"}]}
    words, names = write_seed(tmp_path, told, public_key="ssh-ed25519 BBB us", instance="i-1")
    assert (words.name, names.name) == ("user-data", "meta-data")
    head, _, document = words.read_text().partition("\n")
    assert head == "#cloud-config"
    assert json.loads(document) == {
        "disable_root": False,
        "ssh_authorized_keys": ["ssh-ed25519 AAA them", "ssh-ed25519 BBB us"],
        "write_files": [{"path": "/etc/x"}],
    }
    assert json.loads(names.read_text()) == {"instance-id": "i-1"}
