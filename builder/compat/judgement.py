"""A pipeline, and the images made of it, judged by the table; answers are remembered.

What was judged once is known for as long as the table, the variables, the lock files, this program
and the month are the same, so that ``vaultbuild plan`` loads neither YAML nor pydantic.
"""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.compat import PATH
from builder.compat.finding import Finding, accepting
from builder.compat.flavour import asked_for, settled
from builder.digest import digest_document, file_signature
from builder.errors import CheckError, ProjectError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from builder.compat.stack import Stack
    from builder.compat.table import Table
    from builder.digest import Facts, StatCache
    from builder.pipeline import Pipeline


class Judge:
    """Judges one pipeline. Without the table's file there are no findings."""

    def __init__(self, pipeline: Pipeline, cache: StatCache, facts: Facts) -> None:
        self._pipeline = pipeline
        self._cache = cache
        self._facts = facts
        self.has_table = (pipeline.project / PATH).is_file()

    def wanted(self, stages: Collection[str]) -> list[Finding]:
        """Return what the rules find about the variables and locks of some stages, a lineage."""
        if not self.has_table:
            return []
        name = f"compat {self._pipeline.variant} {' '.join(stages)}"
        found = self._facts.remember(name, self._signature(stages), lambda: self._judge(stages))
        self._facts.save()
        return self._accepting(Finding.from_json(each) for each in found)

    def installed(
        self, stages: Collection[str], packages: Mapping[str, Mapping[str, str]]
    ) -> list[Finding]:
        """Return what the rules find about what an image really has."""
        if not self.has_table:
            return []
        from builder.compat.rules import judge  # late: plans that reuse judge nothing
        from builder.compat.stack import installed

        table, stack = self.table, self.stack(stages)
        return self._accepting(judge(installed(packages, stack, table), table, month()))

    def require(self, stages: Collection[str]) -> list[Finding]:
        """Return the findings about some stages; raise ProjectError where one is a failure."""
        findings = self.wanted(stages)
        if failed := [each for each in findings if each.level == "fail"]:
            from builder.compat.places import problems  # late: reads every file of the project

            rules = ", ".join(sorted({each.rule for each in failed}))
            raise ProjectError(
                problems(failed, self._pipeline, self.table),
                hint=f"what goes together: {self._pipeline.command('compat')}\n"
                f"to build it in spite of that: accept: [{rules}] in the variant "
                f"{self._pipeline.variant} of stages/pipeline.yml",
            )
        return findings

    def require_installed(
        self, stages: Collection[str], packages: Mapping[str, Mapping[str, str]], stage: str
    ) -> list[Finding]:
        """Return the findings about an image; raise CheckError where one is a failure."""
        findings = self.installed(stages, packages)
        failed = [each for each in findings if each.level == "fail"]
        if failed:
            lines = "\n".join(f"       {each}" for each in failed)
            message = f"{stage}: what is installed does not go together\n{lines}"
            look = self._pipeline.command(f"compat {stage} --image")
            raise CheckError(message, hint=f"what goes together: {look}")
        return findings

    def settled(self) -> Pipeline:
        """Return the pipeline with the module that ``auto`` means, see :mod:`.flavour`."""
        if not asked_for(self._pipeline) or not self.has_table:
            return self._pipeline
        stages = [stage.name for stage in self._pipeline.stages]
        name = f"flavour {self._pipeline.variant}"
        chosen = self._facts.remember(name, self._signature(stages), lambda: self._choose(stages))
        self._facts.save()
        return settled(self._pipeline, chosen["variable"], chosen["flavour"])

    @cached_property
    def table(self) -> Table:
        """The table; raises ProjectError with every mistake in it."""
        from builder.compat.table import read_table  # late: brings pydantic
        from builder.memo import Tree

        found = read_table(Tree(self._pipeline.project))
        assert found is not None, "only where there is one"  # noqa: S101
        return found

    def stack(self, stages: Collection[str]) -> Stack:
        """Return what some stages want to stand on one another."""
        from builder.compat.stack import planned  # late, as above

        return planned(self._pipeline, stages, self.table)

    def _judge(self, stages: Collection[str]) -> list[dict[str, Any]]:
        from builder.compat.rules import judge  # late, as above

        return [each.to_json() for each in judge(self.stack(stages), self.table, month())]

    def _choose(self, stages: Collection[str]) -> dict[str, str]:
        from builder.compat.flavour import choose  # late, as above

        table = self.table
        variable = table.variables.get("flavour", "")
        return {"variable": variable, "flavour": choose(self.stack(stages), table)}

    def _accepting(self, findings: Iterable[Finding]) -> list[Finding]:
        return accepting(findings, self._pipeline.accept)

    def _signature(self, stages: Collection[str]) -> str:
        chosen = [stage for stage in self._pipeline.stages if stage.name in stages]
        uses = [use for stage in chosen for use in stage.roles]
        locks = [path.as_posix() for use in uses for path in use.paths.values()]
        return digest_document(
            {
                "table": self._cache.entry(PATH),
                "locks": {path: self._cache.entry(path) for path in sorted(set(locks))},
                "variables": [self._pipeline.variables_of(stage.name) for stage in chosen],
                "source": dict(self._pipeline.source.settings),
                "month": month(),
                "program": program(),
            }
        )


def month() -> str:
    """Return this month as ends of branches are written."""
    return time.strftime("%Y-%m", time.gmtime())


def program() -> list[str]:
    """Return what tells this program's rules from others."""
    return [file_signature(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
