"""What a change in the last stage costs, and what the driver itself costs.

::

    python -m bench.stages

The reference pipeline is built in a copy, from an empty store through warm caches; then one file of
one role of ``final`` is changed, and it is built again. Both are taken to a verified image and from
there to a release. What stages need besides their roles is read from their events and records.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import measure
from bench.measure import ROOT, VAULTBUILD, Figure, median, say
from builder import events

if TYPE_CHECKING:
    import argparse

_PARTS = ("ansible", "packer", "stages", "cache/etc")
_CACHES = ("apt", "pypi")
_CHANGED = "ansible/roles/monitoring/files/gpu-monitor"
_LAST_OF_FRAMEWORKS = "ansible/roles/model_cache/tasks/main.yml"
_TICK = 0.05
_MIB = 1024


@dataclass(frozen=True, slots=True)
class Run:
    """What one command cost: its time, and the most memory that the driver held."""

    seconds: float
    peak_mib: float


def main() -> None:
    """Measure and print."""
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--no-release", action="store_true", help="stop at the verified image")
    options = parser.parse_args()
    with measure.folder(options.scratch) as scratch:
        project = _copy(scratch / "reference")
        measure.wait_until_calm(options.calm)
        before = measure.load()
        figures = _figures(project, options)
    measure.show(figures, as_json=options.json, load_before=before)


def _figures(project: Path, options: argparse.Namespace) -> list[Figure]:
    commands = [["stage", "final"]] if options.no_release else [["stage", "final"], ["publish"]]
    say("full build")
    full = [_vaultbuild(project, words) for words in commands]
    stages = [_own_share(project, name) for name in ("base", "drivers", "frameworks", "final")]
    changed: list[list[Run]] = []
    for number in range(options.rounds or 3):
        say(f"change {number + 1} in final")
        _change(project, _CHANGED, number)
        changed.append([_vaultbuild(project, words) for words in commands])
    frameworks: list[Run] = []
    for number in range(options.rounds or 3):
        say(f"change {number + 1} in the last role of frameworks")
        _change(project, _LAST_OF_FRAMEWORKS, number)
        frameworks.append(_vaultbuild(project, ["stage", "frameworks"]))
    peak = max(run.peak_mib for runs in [full, *changed] for run in runs)
    return [
        *_compared("verified image", full[:1], [runs[:1] for runs in changed]),
        *(_compared("release", full, changed) if len(commands) > 1 else []),
        *_resumed(full[0], frameworks),
        *(Figure(f"{name}, without its roles", own, "s", 10) for name, own in stages),
        Figure("peak memory of the driver", peak, "MiB", 200),
    ]


def _compared(what: str, full: list[Run], changed: list[list[Run]]) -> list[Figure]:
    whole = sum(run.seconds for run in full)
    part = median([sum(run.seconds for run in runs) for runs in changed])
    return [
        Figure(f"full build to a {what}", whole, "s"),
        Figure(f"change in final to a {what}", part, "s"),
        Figure(f"change / full, {what}", part / whole, "x", 0.2),
    ]


def _resumed(full: Run, changed: list[Run]) -> list[Figure]:
    part = median([run.seconds for run in changed])
    name = "change in the last role of frameworks"
    return [
        Figure(f"{name} to its verified image", part, "s"),
        Figure(f"{name} / full", part / full.seconds, "x", 0.1),
    ]


def _vaultbuild(project: Path, words: list[str]) -> Run:
    """Run a command of vaultbuild; look at its memory while it runs."""
    started, peak = time.perf_counter(), 0
    argv = [*VAULTBUILD, "--project", str(project), *words]
    with (
        (project.parent / "log").open("ab") as log,
        subprocess.Popen(argv, env=measure.environment(), stdout=log, stderr=log) as child,
    ):
        while child.poll() is None:
            peak = max(peak, _high_water(child.pid))
            time.sleep(_TICK)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} failed: see {log.name}")
    return Run(time.perf_counter() - started, peak / _MIB)


def _high_water(process: int) -> int:
    """Return the most memory in KiB that a process has held; 0 when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in status.splitlines())
    return next((int(line[1]) for line in lines if line[0] == "VmHWM:"), 0)


def _own_share(project: Path, stage: str) -> tuple[str, float]:
    """Return what a stage took besides its roles: start, connect, leave, power off, digest."""
    (key,) = {step["key"] for step in _plan(project) if step["stage"] == stage}
    image = project / "cache/var/images" / key
    total = json.loads((image / "record.json").read_text())["seconds"]
    told = events.read(image / "logs/events.jsonl")
    roles = sum(event.seconds or 0 for event in told if event.event == "role_finished")
    return stage, total - roles


def _plan(project: Path) -> list[dict[str, Any]]:
    argv = [*VAULTBUILD, "--project", str(project), "plan", "--json"]
    done = subprocess.run(
        argv, env=measure.environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    steps: list[dict[str, Any]] = json.loads(done.stdout)["steps"]
    return steps


def _change(project: Path, name: str, number: int) -> None:
    with (project / name).open("a") as file:
        file.write(f"# change {number}, {time.time()}\n")


def _copy(project: Path) -> Path:
    """Copy the reference project, and the packages that this checkout's caches hold."""
    for name in _PARTS:
        shutil.copytree(ROOT / name, project / name, dirs_exist_ok=True)
    var = project / "cache/var"
    shutil.rmtree(project / "dist", ignore_errors=True)
    for name in ("images", "checkpoints", "latest", "verdicts", "index"):
        shutil.rmtree(var / name, ignore_errors=True)
    for name in _CACHES:
        source = ROOT / "cache/var" / name
        if source.is_dir() and not (var / name).is_dir():
            var.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "--reflink=auto", "-a", source, var], check=True)
    return project


if __name__ == "__main__":
    main()
