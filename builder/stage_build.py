"""Build one stage: its inputs, an overlay of its parent, an engine, Packer, a record.

Everything happens in a staging folder of the store. Packer calls :mod:`builder.guest` back while
the guest is up; what that program did stands in a file that is read here, and not in what Packer
says about it.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import __version__, disks, events, guest, network, sealing
from builder.checkpoints import Layers
from builder.engines import Machine, usage
from builder.engines.keys import make_keys, public_key_in
from builder.errors import StoreError
from builder.packing import run_packer
from builder.provision import Use
from builder.record import BuildRecord, StepRecord, utc_now
from builder.stage_network import StageNetwork
from builder.store import DISK, Image
from builder.workplace import disk_record, log_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.inputs import StageInputs
    from builder.pipeline import Stage
    from builder.plan import Step
    from builder.project import Project
    from builder.reporter import Reporter
    from builder.stage_network import Seen
    from builder.store import Store
    from builder.workplace import Workplace

MOST_LAYERS = 4
"""Of one stage: reads look through them until one has the bytes, so longer chains are merged when
the stage is done. ``bench.layers`` measures what they cost."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a stage's disk begins as: its parent's image, or a checkpoint of its own.

    ``index`` is the number of the first role that runs; ``keys`` names, by the number of their
    roles, the checkpoints to be made: those that no earlier run left.
    """

    disk: Image
    index: int
    keys: Mapping[int, str]

    @property
    def resumed(self) -> Image | None:
        """The checkpoint; None where the stage begins with its first role."""
        return self.disk if self.disk.record.role else None


def build_stage(
    step: Step,
    inputs: StageInputs,
    parent: Image,
    held: Sequence[int],
    place: Workplace,
    *,
    again: bool = False,
) -> Image:
    """Build one stage in a staging folder and commit it; ``held`` are the locks it needs.

    ``again``: this run has tried it before, and what that left is as new as can be.
    """
    store = place.project.store
    with contextlib.ExitStack() as stack:
        if step.moved and not again:
            _discard_checkpoints(inputs, store, place.reporter)
        locks = [*held, *_lock_roles(stack, inputs, place)]
        start = _start(inputs, parent, store, anew=_anew(step, again=again))
        if start.resumed:
            place.reporter.note(f"going on after {start.resumed.record.role}")
        staged = stack.enter_context(store.staging())
        return _build(step, inputs, parent, start, staged, locks, place)


def _build(
    step: Step,
    inputs: StageInputs,
    parent: Image,
    start: Start,
    staged: Path,
    locks: Sequence[int],
    place: Workplace,
) -> Image:
    project, started = place.project, time.monotonic()
    logs = log_folder(project, step.stage, step.key)
    stage = project.pipeline.stage(step.stage)
    net = StageNetwork(place.outside, stage, logs, project.engine.guest_host)
    work = staged / "work"
    work.mkdir()
    try:
        result = _provision(net, inputs, parent, start, staged, locks, place)
    except BaseException:
        if place.options.keep_failed:
            _keep_failed(project, step.stage, work / "result.json", place.reporter)
        raise
    login = public_key_in(work)
    shutil.rmtree(work)
    checkpoint = _settle(staged, result, start, parent)
    _seal(stage, staged, logs, locks, place)
    shutil.copytree(logs, staged / "logs")
    resumed = start.resumed.record if start.resumed else None
    before = network.read(start.resumed.folder / network.LOCK) if start.resumed else None
    told = net.settle(staged, before, place.reporter)
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
        roles=(*(resumed.roles if resumed else ()), *map(_step_record, result.roles)),
        tools={**_stage_document(inputs)["tools"], "engine": project.engine.name,
               "strategy": result.strategy, "vaultbuild": __version__},
        network=told,
        checkpoint=checkpoint,
        below_sha256=_below_sha256(project.store, checkpoint, parent),
        resumed_after=resumed.role if resumed else None,
        logins=(*(resumed.logins if resumed else ()), login),
        largest_process_bytes=_largest_process(logs, resumed, project),
    )  # fmt: skip
    image = project.store.commit(staged, record, replace=True)
    # What failed before is of no use beside an image.
    shutil.rmtree(_failed_folder(project, step.stage), ignore_errors=True)
    return image


def _largest_process(logs: Path, resumed: BuildRecord | None, project: Project) -> int | None:
    """Return what the largest process took; of roles that did not run again, as it was before."""
    seen = [usage.largest_process(logs)]
    if resumed and (last := project.store.last_image(resumed.variant, resumed.stage)):
        seen.append(last.record.largest_process_bytes)
    return max((each for each in seen if each), default=None)


def _seal(stage: Stage, staged: Path, logs: Path, locks: Sequence[int], place: Workplace) -> None:
    """Seal the disk of a stage that ends with sealing: its machine wrote when it was stopped."""
    if stage.sealed is None:
        return
    snapshot, work = place.snapshots[stage.name], staged / "seal"
    if why := sealing.obstacle(snapshot):
        place.reporter.note(f"the disk was sealed in its machine alone: {why}")
        sealing.clear(staged / DISK, work)
    else:
        patterns = stage.sealed.variables.get("seal_extra_patterns", ())
        sealing.seal(staged / DISK, snapshot, patterns, work=work, logs=logs, locks=locks)
    disks.check(staged / DISK)


def _below_sha256(store: Store, checkpoint: str | None, parent: Image) -> str:
    below = store.checkpoint(checkpoint) if checkpoint else parent
    if below is None:
        raise StoreError("a checkpoint vanished while its stage was built", hint="run it again")
    return below.record.disk.sha256


def _discard_checkpoints(inputs: StageInputs, store: Store, reporter: Reporter) -> None:
    """Remove the checkpoints of a stage: a later run would go on from what was downloaded then."""
    for _, key in inputs.roles[:-1]:
        with store.locked(key, waiting=lambda who: reporter.note(f"waiting for {who}")):
            store.discard(f"checkpoints/{key}")


def _lock_roles(
    stack: contextlib.ExitStack, inputs: StageInputs, place: Workplace
) -> Iterator[int]:
    """Hold each checkpoint, or where there is none the right to make it: others may want the same.

    In the order of the chain, so that no two runs wait for each other.
    """
    for _, key in inputs.roles[:-1]:
        yield _lock_role(stack, key, place.project.store, place.reporter)


def _lock_role(stack: contextlib.ExitStack, key: str, store: Store, reporter: Reporter) -> int:
    def waiting(who: str) -> None:
        reporter.note(f"waiting for {who}")

    if store.checkpoint(key):
        with contextlib.ExitStack() as shared:
            lock = shared.enter_context(store.locked(key, waiting=waiting, shared=True))
            # While it was waited for, it may have been pruned.
            if store.checkpoint(key):
                stack.enter_context(shared.pop_all())
                return lock
    return stack.enter_context(store.locked(key, waiting=waiting))


def _anew(step: Step, *, again: bool) -> bool:
    """Whether to begin with the first role whatever is there.

    What ``--force`` finds is of earlier runs, at each attempt; after what moved, only this run's
    checkpoints are left when it tries again.
    """
    return step.again and not (again and step.moved)


def _start(inputs: StageInputs, parent: Image, store: Store, *, anew: bool) -> Start:
    """Find the longest unbroken run of checkpoints; read all its bytes before they are used."""
    present = [store.checkpoint(key) is not None for _, key in inputs.roles]
    missing = {index: key for index, (_, key) in enumerate(inputs.roles) if not present[index]}
    # After the last role comes the image itself.
    keys = {index: key for index, key in missing.items() if index < len(inputs.roles) - 1}
    first = 0 if anew else next((i for i, there in enumerate(present) if not there), len(present))
    if not first:
        return Start(parent, 0, keys)
    return Start(store.verified_checkpoint(inputs.roles[first - 1][1]), first, keys)


def _settle(staged: Path, result: guest.Result, start: Start, parent: Image) -> str | None:
    """Leave the finished disk alone in its folder; return the checkpoint that it stands on."""
    disk = staged / DISK
    if result.top and Path(result.top) != disk:
        Path(result.top).replace(disk)
    for layer in staged.glob("*.qcow2"):
        if layer != disk:
            layer.unlink()
    checkpoint = result.checkpoint
    if checkpoint == (start.resumed.key if start.resumed else None):
        # A project's own template may have named it by a path that only holds here.
        disks.name_backing(disk, start.disk.backing)
    if disks.depth(disk, below=parent.disk) > MOST_LAYERS:
        disks.merge(disk, parent.backing)
        checkpoint = None
    disks.check(disk)
    return checkpoint


def _provision(
    net: StageNetwork,
    inputs: StageInputs,
    parent: Image,
    start: Start,
    staged: Path,
    locks: Sequence[int],
    place: Workplace,
) -> guest.Result:
    """Run Packer on a new overlay of what the stage begins as; return what its callback did."""
    stage, work = net.stage, staged / "work"
    with net.served() as seen:
        machine = Machine(
            disk=staged / DISK,
            work=work,
            logs=net.logs,
            keys=make_keys(work),
            cpus=stage.resources.cpus,
            memory_mib=stage.resources.memory_mib,
            forwards=seen.forwards,
            locks=locks,
        )
        job = _job(stage, machine, seen, place)
        return _serve(net, inputs, parent, start, machine, job, place)


def _serve(
    net: StageNetwork,
    inputs: StageInputs,
    parent: Image,
    start: Start,
    machine: Machine,
    job: guest.Job,
    place: Workplace,
) -> guest.Result:
    project, stage = place.project, net.stage
    with (
        _followed(job.events, place.reporter),
        project.engine.serve(machine, start.disk.backing) as served,
    ):
        layers = Layers(
            engine=project.engine.name,
            monitor=served.monitor,
            disk=machine.disk,
            started=served.disk,
            store=project.store.root,
            variant=project.pipeline.variant,
            stage=stage.name,
            parent=parent.key,
            backing=start.disk.backing,
            below_sha256=start.disk.record.disk.sha256,
            resumed_from=start.resumed.key if start.resumed else None,
            roles=start.resumed.record.roles if start.resumed else (),
            keys=start.keys,
            documents=dict(enumerate(inputs.role_documents)),
            network=net.facts,
        )
        job = replace(job, first_role=start.index, layers=layers)
        guest.write_job(machine.work / "job.json", job)
        return run_packer(
            project,
            stage,
            job,
            machine,
            served.circumstance,
            told=lambda message: place.reporter.packer(stage.name, message),
        )


def _job(stage: Stage, machine: Machine, seen: Seen, place: Workplace) -> guest.Job:
    folder = place.snapshots[stage.name]
    return guest.Job(
        stage=stage.name,
        snapshot=folder,
        private_key=machine.keys.private,
        logs=machine.logs,
        events=machine.logs / events.FILE,
        result=machine.work / "result.json",
        roles=tuple(
            Use(
                use.name,
                {**use.variables, **{name: str(folder / path) for name, path in use.paths.items()}},
                seen.environment(use.name),
            )
            for use in stage.roles
        ),
        caches=seen.caches,
        journal=machine.logs / network.JOURNAL,
        modules=place.project.var / "modules",
        keep_failed=place.options.keep_failed,
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


def _keep_failed(project: Project, stage: str, account: Path, reporter: Reporter) -> None:
    """Keep the disk of a stage that failed, for ``vaultbuild shell``."""
    result = guest.read_result(account)
    if result is None or result.failed is None:
        reporter.note("there is no disk to keep: the guest failed before or beside its roles")
        return
    folder = _failed_folder(project, stage)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # As deep as a staging folder: the disk finds what it stands on.
    Path(result.failed).rename(folder / DISK)
    reporter.note(f"kept the failed disk; look inside with: {project.command(f'shell {stage}')}")


def _failed_folder(project: Project, stage: str) -> Path:
    return project.var / "failed" / f"{project.pipeline.variant}-{stage}"


def _step_record(role: Mapping[str, Any]) -> StepRecord:
    return StepRecord(role["role"], round(role["seconds"], 2), role["changed"], role["tasks"])


def _packages(result: guest.Result) -> dict[str, dict[str, str]]:
    found = dict(result.packages.get("dpkg", {}))
    venvs = result.packages.get("python", {})
    return {"dpkg": found, **{f"python {path}": dict(names) for path, names in venvs.items()}}


def _stage_document(inputs: StageInputs) -> dict[str, Any]:
    return dict(next(document for document in inputs.documents if document["kind"] == "stage"))
