"""What a build needs of this host: programs, rights and devices."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder import process
from builder.doctor.finding import Finding, judged
from builder.engines.qemu import find_ovmf
from builder.errors import CommandError, HostError
from builder.packer import Packer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.doctor.finding import Case, Level

_OLDEST_PYTHON = (3, 11)
_OLDEST_QEMU = (6, 1)
_SECONDS = 20
_LOOP_FILE = 1 << 20
_VERSION = re.compile(r"version (\d+)\.(\d+)")

# Programs that need only be there.
_PROGRAMS = ("socat", "ssh", "ssh-keygen", "setpriv", "unshare", "setsid")
_DISK_PROGRAMS = ("mmdebstrap", "mmd", "mcopy", "mkfs.vfat", "mkfs.ext4", "sfdisk")
_RELEASE_PROGRAMS = ("sfdisk", "debugfs", "dumpe2fs", "e2fsck", "mcopy")
_CLOUD_IMAGE_PROGRAMS = ("sfdisk", "e2fsck", "resize2fs")
_INSTALLER_PROGRAMS = ("xorriso", "sfdisk", "debugfs")
_CONTAINER_PROGRAMS = ("systemd-nspawn", "ip", "losetup", "mount", "sfdisk", "blkid")


def python(_: Case) -> Iterator[Finding]:
    """Say whether this Python is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    right = sys.version_info >= _OLDEST_PYTHON
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    cure = f"use a Python of at least {wanted}"
    yield judged("python", "Python", f"{version} at {sys.executable}", right=right, cure=cure)


def packer(case: Case) -> Iterator[Finding]:
    """Say whether there is a Packer, with what it needs for the engine."""
    try:
        found = Packer.find()
    except (HostError, CommandError) as error:
        yield Finding("packer", "Packer", "fail", error.message, error.hint or "")
        return
    try:
        found.require_plugins("qemu")
    except HostError as error:
        # A container is provisioned by a builder that every Packer has inside.
        in_a_vm = case.engine == "qemu" or case.pipeline.source.kind == "iso"
        level: Level = "fail" if in_a_vm else "warn"
        yield Finding("packer", "Packer", level, error.message, error.hint or "")
        return
    builder = f"plugins in {found.plugins}" if found.plugins else "its qemu builder inside"
    yield Finding("packer", "Packer", "ok", f"{found} at {found.program}, {builder}")


def qemu(_: Case) -> Iterator[Finding]:
    """Say whether QEMU's programs are there and new enough."""
    yield _versioned("qemu", "QEMU", "qemu-system-x86_64")
    yield _versioned("qemu-img", "qemu-img", "qemu-img")


def firmware(case: Case) -> Iterator[Finding]:
    """Say whether releases can be booted under UEFI."""
    title = "UEFI firmware"
    try:
        code, variables = find_ovmf(case.host.firmware)
    except HostError as error:
        yield Finding("uefi", title, "fail", error.message, error.hint or "")
    else:
        yield Finding("uefi", title, "ok", f"{code} with {variables.name}")


def kvm(case: Case) -> Iterator[Finding]:
    """Say whether a guest boots with KVM."""
    works, seen = case.kvm
    cure = ""
    if not works:
        where = "in emulation" if case.engine == "qemu" else "in containers (--engine nspawn)"
        cure = f"without it, stages are built {where} and booted in emulation"
        if "may not open" in seen:
            cure = "adduser $USER kvm, and log in again"
    yield Finding("kvm", "KVM", "ok" if works else "warn", seen, cure)


def user(case: Case) -> Iterator[Finding]:
    """Say whether this user may make disks and start containers."""
    if case.host.root:
        yield Finding("user", "root", "ok", "this is root")
        return
    bootstraps = case.pipeline.source.kind == "bootstrap"
    needs_root = bootstraps or case.engine == "nspawn"
    why = "disks are made and containers started as root"
    cure = "sudo vaultbuild ..., or " + ("a cloud image and " if bootstraps else "")
    cure += "--engine qemu" + ("" if case.kvm[0] else ", in emulation")
    yield Finding("user", "root", "fail" if needs_root else "warn", f"not root: {why}", cure)


def programs(case: Case) -> Iterator[Finding]:
    """Say whether the programs are there that builds start."""
    yield _all_there("programs", "programs of every build", _PROGRAMS, "fail")
    yield _all_there("release", "programs that read a release", _RELEASE_PROGRAMS, "fail")
    if case.pipeline.source.kind == "bootstrap":
        yield _all_there("disks", "programs that make disks", _DISK_PROGRAMS, "fail")
    if case.pipeline.source.kind == "cloud_image":
        title = "programs that enlarge a cloud image"
        yield _all_there("cloud-image", title, _CLOUD_IMAGE_PROGRAMS, "fail")
    if case.pipeline.source.kind == "iso":
        yield _all_there("installer", "programs that install an ISO", _INSTALLER_PROGRAMS, "fail")
    yield _all_there("nspawn", "programs of containers", _CONTAINER_PROGRAMS, case.container)


def fuse(case: Case) -> Iterator[Finding]:
    """Say whether a disk can be had as a file."""
    program, title = "qemu-storage-daemon", "disks as files (FUSE)"
    evidence = _said(program, "--help")
    if evidence is None:
        cure = process.how_to_install(program)
        yield Finding("fuse", title, case.container, f"no {program}", cure)
    elif "type=]fuse" not in evidence:
        cure = f"install a {program} that was built with FUSE"
        yield Finding("fuse", title, case.container, f"{program} has no FUSE export", cure)
    elif not (device := case.host.devices / "fuse").exists():
        yield Finding("fuse", title, case.container, f"{device} does not exist", "modprobe fuse")
    else:
        yield Finding("fuse", title, "ok", f"{program} exports over {device}")


def loop(case: Case) -> Iterator[Finding]:
    """Say whether a file can be a device."""
    if not case.host.root:
        return  # said already: without root there are no containers
    title, cure = "loop devices", "modprobe loop; in a container, run it with --privileged"
    try:
        device = _attached()
    except (CommandError, HostError) as error:
        last = error.message.splitlines()[-1].strip()
        yield Finding("loop", title, case.container, last, cure)
    else:
        yield Finding("loop", title, "ok", f"{device} was attached and detached")


def _versioned(id_: str, title: str, program: str) -> Finding:
    """Say whether a program of QEMU is there and new enough."""
    said = _said(program, "--version")
    if said is None:
        return Finding(id_, title, "fail", f"no {program}", process.how_to_install(program))
    match = _VERSION.search(said)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    evidence = f"{said.splitlines()[0] if said else 'no version'} at {found(program)}"
    wanted = ".".join(map(str, _OLDEST_QEMU))
    cure = f"install {program} {wanted} or newer"
    return judged(id_, title, evidence, right=version >= _OLDEST_QEMU, cure=cure)


def _all_there(id_: str, title: str, programs: Sequence[str], level: Level) -> Finding:
    """Say which of some programs are missing, and which packages bring them."""
    missing = [program for program in programs if found(program) is None]
    if not missing:
        return Finding(id_, title, "ok", " ".join(programs))
    return Finding(id_, title, level, f"no {' '.join(missing)}", process.how_to_install(*missing))


def found(program: str) -> Path | None:
    """Return where a program is: on PATH, or beside the Python that runs now."""
    beside = Path(sys.executable).parent / program
    try:
        return Path(process.require(program))
    except HostError:
        return beside if beside.exists() else None


def _said(program: str, argument: str) -> str | None:
    """Return what a program prints; None when there is none, or when it cannot even do that."""
    try:
        return process.run([program, argument], timeout=_SECONDS).stdout
    except (HostError, CommandError):
        return None


def _attached() -> str:
    """Attach a loop device and detach it again; return its name."""
    with tempfile.NamedTemporaryFile(prefix="vaultbuild-loop-") as file:
        file.truncate(_LOOP_FILE)
        done = process.run(["losetup", "--find", "--show", file.name], timeout=_SECONDS)
        device = done.stdout.strip()
        process.run(["losetup", "--detach", device], timeout=_SECONDS)
    return device
