"""Builds of before, named by what their keys begin with: to look at, and to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.digest import digest_document, short
from builder.errors import StoreError
from builder.plan import make_plan

if TYPE_CHECKING:
    from builder.plan import Plan
    from builder.project import Project
    from builder.store import Image


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


def plan_against(project: Project, name: str, key: str) -> Plan:
    """Compare the stage ``name`` as it is now with a build: with what ``key`` begins.

    The plan is that of a store which has this build and nothing else.
    """
    build = build_of(project, name, key)
    inputs = project.inputs(name)
    lineage: list[Image] = [build]
    while (parent := lineage[0].record.parent) and (above := project.store.find(parent)):
        lineage.insert(0, above)
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
