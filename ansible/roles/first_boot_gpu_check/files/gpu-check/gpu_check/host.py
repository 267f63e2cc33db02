"""Asking the machine: programs, files, devices. Everything else works on the answers."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PCI_VENDOR, PCI_DISPLAY = "0x10de", "0x03"


@dataclass(frozen=True)
class Answer:
    """What a program said and how it ended; ``status`` is None when its time was up."""

    status: int | None
    stdout: str
    stderr: str = ""

    @property
    def said(self) -> str:
        """Everything it wrote, as one text."""
        return "\n".join(part.strip() for part in (self.stdout, self.stderr) if part.strip())

    @property
    def last(self) -> str:
        """The last line that it wrote."""
        return self.said.splitlines()[-1] if self.said else "it wrote nothing"


class Host:
    """This machine; with ``root``, files and devices are looked for below that folder."""

    def __init__(self, root: str = "") -> None:
        self._root = root.rstrip("/")

    def has(self, program: str) -> bool:
        """Whether there is such a program."""
        return shutil.which(program) is not None

    def run(self, argv: Sequence[str], timeout: float = 60) -> Answer:
        """Run a program to its end, or to the end of its time; raise OSError when it is not there.

        A GPU that fell off the bus can hang what asks for it: nothing here waits without an end.
        """
        try:
            done = subprocess.run(
                list(argv),
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Answer(None, "", f"{argv[0]} did not end within {timeout:g} s")
        return Answer(done.returncode, done.stdout, done.stderr)

    def read(self, path: str) -> str | None:
        """Return what a file holds; None where there is no such file."""
        try:
            return Path(self._root + path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def find(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern, as the machine itself would call them."""
        below = Path(self._root or "/")
        found = sorted(below.glob(pattern.lstrip("/")))
        return [str(path)[len(self._root) :] for path in found]

    def real(self, path: str) -> str:
        """Return the place of a file of this machine: what :meth:`find` named, to be run."""
        return self._root + path

    def is_device(self, path: str) -> bool:
        """Whether there is a character device."""
        try:
            return stat.S_ISCHR(Path(self._root + path).stat().st_mode)
        except OSError:
            return False

    def gpus_on_the_bus(self) -> list[str]:
        """Return the PCI addresses of NVIDIA's GPUs: not of their audio, and not of NVSwitches."""
        devices = (path.rpartition("/")[0] for path in self.find("/sys/bus/pci/devices/*/vendor"))
        return [
            device.rpartition("/")[2]
            for device in devices
            if self.read(f"{device}/vendor") == PCI_VENDOR
            and (self.read(f"{device}/class") or "").startswith(PCI_DISPLAY)
        ]

    def pci_id(self, address: str) -> str:
        """Return the PCI device id of a GPU on the bus, as tables have it: ``2330``."""
        said = self.read(f"/sys/bus/pci/devices/{address}/device") or ""
        return said[-len("2330") :].upper()
