"""Reading what ``nvidia-smi -q -x`` wrote. Nothing is asked and nothing is judged here."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

QUERY = ("nvidia-smi", "-q", "-x")
# How nvidia-smi says that a GPU has no such thing; elements also come and go between drivers.
_NOTHING = re.compile(r"\[?(N/A|Not Supported|Unknown Error|.*deprecated.*)?\]?", re.IGNORECASE)


@dataclass(frozen=True)
class Gpu:
    """One GPU, in the order of nvidia-smi."""

    index: int
    element: ET.Element

    def __str__(self) -> str:
        return f"GPU {self.index}"

    def said(self, path: str) -> str | None:
        """Return the text of an element; None where it is missing or the GPU has no such thing."""
        text = (self.element.findtext(path) or "").strip()
        return None if _NOTHING.fullmatch(text) else text

    def number(self, path: str) -> int | None:
        """Return the number that a text begins with, as 16 of ``16x``; None where there is none."""
        found = re.match(r"\d+", self.said(path) or "")
        return int(found[0]) if found else None

    @property
    def name(self) -> str:
        """The product's name."""
        return self.said("product_name") or "unnamed"

    @property
    def bus(self) -> str:
        """The PCI address as the kernel writes it: ``0000:19:00.0``."""
        return self.element.get("id", "").lower()[-len("0000:00:00.0") :]

    @property
    def pci_id(self) -> str | None:
        """The PCI device id, which is written before the vendor's: 2330 of ``233010DE``."""
        found = re.fullmatch(r"(?:0x)?([0-9A-Fa-f]{4})10DE", self.said("pci/pci_device_id") or "")
        return found[1].upper() if found else None

    @property
    def uncorrectable(self) -> int:
        """ECC errors since the driver was loaded that were not corrected."""
        volatile = self.element.find("ecc_errors/volatile")
        counted = [] if volatile is None else list(volatile.iter())
        # Since Turing there is an element for each kind of memory; before, totals by kind of error.
        new = [one for one in counted if "uncorrectable" in one.tag]
        old = [] if volatile is None else volatile.findall("double_bit/total")
        texts = [(one.text or "").strip() for one in new or old]
        return sum(int(text) for text in texts if text.isdigit())

    def facts(self) -> dict[str, str | int | None]:
        """Return what names this GPU in a document."""
        return {
            "index": self.index,
            "name": self.name,
            "uuid": self.said("uuid"),
            "bus": self.bus,
            "memory": self.said("fb_memory_usage/total"),
            "vbios": self.said("vbios_version"),
        }


@dataclass(frozen=True)
class Log:
    """All that nvidia-smi knows."""

    driver: str | None
    cuda: str | None
    gpus: tuple[Gpu, ...]


def parse(text: str) -> Log:
    """Read the XML; raise ValueError when it is none. Some drivers write warnings before it."""
    begin = text.find("<?xml")
    try:
        root = ET.fromstring(text[max(begin, 0) :])  # noqa: S314 - nvidia-smi's own
    except ET.ParseError as error:
        raise ValueError(f"nvidia-smi wrote no XML: {error}") from error
    if root.tag != "nvidia_smi_log":
        raise ValueError(f"nvidia-smi wrote XML of another form: {root.tag}")
    gpus = tuple(Gpu(index, element) for index, element in enumerate(root.findall("gpu")))
    versions = (root.findtext(name) for name in ("driver_version", "cuda_version"))
    driver, cuda = ((text or "").strip() or None for text in versions)
    return Log(driver, cuda, gpus)
