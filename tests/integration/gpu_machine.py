"""A machine with two GPUs as far as programs can tell: a tree, programs on PATH, and libraries.

libcuda and libnvrtc are compiled of tests/gpu/fake_cuda.c; a device node is a link to /dev/null.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
PROGRAM = TESTS.parent / "ansible/roles/first_boot_gpu_check/files/gpu-check"
LIBRARIES = ("libcuda.so.1", "libnvrtc.so.12")
BUSES = ("19", "3b")
TOPOLOGY = "\tGPU0\tGPU1\nGPU0\t X \tNV18\nGPU1\tNV18\t X \n"
LINKS = "GPU 0: NVIDIA H100\n\t Link 0: 26.562 GB/s\nGPU 1: NVIDIA H100\n\t Link 0: 26.562 GB/s\n"
PROFILES = "|   0  MIG 1g.10gb       19     7/7        9.75       No     16     0     0   |\n"


def compiled(gcc, folder: Path) -> Path:
    """Compile the libraries into a folder; return it."""
    first, *others = (folder / name for name in LIBRARIES)
    source = TESTS / "gpu/fake_cuda.c"
    argv = [gcc, "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", first, source]
    subprocess.run(argv, check=True)
    for other in others:
        shutil.copy(first, other)
    return folder


@dataclass(frozen=True)
class GpuMachine:
    """Where it lies, and the environment in which programs take it for this machine."""

    folder: Path
    libraries: Path

    def __post_init__(self) -> None:
        for bus in BUSES:
            device = self.root / f"sys/bus/pci/devices/0000:{bus}:00.0"
            device.mkdir(parents=True)
            (device / "vendor").write_text("0x10de\n")
            (device / "class").write_text("0x030200\n")
            (device / "device").write_text("0x2330\n")
        (self.root / "dev").mkdir()
        for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1"):
            (self.root / "dev" / name).symlink_to("/dev/null")
        self.bin.mkdir()
        shutil.copy(TESTS / "gpu/nvidia-smi", self.bin)
        shutil.copy(TESTS / "gpu/h100.xml", self.bin / "query.xml")
        (self.bin / "topology").write_text(TOPOLOGY)
        (self.bin / "links").write_text(LINKS)
        (self.bin / "profiles").write_text(PROFILES)
        self.program("journalctl", "printf 'Linux version\\nCommand line\\nnvidia: loading\\n'")
        # The Python of these tests, under the name that a host has.
        self.program("python3", f'exec {sys.executable} "$@"')

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": str(self.libraries),
            "GPU_CHECK_ROOT": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "FAKE_CUDA_COUNT": "2",
            **more,
        }
