"""From a folder that holds a root file system to a disk that boots under BIOS and UEFI.

Nothing is mounted and no loop device is used: ``mkfs.ext4 -d`` fills the file system, ``mcopy`` the
EFI partition, and GRUB's BIOS image is written to where the firmware looks for it. The guest's own
GRUB makes both images, so the host needs none. ``grub-mkconfig`` is avoided: outside the booted
system it writes the builder's devices into the configuration.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import process
from builder.errors import VaultbuildError

if TYPE_CHECKING:
    from pathlib import Path

ROOT_LABEL = "vaultbuild-root"
_SECTOR = 512
_MIB = 1024 * 1024
_BIOS_START, _BIOS_SIZE = 1 * _MIB, 1 * _MIB
_ESP_START, _ESP_SIZE = 2 * _MIB, 64 * _MIB
_ROOT_START = _ESP_START + _ESP_SIZE
_GPT_BACKUP = 1 * _MIB
_LEAST_ROOM = 128 * _MIB
# How mkfs.ext4 1.47 says that what it was given does not fit.
_FULL = ("Could not allocate block", "Could not allocate inode", "No space left", "No free space")
_NAMESPACE = uuid.UUID("6f7f1c8e-5d4f-4b0e-9a52-3d1b6a1f0c11")

# Partition types: https://uapi-group.org/specifications/specs/discoverable_partitions_specification/
_PARTITIONS = """\
label: gpt
label-id: {disk_id}
start={bios_start}, size={bios_size}, type=21686148-6449-6E6F-744E-656564454649, name=bios
start={esp_start}, size={esp_size}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
start={root_start}, size={root_size}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root
"""

_GRUB_MODULES = (
    "part_gpt", "ext2", "search", "search_label", "search_fs_uuid", "configfile", "normal", "linux",
    "echo", "test", "gzio", "serial", "terminal", "sleep", "reboot", "halt", "ls", "cat", "loadenv",
)  # fmt: skip
_GRUB_STUB = f"""\
search.fs_label {ROOT_LABEL} root
set prefix=($root)/boot/grub
configfile ($root)/boot/grub/grub.cfg
"""

# Where GRUB's boot sector and first core sector keep the sectors of what they load next:
# GRUB 2.06-2.12, grub-core/boot/i386/pc/boot.S and diskboot.S.
_BOOT_KERNEL_SECTOR = 0x5C
_CORE_NEXT_SECTOR = 0x1F4
_BOOT_CODE_SIZE = 440


@dataclass(frozen=True, slots=True)
class BootEntry:
    """What GRUB starts: the kernel's release, and its command line without ``root=``."""

    kernel: str
    cmdline: str

    def grub_cfg(self) -> str:
        """Return the text of ``/boot/grub/grub.cfg``."""
        return f"""\
# Written by vaultbuild. On the running machine `update-grub` may replace it.
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set default=0
set timeout=1
menuentry "Linux {self.kernel}" {{
    search --no-floppy --label --set=root {ROOT_LABEL}
    linux /boot/vmlinuz-{self.kernel} root=LABEL={ROOT_LABEL} ro {self.cmdline}
    initrd /boot/initrd.img-{self.kernel}
}}
"""


def boot_entry(root: Path, cmdline: str) -> BootEntry:
    """Return the entry for the one kernel in ``root``; raise when there is none or several."""
    kernels = sorted(
        path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*")
    )
    if len(kernels) != 1:
        found = ", ".join(kernels) or "none"
        raise VaultbuildError(
            f"the root file system must hold exactly one kernel, found: {found}",
            hint="name one linux-image package, with its version, in the bootstrap source",
        )
    return BootEntry(kernel=kernels[0], cmdline=cmdline)


def assemble(root: Path, disk: Path, *, size: int, cmdline: str, identity: str) -> BootEntry:
    """Write ``root`` to a new raw disk of ``size`` bytes at ``disk``; return what it boots.

    ``identity`` names the content: it decides the disk's and the file system's UUIDs, so that equal
    content gives equal disks.
    """
    if _root_size(size) < _LEAST_ROOM:
        raise _too_small(size)
    entry = boot_entry(root, cmdline)
    (root / "boot/grub").mkdir(parents=True, exist_ok=True)
    (root / "boot/grub/grub.cfg").write_text(entry.grub_cfg())
    with disk.open("xb") as file:
        file.truncate(size)
    _partition(disk, size, identity)
    _install_bios(root, disk)
    _install_efi(root, disk)
    _make_root(root, disk, size, identity)
    return entry


def _root_size(size: int) -> int:
    return (size - _ROOT_START - _GPT_BACKUP) // _MIB * _MIB


def _partition(disk: Path, size: int, identity: str) -> None:
    layout = _PARTITIONS.format(
        disk_id=uuid.uuid5(_NAMESPACE, f"disk {identity}"),
        bios_start=_BIOS_START // _SECTOR,
        bios_size=_BIOS_SIZE // _SECTOR,
        esp_start=_ESP_START // _SECTOR,
        esp_size=_ESP_SIZE // _SECTOR,
        root_start=_ROOT_START // _SECTOR,
        root_size=_root_size(size) // _SECTOR,
    )
    process.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], stdin=layout)


def _grub_image(root: Path, target: str, extra: tuple[str, ...]) -> bytes:
    """Let the guest's GRUB make a core image that finds the root by its label."""
    stub, image = root / "tmp/vaultbuild-stub.cfg", root / f"tmp/vaultbuild-{target}.img"
    stub.write_text(_GRUB_STUB)
    try:
        process.run([
            "chroot", root, "grub-mkimage",
            "--format", target,
            "--directory", f"/usr/lib/grub/{target}",
            "--config", f"/{stub.relative_to(root)}",
            "--prefix", "/boot/grub",
            "--output", f"/{image.relative_to(root)}",
            *_GRUB_MODULES, *extra,
        ])  # fmt: skip
        return image.read_bytes()
    finally:
        stub.unlink()
        image.unlink(missing_ok=True)


def _install_bios(root: Path, disk: Path) -> None:
    core = bytearray(_grub_image(root, "i386-pc", ("biosdisk",)))
    if len(core) > _BIOS_SIZE:
        raise VaultbuildError(f"GRUB's core image has {len(core)} bytes, more than its partition")
    sector = _BIOS_START // _SECTOR
    core[_CORE_NEXT_SECTOR : _CORE_NEXT_SECTOR + 8] = (sector + 1).to_bytes(8, "little")
    boot = bytearray((root / "usr/lib/grub/i386-pc/boot.img").read_bytes())
    boot[_BOOT_KERNEL_SECTOR : _BOOT_KERNEL_SECTOR + 8] = sector.to_bytes(8, "little")
    with disk.open("r+b") as file:
        file.write(boot[:_BOOT_CODE_SIZE])
        file.seek(_BIOS_START)
        file.write(core)


def _install_efi(root: Path, disk: Path) -> None:
    loader = disk.with_name("BOOTX64.EFI")
    loader.write_bytes(_grub_image(root, "x86_64-efi", ("efi_gop", "all_video")))
    partition = f"{disk}@@{_ESP_START}"
    try:
        process.run([
            "mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "-i", "56415542", "--invariant",
            "--offset", str(_ESP_START // _SECTOR),
            disk, str(_ESP_SIZE // 1024),
        ])  # fmt: skip
        process.run(["mmd", "-i", partition, "::EFI", "::EFI/BOOT"])
        process.run(["mcopy", "-i", partition, loader, "::EFI/BOOT/BOOTX64.EFI"])
    finally:
        loader.unlink()


def _make_root(root: Path, disk: Path, size: int, identity: str) -> None:
    argv: list[str | Path] = [
        "mkfs.ext4", "-q", "-F",
        "-L", ROOT_LABEL,
        "-U", str(uuid.uuid5(_NAMESPACE, f"root {identity}")),
        "-E", f"offset={_ROOT_START},lazy_itable_init=1,root_owner=0:0",
        "-d", root,
        disk, str(_root_size(size) // 1024),
    ]  # fmt: skip
    done = process.run(argv, check=False)
    if any(sign in done.stderr for sign in _FULL):
        raise _too_small(size)
    if done.status:
        raise process.failure(argv, done.status, done.stderr)


def _too_small(size: int) -> VaultbuildError:
    return VaultbuildError(
        f"the root file system does not fit on a disk of {size // _MIB} MiB",
        hint="raise resources.disk in stages/pipeline.yml",
    )
