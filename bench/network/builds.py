"""A first build against later ones: what comes from upstream, and the time of each stage."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench import measure
from bench.measure import ROOT, Figure, median, ratio, say
from bench.network.project import fetched_by_apt, kept_by_devpi

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.network.project import Given, Trimmed, Upstream

_STAGES: Final = ("source", "base", "python", "final")
_MB: Final = 1e6
# A URL that the upstream does not have costs it no byte, and no cache is asked for it twice.
_CACHES: Final = """\
import sys
from pathlib import Path
from builder import caches
from builder.pipeline import load_pipeline
project = Path(sys.argv[1])
with caches.running(load_pipeline(project, None).caches, project):
    pass
"""


@dataclass(frozen=True, slots=True)
class Built:
    """One build: its time, that of each stage, what upstream gave, and what the records say."""

    seconds: float
    stages: dict[str, float]
    given: Given
    recorded: int
    apt: int
    devpi: int


def figures(project: Trimmed, served: Upstream, rounds: int) -> Iterator[Figure]:
    """Build cold, warm and offline in turns."""
    runs: dict[str, list[Built]] = {"cold": [], "warm": [], "offline": []}
    for number in range(rounds):
        for name, found in runs.items():
            if name == "cold":
                project.forget()
            found.append(_built(project, served, *(["--offline"] if name == "offline" else [])))
            say(f"{name} build {number + 1}: {found[-1].seconds:.1f} s")
    yield from _bytes(runs["cold"][0], runs["warm"], runs["offline"])
    yield from _times(runs)
    yield from _start(project, rounds)


def _built(project: Trimmed, served: Upstream, *words: str) -> Built:
    apt, devpi = fetched_by_apt(project), kept_by_devpi(project)
    with served.counting() as given:
        took = project.build(*words)
    stages = {stage: record["seconds"] for stage, record in project.records.items()}
    return Built(
        seconds=took,
        stages=stages,
        given=given[0],
        recorded=project.traffic("upstream_bytes"),
        apt=fetched_by_apt(project) - apt,
        devpi=kept_by_devpi(project) - devpi,
    )


def _bytes(cold: Built, warm: Sequence[Built], offline: Sequence[Built]) -> Iterator[Figure]:
    given = cold.given.bytes
    yield Figure("first build: upstream gave", given / _MB, "MB", how=f"{cold.given.files} files")
    counted = cold.apt + cold.devpi
    yield Figure("  apt-cacher-ng's log and devpi's files say", counted / _MB, "MB")
    yield Figure("  the records say", cold.recorded / _MB, "MB")
    off = abs(cold.recorded - given) / given * 100
    yield Figure("  records, off by", off, "%", 1)
    files = sum(each.given.files for each in warm)
    checks = max(each.given.checks for each in warm)
    last = max(warm, key=lambda each: each.given.bytes)
    yield Figure("second build: files that upstream gave", files, "", 0)
    yield Figure("  index checks", checks, "", how=f"{last.given.bytes} bytes, with pages")
    yield Figure("  the records say", last.recorded, "B")
    asked = sum(each.given.checks + each.given.files for each in offline)
    yield Figure("--offline: requests to upstream", asked, "", 0)


def _times(runs: dict[str, list[Built]]) -> Iterator[Figure]:
    cold, warm = runs["cold"], runs["warm"]
    for name, found in runs.items():
        yield Figure(f"{name} build", median([each.seconds for each in found]), "s")
        split = {stage: median([each.stages[stage] for each in found]) for stage in _STAGES}
        for stage, took in split.items():
            yield Figure(f"  {stage}", took, "s")
    yield Figure("warm / cold", ratio([b.seconds for b in warm], [b.seconds for b in cold]), "x", 1)
    offline = [each.seconds for each in runs["offline"]]
    yield Figure("offline / warm", ratio(offline, [each.seconds for each in warm]), "x", 1.1)


def _start(project: Trimmed, rounds: int) -> Iterator[Figure]:
    """Start the caches and stop them, as each build does that finds none."""

    def run() -> float:
        argv = [sys.executable, "-c", _CACHES, str(project.folder)]
        began = time.perf_counter()
        subprocess.run(argv, env=measure.environment(), cwd=ROOT, check=True)
        return time.perf_counter() - began

    found = measure.alternate(rounds, {"caches": run})["caches"]
    yield Figure("starting and stopping the caches", median(found), "s", 5)
