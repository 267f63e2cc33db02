"""What the benchmarks share: timing side by side, medians, and how figures are shown.

A time alone says little about another machine. So what is compared runs alternately, A B A B, in
one process after the other, and the figure is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable
VAULTBUILD = (PYTHON, "-m", "builder")
_CALM = 1.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; ``goal`` is the most it may be, None where there is no goal."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    how: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal was reached."""
        return None if self.goal is None else self.value <= self.goal


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of what is measured: ours, byte-compiled, with the driver in reach."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # apt and what calls it must not find another proxy than the one that is measured.
    return {**ours, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **(extra or {})}


def seconds(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> float:
    """Run a program to its end; return how long it took. Raises when it fails."""
    started = time.perf_counter()
    if log is None:
        subprocess.run(argv, cwd=cwd, env=environment(env), check=True, stdout=subprocess.DEVNULL)
    else:
        with log.open("ab") as file:
            subprocess.run(
                argv, cwd=cwd, env=environment(env), check=True, stdout=file, stderr=file
            )
    return time.perf_counter() - started


def alternate(rounds: int, candidates: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run the candidates one after the other, ``rounds`` times; a first round is not kept."""
    for run in candidates.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            found[name].append(run())
    return found


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios of neighbours: what slows both down cancels out."""
    return median([a / b for a, b in zip(numerators, denominators, strict=True)])


def load() -> float:
    """Return how many processes wanted a processor during the last minute."""
    return os.getloadavg()[0]


def wait_until_calm(limit: float) -> None:
    """Wait until nobody else computes here, for at most ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while load() > _CALM and time.monotonic() < deadline:
        time.sleep(5)


def say(text: str) -> None:
    """Tell the person who waits; the result is on stdout."""
    print(text, file=sys.stderr, flush=True)


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that each benchmark has."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--json", action="store_true", help="print JSON instead of a table")
    found.add_argument("--rounds", type=int, default=0, help="how often; 0 is the usual number")
    found.add_argument(
        "--scratch", type=Path, help="folder to work in, kept (else a temporary one)"
    )
    found.add_argument(
        "--calm", type=float, default=0, metavar="SECONDS", help="wait for an idle machine first"
    )
    return found


def show(figures: Sequence[Figure], *, as_json: bool, load_before: float) -> None:
    """Print the figures on stdout, and under what load they were taken."""
    if as_json:
        listed = [{**asdict(figure), "met": figure.met} for figure in figures]
        document = {
            "schema": 1,
            "load_before": round(load_before, 2),
            "cpus": os.cpu_count(),
            "figures": listed,
        }
        print(json.dumps(document, indent=2))
        return
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        print(_line(figure, width))
    busy = "" if load_before <= _CALM else "  (a busy machine: take these with salt)"
    print(f"load before: {load_before:.1f} on {os.cpu_count()} processors{busy}")


def _line(figure: Figure, width: int) -> str:
    value = f"{figure.value:8.3f}" if figure.value < 1 else f"{figure.value:8.2f}"
    goal = "" if figure.goal is None else f"goal ≤ {figure.goal:g}"
    verdict = {None: "", True: "met", False: "MISSED"}[figure.met]
    line = f"{figure.name:<{width}} {value} {figure.unit:<3} {goal:<12} {verdict:<6} {figure.how}"
    return line.rstrip()


def copy_project(source: Path, folder: Path) -> Path:
    """Make a project that builds: ``source`` with this repository's templates and configuration."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    shutil.copytree(ROOT / "packer", folder / "packer", dirs_exist_ok=True)
    shutil.copytree(ROOT / "cache/etc", folder / "cache/etc", dirs_exist_ok=True)
    (folder / "ansible").mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "ansible/ansible.cfg", folder / "ansible/ansible.cfg")
    return folder


@contextlib.contextmanager
def folder(wanted: Path | None) -> Iterator[Path]:
    """Give a folder to work in: the ``wanted`` one, or one that goes afterwards."""
    if wanted:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="vaultbuild-bench-") as temporary:
        yield Path(temporary)
