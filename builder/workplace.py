"""What the stages of a run share, and how a run is carried out.

Apart from :mod:`builder.stage_build`, which brings engines and gateways along: a run that reuses
everything needs none of them, and shall end at once.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import digest
from builder.errors import StoreError
from builder.record import DiskRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.project import Project
    from builder.reporter import Reporter
    from builder.supplies import Supplies


@dataclass(frozen=True, slots=True)
class Options:
    """How a plan is carried out.

    ``keep_failed`` keeps the disk of a stage that failed; ``offline`` makes do with the caches;
    ``attempts`` is how often a stage is tried whose failure passes by itself.
    """

    keep_failed: bool = False
    offline: bool = False
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all stages of a run share."""

    project: Project
    reporter: Reporter
    options: Options
    supplies: Supplies | None
    snapshots: Mapping[str, Path]
    """By stage: the copy of its inputs that it is built from."""

    @property
    def outside(self) -> Supplies:
        """What comes from outside; there is none for a run that was to build nothing."""
        if self.supplies is None:
            hint = "run the same command again: it builds what is missing"
            raise StoreError("an image was removed while this run was under way", hint=hint)
        return self.supplies


def log_folder(project: Project, *words: str) -> Path:
    """Return a new folder for a run's logs, named by its time and ``words`` (keys are cut)."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    # Its process too: two runs of one second must not write into each other's logs.
    name = "-".join([stamp, *(digest.short(word) for word in words), str(os.getpid())])
    folder = project.var / "logs" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def disk_record(disk: Path) -> DiskRecord:
    """Return what the store must find of a finished disk."""
    return DiskRecord(sha256=digest.digest_file(disk), bytes=disk.stat().st_size)
