"""A shell in a throwaway copy of a disk, for somebody who wants to look around."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import process, ssh
from builder.verify import throwaway
from builder.workplace import log_folder

if TYPE_CHECKING:
    from pathlib import Path

    from builder.project import Project


def open_shell(project: Project, stage: str, disk: Path) -> int:
    """Boot a throwaway overlay of ``disk``, open a shell at this terminal, return its status."""
    logs = log_folder(project, "shell", stage)
    resources = project.pipeline.stage(stage).resources
    with throwaway(disk, project.engine, resources, logs) as (endpoint, _):
        address = f"{endpoint.user}@{endpoint.host}"
        return process.attach(["ssh", "-t", *ssh.options(endpoint), address])
