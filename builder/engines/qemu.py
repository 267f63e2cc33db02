"""Run a disk as a virtual machine: with KVM where it works, in emulation elsewhere.

Under ``packer build`` Packer starts the VM (see :mod:`builder.template`); for checks and a shell it
is started here, without Packer. The user network is restricted: the guest reaches the caches, by
``guestfwd`` commands, and nothing else; without ``restrict=on`` it could read every service on the
host's loopback.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import disks, process
from builder.engines import MONITOR, Endpoint, Forward, Machine, Served
from builder.engines.greeting import wait_for_ssh
from builder.errors import HostError
from builder.ports import free as free_port
from builder.scratch import scratch
from builder.vm_options import console_patience, credential, quoted, user_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GUEST_HOST = "10.0.2.100"
# Emulation boots a Debian cloud kernel in 60 to 70 s on a busy two-core host; KVM in 5.
_BOOT_SECONDS = {"kvm": 120, "tcg": 600}
OVMF = Path("/usr/share/OVMF")
_FIRMWARE = (("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"), ("OVMF_CODE.fd", "OVMF_VARS.fd"))


class QemuEngine:
    """The engine ``qemu``."""

    name: Literal["qemu", "nspawn"] = "qemu"
    guest_host = GUEST_HOST

    def __init__(self, accelerator: Literal["kvm", "tcg"]) -> None:
        """``accelerator`` is ``kvm`` or ``tcg``."""
        self.accelerator = accelerator

    @contextlib.contextmanager
    def serve(self, machine: Machine, parent: str) -> Iterator[Served]:
        """Let Packer's qemu builder make the overlay and run the VM."""
        # Beside the disk's folder: what the overlay stands on has the same name in both.
        output = machine.disk.parent.with_name(f"{machine.disk.parent.name}-packer")
        above = (machine.disk.parent / parent).resolve()
        require_no_comma(output)
        with scratch() as sockets, _removed(output):
            circumstance = {
                "accelerator": self.accelerator,
                "ssh_timeout": f"{_BOOT_SECONDS[self.accelerator]}s",
                "parent_disk": above,
                "backing": parent,
                # Packer makes an overlay 40 GiB large unless it is told otherwise.
                "disk_bytes": disks.info(above).virtual_bytes,
                "output_folder": output,
                "qmp_socket": sockets / MONITOR,
                "guest_host": GUEST_HOST,
                "forwards": {each.guest_port: each.address for each in machine.forwards},
                "relay": process.require("socat"),
            }
            made = output / "disk.qcow2"
            yield Served(circumstance, sockets / MONITOR, made)

    @contextlib.contextmanager
    def boot(self, machine: Machine) -> Iterator[Endpoint]:
        """Boot the disk in a VM; see :class:`builder.engines.Engine`."""
        port = free_port()
        argv = self._command(machine, port)
        log = machine.logs / "qemu.log"
        started = process.start(argv, log=log, keep_fds=machine.locks, contained=True)
        with process.session(started) as child:
            timeout = _BOOT_SECONDS[self.accelerator]
            wait_for_ssh(port, child, machine.console, timeout=timeout)
            yield Endpoint("127.0.0.1", port, "root", machine.keys.private)

    def _command(self, machine: Machine, port: int) -> list[str]:
        machine.logs.mkdir(parents=True, exist_ok=True)
        return [
            "qemu-system-x86_64",
            "-nodefaults", "-display", "none", "-no-user-config",
            *acceleration(self.accelerator),
            "-smp", str(machine.cpus),
            "-m", str(machine.memory_mib),
            "-drive",
            f"file={quoted(machine.disk)},if=virtio,format=qcow2,discard=unmap,cache=unsafe",
            "-netdev", caches_network(port, machine.forwards),
            "-device", "virtio-net-pci,netdev=net,romfile=",
            "-device", "virtio-rng-pci",
            "-serial", f"file:{machine.console}",
            "-smbios", credential(machine.keys.public),
            "-smbios", console_patience(_BOOT_SECONDS[self.accelerator]),
            *_firmware(machine),
        ]  # fmt: skip


@contextlib.contextmanager
def _removed(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_no_comma(folder: Path) -> None:
    """Packer puts the disk's path among QEMU's options as it is."""
    if "," in str(folder):
        raise HostError(
            f"Packer cannot start a VM from a folder with a comma in its path: {folder}",
            hint="move the project, or use --engine nspawn",
        )


def acceleration(accelerator: str) -> list[str]:
    """Return the machine and processor for ``kvm`` or ``tcg``."""
    if accelerator == "kvm":
        return ["-machine", "q35,accel=kvm", "-cpu", "host"]
    return ["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]


def caches_network(port: int, forwards: Sequence[Forward]) -> str:
    """Return the value of ``-netdev``: SSH in from ``port``, the caches out, nothing else."""
    leads = {(GUEST_HOST, here.guest_port): here.address for here in forwards}
    return user_network("net", port, leads, relay=process.require("socat"))


def _firmware(machine: Machine) -> list[str]:
    if machine.firmware == "bios":
        return []
    code, variables = find_ovmf()
    own = machine.work / "efi-variables.fd"
    shutil.copyfile(variables, own)
    return [
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={quoted(code)}",
        "-drive", f"if=pflash,format=raw,unit=1,file={quoted(own)}",
    ]  # fmt: skip


def find_ovmf(folder: Path = OVMF) -> tuple[Path, Path]:
    """Return the UEFI firmware and its empty variable store: neither is of use alone."""
    for names in _FIRMWARE:
        code, variables = (folder / name for name in names)
        if code.is_file() and variables.is_file():
            return code, variables
    pairs = " or ".join(" with ".join(names) for names in _FIRMWARE)
    raise HostError(f"no UEFI firmware for VMs: {pairs} in {folder}", hint="apt-get install ovmf")
