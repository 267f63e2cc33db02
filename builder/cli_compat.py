"""The command about versions that go together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli_options import Command, json_option, stage_names, variant_option
from builder.compat import PATH
from builder.errors import Problem, ProjectError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.compat.answers import DriverAnswer, Question, ReleaseAnswer
    from builder.compat.finding import Finding
    from builder.compat.table import Table
    from builder.project import Project

_FAILED = 1
_FLAVOURS = click.Choice(["proprietary", "open"])


def _version(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Refuse what no version begins with."""
    if value and not value[0].isdigit():
        raise click.BadParameter(f"{value} is no version; write it as 550.163.01, 580 or 12.4")
    return value


@click.command(cls=Command)
@click.argument("stage", required=False, shell_complete=stage_names)
@variant_option
@click.option("--image", is_flag=True, help="What the built image has, not what files want.")
@click.option("--gpu", "gpus", multiple=True, metavar="NAME", help="A GPU: L4, H100, B200.")
@click.option(
    "--driver",
    metavar="VERSION",
    callback=_version,
    help="A driver or its branch: 550.163.01, 580.",
)
@click.option("--flavour", type=_FLAVOURS, help="The flavour of the driver's kernel module.")
@click.option("--module", type=_FLAVOURS, hidden=True, help="What --flavour was called once.")
@click.option("--kernel", metavar="RELEASE", help="A kernel, as uname -r prints it.")
@click.option("--cuda", metavar="VERSION", callback=_version, help="A CUDA toolkit: 12.4.")
@click.option(
    "--with", "frameworks", multiple=True, metavar="NAME[==VERSION]",
    help="A framework; without a version: which of its releases.",
)  # fmt: skip
@json_option
@click.pass_context
def compat(
    ctx: click.Context,
    /,
    stage: str | None,
    variant: str | None,
    gpus: tuple[str, ...],
    frameworks: tuple[str, ...],
    *,
    image: bool,
    as_json: bool,
    **said: Any,
) -> None:
    """Judge whether the versions of a variant go together, or answer what goes with what.

    Without a question: what the variant's files want; -v tells what is right, too, and on whose
    word. The exit status is 1 where something cannot work, and where no answer will do.

    \b
    Examples:
      vaultbuild compat --variant debian-13
      vaultbuild compat --image
      vaultbuild compat --gpu B200 --with torch==2.8.0       which driver?
      vaultbuild compat --driver 550 --gpu H100 --with torch     which torch?
    """
    project = ctx.obj.project(variant)
    if not project.judge.has_table:
        problem = Problem(Path(PATH), "is missing", hint="it lists what goes together")
        raise ProjectError([problem])
    if gpus or frameworks or any(said.values()):
        found = _answer(project, _question(gpus, frameworks, said), as_json=as_json)
        ctx.exit(0 if found else _FAILED)
    findings = _findings(project, stage, image=image)
    _tell(project, findings, whole=ctx.obj.verbosity > 0, as_json=as_json)
    ctx.exit(_FAILED if any(each.level == "fail" for each in findings) else 0)


def _question(gpus: tuple[str, ...], frameworks: tuple[str, ...], said: dict[str, Any]) -> Question:
    from builder.compat.answers import Question  # late: brings pydantic

    pairs = (framework.partition("==") for framework in frameworks)
    return Question(
        gpus=gpus,
        driver=said["driver"],
        flavour=said["flavour"] or said["module"],
        kernel=said["kernel"],
        cuda=said["cuda"],
        frameworks=tuple((name.strip(), version.strip()) for name, _, version in pairs),
    )


def _answer(project: Project, question: Question, *, as_json: bool) -> bool:
    """Tell what goes with what is asked about; return whether anything does."""
    from builder import report  # late, as above
    from builder.compat import answers, tell
    from builder.compat.judgement import month

    table = project.judge.table
    _require_known(question, table)
    found: Sequence[DriverAnswer | ReleaseAnswer]
    if question.open_framework:
        found = releases = answers.releases(question, table, month())
        lines = tell.release_lines(question, releases)
    else:
        found = drivers = answers.drivers(question, table, month())
        lines = tell.driver_lines(question, drivers)
    if as_json:
        report.emit_json({"schema": 1, "answers": [each.to_json() for each in found]})
    else:
        for line in lines:
            report.emit(line)
    return any(each.will_do for each in found)


def _require_known(question: Question, table: Table) -> None:
    """Refuse a question about what the table does not know: the answer would be a guess."""
    from builder.compat import versions  # late, as above
    from builder.suggest import suggestion

    frameworks = [name for name, _ in question.frameworks]
    strange = [("GPU", name, list(table.gpus)) for name in question.gpus if not table.gpu(name)]
    if question.driver and versions.major(question.driver) not in table.drivers:
        strange.append(("branch of the driver", question.driver, list(table.drivers)))
    strange += [
        ("framework", name, list(table.frameworks))
        for name in frameworks
        if name not in table.frameworks
    ]
    for kind, name, known in strange:
        hint = suggestion(name, known) or f"known are {', '.join(known)}"
        raise click.UsageError(f"stages/compatibility.yml knows no {kind} {name}; {hint}")


def _findings(project: Project, stage: str | None, *, image: bool) -> list[Finding]:
    name = project.target(stage)
    stages = [each.name for each in project.pipeline.lineage(name)]
    if not image:
        return project.judge.wanted(stages)
    return project.judge.installed(stages, project.image(name).record.packages)


def _tell(project: Project, findings: list[Finding], *, whole: bool, as_json: bool) -> None:
    from builder import report  # late, as above
    from builder.compat import tell

    if as_json:
        report.emit_json({"schema": 1, "findings": [each.to_json() for each in findings]})
        return
    for line in tell.finding_lines(findings, project.judge.table, whole=whole):
        report.emit(line)
