"""Does KVM work here? Boot something and see: that ``/dev/kvm`` is there proves nothing.

In nested and para-virtual setups the device opens and answers, real mode even runs (emulated), and
then every Linux hangs in its first 64-bit instructions, or QEMU gives up on a register. So the
probe is a disk of one boot sector that goes where such hosts fail: into long mode with paging,
through a model-specific register, and through instructions that a hypervisor does not emulate. It
prints a word on the serial port and ends QEMU with a status of its own: 0.2 s where KVM works.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from builder import files, process
from builder.errors import HostError
from builder.vm_options import quoted

_DEVICE = Path("/dev/kvm")
_SECONDS = 5.0
_TICK = 0.02
_DISK = 1 << 20  # SeaBIOS does not boot from disks that are smaller
_SECTOR_SIGNATURE = b"\x55\xaa"
# The sector writes 0x21 to the exit device, and QEMU ends with twice that plus one.
_RIGHT_STATUS = 0x21 << 1 | 1
_WORD = b"works"
# As the engine qemu runs its guests. A processor with fewer features proves less.
_WITH_KVM = ("-machine", "q35,accel=kvm", "-cpu", "host")
_HALTED = b"KVM internal error"  # QEMU prints this, stops the guest, and stays

_REAL_MODE = """
    fa                        cli
    fc                        cld
    31 c0                     xor   ax, ax
    8e d8                     mov   ds, ax
    8e c0                     mov   es, ax
    bf 00 10                  mov   di, 0x1000          ; three empty page tables
    b9 00 0c                  mov   cx, 0x0c00
    66 31 c0                  xor   eax, eax
    66 f3 ab                  rep stosd
    c7 06 00 10 03 20         mov   word [0x1000], 0x2003
    c7 06 00 20 03 30         mov   word [0x2000], 0x3003
    c7 06 00 30 83 00         mov   word [0x3000], 0x0083  ; the first 2 MiB, in one page
    66 b8 00 10 00 00         mov   eax, 0x1000
    0f 22 d8                  mov   cr3, eax
    66 b8 20 06 00 00         mov   eax, 0x620          ; PAE, and SSE is used
    0f 22 e0                  mov   cr4, eax
    66 b9 80 00 00 c0         mov   ecx, 0xc0000080     ; EFER: long mode, please
    0f 32                     rdmsr
    0d 00 01                  or    ax, 0x100
    0f 30                     wrmsr
    66 b8 01 00 00 80         mov   eax, 0x80000001     ; protection and paging
    0f 22 c0                  mov   cr0, eax
    66 0f 01 16 e0 7c         lgdt  [0x7ce0]
    66 ea 5c 7c 00 00 08 00   jmp   8:0x7c5c
"""
_LONG_MODE = """
    b8 10 00 00 00            mov   eax, 0x10
    8e d0                     mov   ss, eax
    bc 00 7c 00 00            mov   esp, 0x7c00
    b9 80 00 00 c0            mov   ecx, 0xc0000080     ; EFER again: is long mode active?
    0f 32                     rdmsr
    a9 00 04 00 00            test  eax, 0x400
    74 43                     jz    wrong
    66 0f 6e c0               movd  xmm0, eax           ; SSE2, as every 64-bit kernel may use it
    66 0f d4 c0               paddq xmm0, xmm0
    31 c0                     xor   eax, eax
    0f a2                     cpuid
    83 f8 07                  cmp   eax, 7
    72 16                     jb    right
    b8 07 00 00 00            mov   eax, 7
    31 c9                     xor   ecx, ecx
    0f a2                     cpuid
    f7 c3 00 01 00 00         test  ebx, 0x100          ; BMI2, where the processor has it
    74 05                     jz    right
    c4 e2 f9 f7 db            shlx  rbx, rbx, rax
    0f 20 d8           right: mov   rax, cr3            ; page tables are loaded anew
    0f 22 d8                  mov   cr3, rax
    48 8d 35 16 00 00 00      lea   rsi, [word]
    66 ba f8 03               mov   dx, 0x3f8
    b9 05 00 00 00            mov   ecx, 5
    f3 6e                     rep outsb
    b0 21                     mov   al, 0x21
    eb 02                     jmp   leave
    b0 22              wrong: mov   al, 0x22
    e6 f4              leave: out   0xf4, al
    f4                        hlt
    eb fd                     jmp   $-1
"""
# Nothing, 64-bit code, data; then what `lgdt` reads: size and address of this table.
_SEGMENTS = "0000000000000000 00000000009a2000 0000000000920000 1700 c87c0000"


def usable(cache: Path | None = None, *, again: bool = False) -> tuple[bool, str]:
    """Say whether a guest runs under KVM here, and what was seen.

    The answer is kept in the file ``cache``, if given, until the host boots again or its QEMU
    changes; ``again`` asks all the same.
    """
    if not _DEVICE.exists():
        return False, f"{_DEVICE} does not exist"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return False, f"this user may not open {_DEVICE}"
    try:
        program = Path(process.require("qemu-system-x86_64"))
    except HostError as error:
        return False, error.message
    circumstance = _circumstance(program)
    if cache and not again and (known := _known(cache, circumstance)):
        return known
    works, reason = probe(_WITH_KVM)
    if cache:
        document = {**circumstance, "works": works, "reason": reason}
        files.write_json(cache, document, durable=False)
    return works, reason


def probe(machine: tuple[str, ...], *, seconds: float = _SECONDS) -> tuple[bool, str]:
    """Boot the sector on a QEMU with the arguments ``machine``; end it after ``seconds``."""
    with tempfile.TemporaryDirectory(prefix="vaultbuild-kvm-") as name:
        folder = Path(name)
        disk, serial, log = folder / "disk", folder / "serial", folder / "log"
        disk.write_bytes(sector())
        os.truncate(disk, _DISK)
        command: list[str | Path] = [
            "qemu-system-x86_64", *machine, "-m", "64", "-no-reboot",
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{serial}",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
            "-drive", f"file={quoted(disk)},format=raw,if=virtio,readonly=on",
        ]  # fmt: skip
        status = _status(command, log, seconds)
        if status == _RIGHT_STATUS and serial.exists() and serial.read_bytes().endswith(_WORD):
            return True, "a guest reached 64-bit mode"
        return False, _reason(status, log.read_text(encoding="utf-8", errors="replace"), seconds)


def sector() -> bytes:
    """Return the boot sector."""
    code = _bytes(_REAL_MODE) + _bytes(_LONG_MODE) + _WORD
    tables = bytes.fromhex(_SEGMENTS)
    # The segments' descriptor stands at 0x7ce0, after three descriptors of eight bytes.
    return (code.ljust(0xE0 - 24, b"\0") + tables).ljust(510, b"\0") + _SECTOR_SIGNATURE


def _bytes(listing: str) -> bytes:
    """Return the machine code of a listing: pairs of digits, up to the first wider gap."""
    lines = (line.strip().split("  ")[0] for line in listing.strip().splitlines())
    return bytes.fromhex("".join(lines))


def _status(command: list[str | Path], log: Path, seconds: float) -> int | None:
    """Run QEMU and return how it ended; None when it had to be ended."""
    deadline = time.monotonic() + seconds
    with process.start(command, log=log) as machine:
        while machine.status is None and time.monotonic() < deadline:
            if _HALTED in log.read_bytes():
                break
            time.sleep(_TICK)
        status = machine.status
        machine.stop(signal.SIGKILL)
    return status


def _reason(status: int | None, output: str, seconds: float) -> str:
    """Return the line that tells most of why no guest ran."""
    # The first line is the command.
    said = [line for line in output.splitlines()[1:] if line.strip() and "warning:" not in line]
    if said:
        return said[0].removeprefix("qemu-system-x86_64: ").removeprefix("error: ")
    if status is None:
        return f"a guest hung for {seconds:g} s in its first instructions"
    return f"a guest ended with status {status} in its first instructions"


def _circumstance(program: Path) -> dict[str, Any]:
    """Return what an answer depends on."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    facts = program.stat()
    return {"boot": boot, "program": [str(program), facts.st_size, facts.st_mtime_ns]}


def _known(cache: Path, circumstance: dict[str, Any]) -> tuple[bool, str] | None:
    try:
        document = json.loads(cache.read_text(encoding="utf-8"))
        same = all(document[name] == value for name, value in circumstance.items())
        return (bool(document["works"]), str(document["reason"])) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
