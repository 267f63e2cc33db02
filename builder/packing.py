"""A stage under Packer: its template, rendered for this run, and the run itself.

Packer calls :mod:`builder.guest` back while the guest is up. What that program did stands in its
result file, which is believed; Packer only says that a script failed.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import guest, process, template
from builder.engines.greeting import silent
from builder.errors import CommandError
from builder.packer import CallbackError
from builder.sources.nocloud import write_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.engines import Machine
    from builder.packer import Message
    from builder.pipeline import Stage
    from builder.project import Project

_RENDERED = "stage.pkr.hcl"
# What Packer says of a guest that came up wrongly or not at all.
_NO_SSH = "waiting for SSH"


def render(
    project: Project, stage: Stage, circumstance: template.Circumstance, folder: Path
) -> str:
    """Return the Packer template of a stage under ``circumstance``, read from below ``folder``."""
    context = dataclasses.replace(project.template_context(stage), circumstance=circumstance)
    return template.render(folder / stage.template, context, search=[folder / "packer"])


def run_packer(
    project: Project,
    stage: Stage,
    job: guest.Job,
    machine: Machine,
    served: Mapping[str, Any],
    *,
    told: Callable[[Message], None] | None = None,
) -> guest.Result:
    """Run ``packer build`` for a stage that the engine serves; return what its callback did.

    ``served`` is what the engine yields; ``told`` hears what Packer says. Raises
    what went wrong in the guest, else Packer's word.
    """
    # In the snapshot's root: Packer takes the files that a template names from where that lies.
    rendered, log = job.snapshot / _RENDERED, machine.logs / "packer.log"
    circumstance = dataclasses.replace(_circumstance(project, stage, machine), **served)
    rendered.write_text(render(project, stage, circumstance, job.snapshot))
    shutil.copyfile(rendered, machine.logs / _RENDERED)
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    try:
        project.packer.build(
            rendered,
            work=machine.work,
            log=log,
            env=env,
            keep_fds=machine.locks,
            blame=stage.template,
            told=told,
        )
    except CallbackError:
        # The callback knows why; without its word, Packer's is all there is.
        if (failed := guest.read_result(job.result)) is not None:
            guest.raise_failure(failed)
        raise
    except CommandError as error:
        if _NO_SSH in error.output and machine.console.exists():
            raise silent(error, machine.console) from error
        raise
    result = guest.read_result(job.result)
    if result is None:
        raise CommandError(f"Packer ended well but never called back: see {rendered.name}", log=log)
    guest.raise_failure(result)
    return result


def _circumstance(project: Project, stage: Stage, machine: Machine) -> template.Circumstance:
    return template.Circumstance(
        private_key=machine.keys.private,
        public_key=machine.keys.public,
        callback=[sys.executable, "-m", "builder.guest", str(machine.work / "job.json")],
        cpus=machine.cpus,
        memory_mib=machine.memory_mib,
        console_log=machine.console,
        seed_files=_seed(project, stage, machine),
    )


def _seed(project: Project, stage: Stage, machine: Machine) -> tuple[Path, ...]:
    """Write what a cloud image is told when it boots for the first time."""
    if not project.seeded(stage):
        return ()
    process.require("xorriso")  # Packer makes the disk with it, and says less when there is none
    user_data = project.pipeline.source.settings["seed"]["user_data"]
    instance = f"vaultbuild-{machine.work.parent.name}"
    return write_seed(machine.work, user_data, public_key=machine.keys.public, instance=instance)
