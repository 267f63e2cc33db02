"""Carry out a plan: stage by stage, each from its parent's disk, each checked when it is there.

Nothing is decided here. A stage is built in a staging folder of the store under the lock of its
key, and becomes an image by one rename; whatever goes wrong before that leaves logs and nothing
else. Two runs that want the same image build it once: the second finds it when it gets the lock.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from typing import TYPE_CHECKING, Any

from builder import __version__, caches, files, network, texts
from builder.disks import LEAST_FREE
from builder.errors import HostError, VaultbuildError
from builder.inputs import snapshot
from builder.record import BuildRecord, utc_now
from builder.reporter import Tee
from builder.store import DISK, Image
from builder.timing import Timekeeper
from builder.verify import require_passed, verdict_path, verify
from builder.workplace import Options, Workplace, disk_record, log_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.caches import Endpoints
    from builder.caches.isos import IsoGot
    from builder.engines import Engine
    from builder.inputs import StageInputs
    from builder.needs import Needs
    from builder.plan import Plan, Step
    from builder.project import Project
    from builder.reporter import Reporter
    from builder.store import Store
    from builder.supplies import Supplies
    from builder.verify import CheckSet, Verdict


def carry_out(
    plan: Plan,
    lineage: Sequence[StageInputs],
    project: Project,
    reporter: Reporter,
    options: Options | None = None,
) -> Image:
    """Do what ``plan`` says and return the image of its last stage.

    Raises :class:`builder.errors.ProvisionError`, :class:`builder.errors.CheckError` or another
    :class:`builder.errors.VaultbuildError`; stages that were finished before stay in the store.
    """
    keeper = _keeper(project, reporter)
    told = Tee(reporter, keeper)
    told.concerning(plan.variant, project.engine.name)
    told.planned(plan, project.estimate(plan, lineage))
    image = _carry_out(plan, lineage, project, told, options or Options())
    if slow := keeper.slower():
        reporter.note(slow)
    return image


def _keeper(project: Project, reporter: Reporter) -> Timekeeper:
    """Make who remembers how long things take, and knows how long they took before."""
    variant, engine = project.pipeline.variant, project.engine.name
    return Timekeeper(project.history, variant, engine, warn=reporter.warning)


def _carry_out(
    plan: Plan,
    lineage: Sequence[StageInputs],
    project: Project,
    reporter: Reporter,
    options: Options,
) -> Image:
    project.store.sweep()
    if any(step.action != "reuse" for step in plan.steps):
        project.packer.require_plugins(project.engine.name)
        _require_space(project)
    with (
        _snapshots(plan, lineage, project) as inputs_of,
        _supplies(project, reporter, options, inputs_of) as supplies,
    ):
        place = Workplace(project, reporter, options, supplies, inputs_of)
        image: Image | None = None
        for number, (step, inputs) in enumerate(zip(plan.steps, lineage, strict=True), 1):
            reporter.stage_started(step, number, len(plan.steps))
            with _told_when_it_fails(step, lineage, project.store, reporter):
                image = _have(step, inputs, image, place)
            project.store.remember(plan.variant, step.stage, inputs.documents)
            last = number == len(plan.steps)
            if step.verify and (last or project.checks(step.stage, whole=False).folders):
                _check(project, image, reporter, whole=last)
    if image is None:
        raise ValueError("a plan without steps")
    return image


def _require_space(project: Project) -> None:
    """Refuse to begin where the disk is as good as full: a guest that cannot write hangs."""
    folder = project.var if project.var.is_dir() else project.folder
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise HostError(
            f"{free >> 20} MiB are free at {folder}; a build needs {LEAST_FREE >> 20} MiB or more",
            hint="vaultbuild cache prune --dry-run says what can go",
        )


def what_is_kept(store: Store, lineage: Sequence[StageInputs], stage: str) -> str | None:
    """Say what a run that ended in ``stage`` leaves to the next one; None when that is nothing."""
    done: list[str] = []
    for inputs in lineage:
        if inputs.stage == stage:
            roles = itertools.takewhile(lambda pair: store.checkpoint(pair[1]), inputs.roles)
            last = [role for role, _ in roles]
            done += [f"{stage} up to {last[-1]}"] if last else []
            break
        done.append(inputs.stage)
    return f"kept for the next run: {', '.join(done)}" if done else None


@contextlib.contextmanager
def _snapshots(
    plan: Plan, lineage: Sequence[StageInputs], project: Project
) -> Iterator[Mapping[str, Path]]:
    """Copy the inputs of every stage that will run: later edits belong to the next run."""
    chosen = [
        inputs for step, inputs in zip(plan.steps, lineage, strict=True) if step.action != "reuse"
    ]
    if not chosen:
        yield {}
        return
    with project.store.staging() as folder:
        found = {inputs.stage: folder / inputs.stage for inputs in chosen}
        for inputs in chosen:
            snapshot(project.folder, inputs, found[inputs.stage])
            texts.keep(project.var, found[inputs.stage], inputs.files)
        yield found


@contextlib.contextmanager
def _supplies(
    project: Project, reporter: Reporter, options: Options, inputs_of: Mapping[str, Path]
) -> Iterator[Supplies | None]:
    """Have the caches answer, and what the stages need of them ready; None where nothing runs."""
    if not inputs_of:
        yield None
        return
    from builder.needs import needs_of  # late: what reuses everything needs nothing
    from builder.provide import names_for
    from builder.supplies import Supplies

    reporter.doing("starting the caches")
    pipeline, offline = project.pipeline, options.offline
    needs = needs_of(pipeline, project.packages_below).of_stages(inputs_of)
    with caches.running(
        pipeline.caches, project.folder, names=names_for(needs), offline=offline
    ) as endpoints:
        supplies = Supplies(pipeline, project.var, endpoints, reporter, offline)
        if needs.wheels or needs.models:
            _provide(project, needs, supplies, inputs_of)
        yield supplies


def _provide(
    project: Project, needs: Needs, supplies: Supplies, inputs_of: Mapping[str, Path]
) -> None:
    """Have ready what the roles will ask the caches of files for."""
    from builder.provide import Means, provide  # late, as above

    journal = log_folder(project, "provide") / network.JOURNAL
    with supplies.served(None, journal) as seen:
        means = Means(
            project.folder, supplies.index(seen), project.pipeline.caches,
            supplies.reporter.note, offline=supplies.offline, snapshots=inputs_of,
        )  # fmt: skip
        done = provide(needs, means)
    supplies.houses.update(done.houses)
    supplies.fresh.update(done.fresh(network.read_journal(journal)))


@contextlib.contextmanager
def _told_when_it_fails(
    step: Step, lineage: Sequence[StageInputs], store: Store, reporter: Reporter
) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    except BaseException:
        reporter.stage_failed(step, time.monotonic() - started)
        if kept := what_is_kept(store, lineage, step.stage):
            reporter.note(kept)
        raise


def _check(project: Project, image: Image, reporter: Reporter, *, whole: bool) -> None:
    """Have a good verdict on an image, by remembering or by asking it.

    Raises :class:`builder.errors.CheckError` unless the image is good, and what is installed goes
    together.
    """
    stage = image.record.stage
    checks = project.checks(stage, whole=whole)
    known = project.verdict(image, checks)
    if known and known.passed:
        reporter.checked(stage, known, known=True)
    else:
        verdict, log = _judge(project, image, reporter, checks, project.engine)
        require_passed(verdict, stage, project.command, log=log)
    project.require_compatible_image(image)


def judge(
    project: Project,
    image: Image,
    reporter: Reporter,
    checks: CheckSet,
    engine: Engine,
    *,
    junit: Path | None = None,
) -> tuple[Verdict, Path]:
    """Ask an image, booted by ``engine``; keep the verdict, return it and pytest's log."""
    told = Tee(reporter, _keeper(project, reporter))
    told.concerning(project.pipeline.variant, engine.name)
    return _judge(project, image, told, checks, engine, junit=junit)


def _judge(
    project: Project,
    image: Image,
    reporter: Reporter,
    checks: CheckSet,
    engine: Engine,
    *,
    junit: Path | None = None,
) -> tuple[Verdict, Path]:
    stage = image.record.stage
    reporter.checking(stage)
    logs = log_folder(project, stage, image.key, "checks")
    resources = project.pipeline.stage(stage).resources
    with project.store.using(
        image, waiting=lambda who: reporter.note(f"waiting for {who}")
    ) as held:
        verdict = verify(held, checks, engine, resources, logs=logs, junit=junit)
    path = verdict_path(project.var, image.key, verdict.checks, verdict.engine)
    files.write_json(path, verdict.to_json())
    reporter.checked(stage, verdict, known=False)
    return verdict, logs / "checks.log"


def _have(step: Step, inputs: StageInputs, parent: Image | None, place: Workplace) -> Image:
    """Return the stage's image, from the store or built now."""
    store, reporter = place.project.store, place.reporter
    if step.action == "reuse" and (image := store.find(step.key)):
        reporter.stage_reused(step)
        return image
    from builder.patience import Patience, persevere  # late: engines and gateways come with it
    from builder.stage_build import build_stage

    with store.locked(step.key, waiting=lambda who: reporter.note(f"waiting for {who}")) as lock:
        if not step.again and (image := store.find(step.key)):
            reporter.stage_reused(step)
            return image
        store.clear(step.key)
        started = time.monotonic()
        source = None if parent else _source(inputs, place, again=step.moved)
        with _below(parent or source, place) as (below, held):
            attempt = itertools.count()
            image = persevere(
                lambda: build_stage(
                    step, inputs, below, (lock, held), place, again=next(attempt) > 0
                ),
                Patience(attempts=place.options.attempts),
                reporter.warning,
            )
    reporter.stage_finished(step, image.record, time.monotonic() - started)
    return image


@contextlib.contextmanager
def _below(image: Image | None, place: Workplace) -> Iterator[tuple[Image, int]]:
    """Hold what a stage is built on, so that nobody replaces it; yield it, every byte verified."""
    assert image is not None, "a stage has a parent or a source"  # noqa: S101
    store = place.project.store
    waiting = place.reporter.note
    with store.locked(
        image.key, waiting=lambda who: waiting(f"waiting for {who}"), shared=True
    ) as lock:
        yield store.verified(image.key), lock


def _source(inputs: StageInputs, place: Workplace, *, again: bool) -> Image:
    """Return the disk that the root stage starts from, making it when the store has none.

    ``again`` makes it in any case: the packages that it was made from have moved.
    """
    store, key = place.project.store, inputs.keys[0]
    with store.locked(key, waiting=lambda who: place.reporter.note(f"waiting for {who}")) as lock:
        if not again and (found := store.find(key)):
            return found
        store.clear(key)
        pipeline = place.project.pipeline
        place.reporter.source_started(pipeline.source.kind)
        started = time.monotonic()
        logs = log_folder(place.project, "source", key)
        with store.staging() as staged:
            told = _make_source(staged, key, logs, place, lock)
            disk = disk_record(staged / DISK)
            shutil.copytree(logs, staged / "logs")
            record = BuildRecord(
                key=key,
                variant=pipeline.variant,
                stage="source",
                created=utc_now(),
                seconds=round(time.monotonic() - started, 1),
                documents=(inputs.documents[0],),
                parent=None,
                disk=disk,
                tools={"vaultbuild": __version__},
                network=told,
            )
            image = store.commit(staged, record, replace=again)
        place.reporter.source_finished(image.record)
        return image


def _make_source(staged: Path, key: str, logs: Path, place: Workplace, held: int) -> dict[str, Any]:
    """Make the root disk; write its network lock; return what its record says of the network."""
    from builder.sources import make_source  # late, as above

    supplies, pipeline = place.outside, place.project.pipeline
    journal = logs / network.JOURNAL
    try:
        with supplies.served(None, journal) as seen:
            if pipeline.source.kind == "iso":
                image: IsoGot | None = _installed(staged, key, logs, place, held, seen)
            else:
                image = make_source(
                    pipeline, staged / DISK, identity=key, apt_proxy=seen.apt, logs=logs,
                    fetcher=supplies.fetcher, offline=supplies.offline,
                )  # fmt: skip
        if image:
            supplies.note_image(image, journal)
    except VaultbuildError as error:
        network.blame(error, network.read_journal(journal))
        raise
    lock, told = supplies.settle(None, logs)
    network.write(staged / network.LOCK, lock)
    return told


def _installed(
    staged: Path, key: str, logs: Path, place: Workplace, held: int, seen: Endpoints
) -> IsoGot:
    """Have the root disk made by an installer; return the ISO."""
    from builder.installation import Installation, install  # late, as above
    from builder.sources import image_of

    project, supplies = place.project, place.outside
    medium = image_of(project.pipeline, supplies.fetcher, offline=supplies.offline)
    run = Installation(
        project=project,
        medium=medium.path,
        snapshot=place.snapshots[project.pipeline.stages[0].name],
        staged=staged,
        logs=logs,
        key=key,
        locks=(held,),
        reporter=place.reporter,
    )
    install(run, staged / DISK, seen)
    return medium
