"""Builds of before, named by what their keys begin with: to look at, and to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import network
from builder.digest import digest_document, short
from builder.errors import StoreError
from builder.plan import make_plan
from builder.verify import read_verdict, verdict_path

if TYPE_CHECKING:
    from builder.network import NetworkLock
    from builder.plan import Plan
    from builder.project import Project
    from builder.store import Image
    from builder.verify import Verdict


def build_of(project: Project, name: str, key: str) -> Image:
    """Return the image of the stage ``name`` whose key begins with ``key``, of any variant.

    Raises :class:`StoreError`, which lists the builds of the stage, unless there is exactly one.
    """
    found = [image for image in project.store.all() if image.record.stage == name]
    chosen = [image for image in found if image.key.startswith(key)]
    if len(chosen) == 1:
        return chosen[0]
    problem = "names several builds" if chosen else "names no build"
    known = ", ".join(short(image.key) for image in found) or "none"
    raise StoreError(f"{key} {problem} of {name}", hint=f"in the store: {known}")


def lineage_of(project: Project, image: Image) -> list[Image]:
    """Return an image and those that it stands on, as far as they are there, the lowest first."""
    lineage = [image]
    while (parent := lineage[0].record.parent) and (above := project.store.find(parent)):
        lineage.insert(0, above)
    return lineage


def network_lock(project: Project, image: Image) -> NetworkLock:
    """Return one lock of an image and all it stands on; raise where one of them has none."""
    lineage = lineage_of(project, image)
    found = [network.read(each.folder / network.LOCK) for each in lineage]
    known = [lock for lock in found if lock]
    if lineage[0].record.parent or len(known) < len(lineage):
        stage = image.record.stage
        hint = f"{project.command(f'stage {stage} --force')}, on stages that are built again"
        raise StoreError(f"{stage}, or what it stands on, has no network lock", hint=hint)
    return network.merge(known)


def last_verdict(project: Project, image: Image) -> Verdict | None:
    """Return what checks said last about these very bytes, whatever the checks are now."""
    folder = verdict_path(project.var, image.key, "", "").parent
    newest_first = sorted(folder.glob("*.json"), key=lambda path: -path.stat().st_mtime_ns)
    found = (read_verdict(path) for path in newest_first)
    return next((each for each in found if each and each.disk == image.record.disk.sha256), None)


def plan_against(project: Project, name: str, key: str) -> Plan:
    """Compare the stage ``name`` as it is now with a build: with what ``key`` begins.

    The plan is that of a store which has this build and nothing else.
    """
    build = build_of(project, name, key)
    inputs = project.inputs(name)
    lineage = lineage_of(project, build)
    documents = {image.record.stage: list(image.record.documents) for image in lineage}
    roles = (document for image in lineage for document in image.record.documents)
    return make_plan(
        inputs,
        variant=project.pipeline.variant,
        present={image.key for image in lineage},
        last={stage.stage: documents.get(stage.stage) for stage in inputs},
        verdicts={image.key for image in lineage},
        checkpoints={digest_document(document) for document in roles},
    )
