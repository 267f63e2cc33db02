"""Where in a project's files stands what a finding is about: its file, its line, its key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from builder.config import PIPELINE, read_project
from builder.errors import Problem
from builder.memo import Tree
from builder.settings import uses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.compat.finding import Finding
    from builder.compat.table import Table
    from builder.pipeline import Pipeline
    from builder.settings import Setting


def problems(findings: Iterable[Finding], pipeline: Pipeline, table: Table) -> list[Problem]:
    """Return the findings as problems of the project, each where it would have to change."""
    settings = _settings(pipeline)
    return [_problem(each, pipeline, table, settings) for each in findings]


def _settings(pipeline: Pipeline) -> dict[str, Setting]:
    """Return where each variable of the variant was set; the last stage that does counts."""
    files = read_project(Tree(pipeline.project))
    found: dict[str, Setting] = {}
    if files.pipeline:
        for stage in pipeline.stages:
            for use in uses(files, files.pipeline, pipeline.variant, stage.name):
                found |= use.given
    return found


def _problem(
    finding: Finding, pipeline: Pipeline, table: Table, settings: dict[str, Setting]
) -> Problem:
    message, hint = finding.said, finding.cure or None
    if finding.where:
        path = Path(finding.where)
        line = _line(pipeline.project / path, finding.package)
        return Problem(path, message, line=line, hint=hint)
    name = next((name for fact, name in table.variables.items() if fact == finding.fact), "")
    if name in settings:
        setting = settings[name]
        return setting.file.problem(setting.key, message, hint)
    return Problem(Path(PIPELINE), message, key=f"variants.{pipeline.variant}", hint=hint)


def _line(lock: Path, package: str) -> int | None:
    """Return the line of a requirement in a lock file."""
    return next((number for number, name in _names(lock) if name.startswith(package)), None)


def _names(lock: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lock.read_text(errors="replace").splitlines(), 1):
        name = line.partition("==")[0].strip()
        if "==" in line and name:
            yield number, canonicalize_name(name)
