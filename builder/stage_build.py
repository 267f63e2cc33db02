"""Build one stage: its inputs, an overlay of its parent, an engine, Packer, a record.

Everything happens in a staging folder of the store. Packer calls :mod:`builder.guest` back while
the guest is up; what that program did stands in a file that is read here, and not in what Packer
says about it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder import __version__, digest, disks, events, guest
from builder.engines import Forward, Machine
from builder.engines.keys import make_keys
from builder.packing import run_packer
from builder.provision import Caches, Use
from builder.record import BuildRecord, DiskRecord, StepRecord
from builder.store import DISK, Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from builder import caches
    from builder.inputs import StageInputs
    from builder.pipeline import Stage
    from builder.plan import Step
    from builder.project import Project
    from builder.report import Reporter

# Where a guest finds the caches; the ports are those their programs are known by.
GUEST_PORTS = {"apt": 3142, "pypi": 3141}


@dataclass(frozen=True, slots=True)
class Options:
    """How a plan is carried out. ``keep_failed`` keeps the disk of a stage that failed."""

    keep_failed: bool = False


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all stages of a run share."""

    project: Project
    reporter: Reporter
    options: Options
    endpoints: caches.Endpoints | None
    snapshots: Mapping[str, Path]
    """By stage: the copy of its inputs that it is built from."""


def build_stage(
    step: Step, inputs: StageInputs, parent: Image, lock: int, place: Workplace
) -> Image:
    """Build one stage in a staging folder and commit it."""
    project, started = place.project, time.monotonic()
    logs = log_folder(project, step.stage, step.key)
    with project.store.staging() as staged:
        work = staged / "work"
        work.mkdir()
        try:
            result = _provision(step, parent, staged, (lock,), logs, place)
        except BaseException:
            if place.options.keep_failed:
                _keep_failed(project, step.stage, staged / DISK, parent, place.reporter)
            raise
        shutil.rmtree(work)
        disks.check(staged / DISK)
        shutil.copytree(logs, staged / "logs")
        record = BuildRecord(
            key=step.key,
            variant=project.pipeline.variant,
            stage=step.stage,
            created=utc_now(),
            seconds=round(time.monotonic() - started, 1),
            documents=inputs.documents,
            parent=parent.key,
            disk=disk_record(staged / DISK),
            packages=_packages(result),
            roles=tuple(
                StepRecord(role["role"], round(role["seconds"], 2), role["changed"], role["tasks"])
                for role in result.roles
            ),
            tools={**_stage_document(inputs)["tools"], "engine": project.engine.name,
                   "strategy": result.strategy, "vaultbuild": __version__},
            network=project.pipeline.stage(step.stage).network,
        )  # fmt: skip
        return project.store.commit(staged, record, replace=True)


def _provision(
    step: Step,
    parent: Image,
    staged: Path,
    locks: Sequence[int],
    logs: Path,
    place: Workplace,
) -> guest.Result:
    """Run Packer on a new overlay of the parent; return what its callback did."""
    project, work = place.project, staged / "work"
    stage = project.pipeline.stage(step.stage)
    machine = Machine(
        disk=staged / DISK,
        work=work,
        logs=logs,
        keys=make_keys(work),
        cpus=stage.resources.cpus,
        memory_mib=stage.resources.memory_mib,
        forwards=_forwards(place.endpoints),
        locks=locks,
    )
    job = _job(stage, machine, place)
    guest.write_job(work / "job.json", job)
    with (
        _followed(job.events, place.reporter),
        project.engine.serve(machine, f"../{parent.key}/{DISK}") as served,
    ):
        return run_packer(project, stage, job, machine, served)


def _job(stage: Stage, machine: Machine, place: Workplace) -> guest.Job:
    folder = place.snapshots[stage.name]
    return guest.Job(
        stage=stage.name,
        snapshot=folder,
        private_key=machine.keys.private,
        logs=machine.logs,
        events=machine.logs / "events.jsonl",
        result=machine.work / "result.json",
        roles=tuple(
            Use(
                use.name,
                {**use.variables, **{name: str(folder / path) for name, path in use.paths.items()}},
            )
            for use in stage.roles
        ),
        caches=_guest_caches(place),
    )


def _guest_caches(place: Workplace) -> Caches:
    if place.endpoints is None:
        return Caches()
    seen = place.endpoints.seen_at(place.project.engine.guest_host, GUEST_PORTS)
    return Caches(apt_proxy=seen.apt, pip_index=seen.pypi)


def _forwards(endpoints: caches.Endpoints | None) -> tuple[Forward, ...]:
    if endpoints is None:
        return ()
    return tuple(
        Forward(name, address.host, address.port, GUEST_PORTS[name])
        for name, address in endpoints.addresses.items()
    )


@contextlib.contextmanager
def _followed(path: Path, reporter: Reporter) -> Iterator[None]:
    """Tell the reporter what the callback tells, while the block runs."""
    stop = threading.Event()
    follower = threading.Thread(target=events.follow, args=(path, stop, reporter.event))
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()


def _keep_failed(
    project: Project, stage: str, disk: Path, parent: Image, reporter: Reporter
) -> None:
    """Keep the disk of a stage that failed, for ``vaultbuild shell``."""
    if not disk.exists():
        return
    folder = project.var / "failed" / f"{project.pipeline.variant}-{stage}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    disks.rebase(disk, f"../../images/{parent.key}/{DISK}", moved_to=folder / DISK)
    reporter.note(f"kept the failed disk; look inside with: vaultbuild shell {stage} --failed")


def _packages(result: guest.Result) -> dict[str, dict[str, str]]:
    found = dict(result.packages.get("dpkg", {}))
    venvs = result.packages.get("python", {})
    return {"dpkg": found, **{f"python {path}": dict(names) for path, names in venvs.items()}}


def _stage_document(inputs: StageInputs) -> dict[str, Any]:
    return dict(next(document for document in inputs.documents if document["kind"] == "stage"))


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


def utc_now() -> str:
    """Return this moment as records write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
