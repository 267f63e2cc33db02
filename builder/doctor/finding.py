"""What doctor looks at and what it says of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import kvm
from builder.engines.qemu import OVMF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.pipeline import Pipeline

_MEMORY = re.compile(r"^(Mem\w+): +(\d+) kB$", re.MULTILINE)
Level = Literal["ok", "warn", "fail"]
EngineChoice = Literal["auto", "qemu", "nspawn"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``cure`` is what to type, empty where nothing is wrong."""

    id: str
    title: str
    level: Level
    evidence: str
    cure: str = ""


@dataclass(frozen=True)
class Host:
    """What is particular to the machine that is looked at; tests look at another."""

    devices: Path = Path("/dev")
    firmware: Path = OVMF
    meminfo: Path = Path("/proc/meminfo")
    root: bool = field(default_factory=lambda: os.geteuid() == 0)

    def memory(self) -> tuple[int, int]:
        """Return how many bytes of memory there are, and how many are available."""
        sizes = dict(_MEMORY.findall(self.meminfo.read_text("ascii")))
        return int(sizes["MemTotal"]) * 1024, int(sizes["MemAvailable"]) * 1024


@dataclass(frozen=True)
class Case:
    """A pipeline on a host with an engine, and what follows from the three."""

    pipeline: Pipeline
    host: Host = field(default_factory=Host)
    wanted: EngineChoice = "auto"

    @property
    def var(self) -> Path:
        """Where the project keeps its caches and images."""
        return self.pipeline.project / "cache/var"

    @cached_property
    def kvm(self) -> tuple[bool, str]:
        """Whether KVM works, and what was seen; asked anew, for that is what a doctor is for."""
        return kvm.usable(self.var / "index/kvm.json", again=True)

    @property
    def engine(self) -> str:
        """The engine that stages would be built with."""
        if self.wanted == "auto":
            return "qemu" if self.kvm[0] else "nspawn"
        return self.wanted

    @property
    def container(self) -> Level:
        """How bad it is when a container cannot run."""
        return "fail" if self.engine == "nspawn" else "warn"


def size(count: float) -> str:
    """Return bytes as doctor says them: ``512 MiB``, ``1.5 GiB``."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield findings, one line each; a problem is followed by what to type."""
    for each in findings:
        yield f"{each.level:<6}{each.title:<34}{each.evidence}"
        if each.cure and each.level != "ok":
            yield f"{'':<6}cure: {each.cure}"


def judged(id_: str, title: str, evidence: str, *, right: bool, cure: str) -> Finding:
    """Return a finding that is a failure unless it is right."""
    return Finding(id_, title, "ok" if right else "fail", evidence, "" if right else cure)
