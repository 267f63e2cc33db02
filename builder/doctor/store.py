"""What builds will need of the disk, by what earlier ones took; whether the store is in order."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from builder import digest, disks
from builder.doctor.finding import Finding, size
from builder.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.doctor.finding import Case, Level
    from builder.pipeline import Stage
    from builder.store import Image

# A build that differs from the last one may take more; and the release is made beside the stages.
_ROOM = 2
_PRUNE = "vaultbuild cache prune --dry-run says what can go from cache/var"


def disk(case: Case) -> Iterator[Finding]:
    """Say whether there is room for all stages anew, and for a release.

    As large as they were last time; where that is not known, it is a guess, and no failure.
    """
    folder = next(path for path in (case.var, *case.var.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    last = dict(_last(case))
    whole = last and all(stage.name in last for stage in case.pipeline.stages)
    level, why = room(free, last if whole else {}, case.pipeline.resources.disk_bytes)
    evidence = f"{size(free)} free at {folder}; {why}"
    yield Finding("disk", "free disk", level, evidence, "" if level == "ok" else _PRUNE)


def room(free: int, last: Mapping[str, int], most: int) -> tuple[Level, str]:
    """Return how bad it is that so many bytes are free, and by what that is judged.

    ``last`` is what the source and the stages took last time, empty where one was never built;
    ``most`` is what a disk may become.
    """
    took = sum(last.values())
    need, fails = _ROOM * (took or most), max(took, disks.LEAST_FREE)
    if last:
        parts = ", ".join(f"{name} {size(count)}" for name, count in last.items())
        why = f"all took {size(took)} last time ({parts}), {size(need)} with a release"
    else:
        why = f"not all was built yet; a guess by resources.disk: {size(need)} with a release"
    warns = max(need, fails)
    level: Level = "fail" if free < fails else "warn" if free < warns else "ok"
    return level, f"{why}; below {size(warns)} it warns, below {size(fails)} it fails"


def _last(case: Case) -> Iterator[tuple[str, int]]:
    """Yield what the source and each stage took on the disk when they were built last."""
    store = Store(case.var)
    for stage in case.pipeline.stages:
        if stage.parent is None and (source := _source(store, case, stage)):
            yield "source", source.record.disk.bytes
        if image := store.last_image(case.pipeline.variant, stage.name):
            yield stage.name, image.record.disk.bytes


def _source(store: Store, case: Case, root: Stage) -> Image | None:
    documents = store.last(case.pipeline.variant, root.name)
    return store.find(digest.digest_document(documents[0])) if documents else None


def health(case: Case) -> Iterator[Finding]:
    """Say whether something in the store is broken, or was."""
    title = "store"
    aside = sorted((case.var / "quarantine").glob("*/*"))
    broken = [place for place, found in Store(case.var).survey() if isinstance(found, str)]
    if broken:
        evidence = f"{len(broken)} of its images cannot be read: {broken[0][:24]}"
        cure = "the next run that needs one builds it again; vaultbuild cache prune removes them"
        yield Finding("store", title, "warn", evidence, cure)
    elif aside:
        evidence = f"{len(aside)} images were found damaged and put aside: {aside[-1]}"
        cure = "is the disk sound (dmesg, smartctl)? vaultbuild cache prune removes them"
        yield Finding("store", title, "warn", evidence, cure)
    else:
        count = sum(1 for _ in Store(case.var).survey())
        yield Finding("store", title, "ok", f"{count} images and checkpoints, none put aside")
