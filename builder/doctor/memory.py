"""Whether the memory is enough for what a build runs, and for the two machines of its release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from builder.doctor.finding import Finding, size
from builder.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.doctor.finding import Case, Level
    from builder.pipeline import Stage

_MIB: Final = 1 << 20
# Of a release, one under BIOS and one under UEFI.
_CLONES: Final = 2


def guests(case: Case) -> Iterator[Finding]:
    """Say whether what runs at once fits into the memory: stages, and later the release's VMs.

    A VM takes its memory bit by bit, so where two fit only in part it is a warning; a VM, or a
    process, that is larger than the whole host is a failure.
    """
    parts = list(_building(case))
    build = max((count for count, _ in parts), default=0)
    one, name = _published(case)
    need, least = max(build, _CLONES * one), max(build, one)
    total, available = case.host.memory()
    level: Level = "ok" if available >= need else "fail" if total < least else "warn"
    evidence = "; ".join(
        [
            f"{size(available)} available of {size(total)}, {size(need)} needed",
            *(words for _, words in parts),
            f"publishing boots {_CLONES} VMs of {name} at once, with {size(one)} each",
        ]
    )
    cure = "free some, or lower resources.memory in stages/pipeline.yml"
    yield Finding("memory", "memory", level, evidence, "" if level == "ok" else cure)


def _building(case: Case) -> Iterator[tuple[int, str]]:
    """Yield what stages need, with the words for it: VMs what they are given, containers the rest.

    A container takes what it needs, and what that is only earlier builds know.
    """
    pipeline = case.pipeline
    if pipeline.source.kind == "iso":
        count = pipeline.resources.memory_mib * _MIB
        yield count, f"the VM that installs gets {size(count)}"
    if case.engine == "nspawn":
        took = max(processes(case), key=lambda each: each[0], default=None)
        if took is None:
            yield 0, "stages run in containers, and no build has told yet what those need"
        else:
            count, stage = took
            yield count, f"stages run in containers, a process of {stage.name} took {size(count)}"
    elif pipeline.stages:
        most = max(pipeline.stages, key=lambda stage: stage.resources.memory_mib)
        count = most.resources.memory_mib * _MIB
        yield count, f"stages run in VMs, one at a time, {most.name} with {size(count)}"


def _published(case: Case) -> tuple[int, str]:
    """Return the memory of a VM that a release is booted in, and the stage that is published."""
    stages = case.pipeline.stages
    resources = stages[-1].resources if stages else case.pipeline.resources
    return resources.memory_mib * _MIB, stages[-1].name if stages else "the release"


def history(case: Case) -> Iterator[Finding]:
    """Say whether there is memory for the largest process of earlier builds.

    One process, not all of a machine: what a build needs is at least that. What a VM is given
    counts where stages run in VMs.
    """
    told = list(processes(case))
    if not told:
        return
    need, stage = max(told, key=lambda each: each[0])
    total, available = case.host.memory()
    given = stage.resources.memory_mib * _MIB
    in_vms = case.engine == "qemu"
    enough = min(available, given) if in_vms else available
    level: Level = "fail" if total < need else "warn" if enough < need else "ok"
    parts = ", ".join(f"{stage.name} {size(took)}" for took, stage in told)
    evidence = f"the largest processes of the last builds: {parts}; {size(available)} available"
    evidence += f", and a VM of {stage.name} gets {size(given)}" if in_vms else ""
    cure = "free some"
    cure += f", or raise resources.memory in stages/{stage.name}/stage.yml" if in_vms else ""
    cure = "" if level == "ok" else cure
    yield Finding("memory-history", "memory that builds took", level, evidence, cure)


def processes(case: Case) -> Iterator[tuple[int, Stage]]:
    """Yield what the largest process of each stage took when it was built last, where known."""
    store = Store(case.var)
    for stage in case.pipeline.stages:
        image = store.last_image(case.pipeline.variant, stage.name)
        if image and image.record.largest_process_bytes:
            yield image.record.largest_process_bytes, stage
