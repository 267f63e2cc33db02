"""A control group of one's own for a container.

systemd-nspawn with ``--keep-unit`` makes groups named ``payload`` and ``supervisor`` below the one
it is started in. Two containers started from one terminal would share them, and the systemd of one
would find processes of the other in its units (seen with systemd 252: "Failed to spawn executor").
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "vaultbuild-"
# Another run that starts now may sweep the group away before anybody is in it.
_ATTEMPTS = 5


@contextlib.contextmanager
def own_group(name: str) -> Iterator[None]:
    """Move this process into a group of its own, below the one it is in, and back at the end.

    Where groups may not be made - an unusual host - nothing is done: one container still runs.
    """
    moved: list[tuple[Path, Path]] = []
    for parent in _current():
        _sweep(parent)
        group = parent / f"{_PREFIX}{name.removeprefix(_PREFIX)}"
        if _joined(group):
            moved.append((parent, group))
    try:
        yield
    finally:
        for parent, group in moved:
            with contextlib.suppress(OSError):
                _enter(parent)
            _remove(group)


def _current() -> Iterator[Path]:
    """Yield the folder of this process's group in each hierarchy that systemd uses."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots: dict[str, Path] = {}
    for _, place, kind, options, *_ in mounts:
        if kind == "cgroup2":
            roots.setdefault("", Path(place))
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            roots.setdefault("name=systemd", Path(place))
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, hierarchy, path = line.split(":", 2)
        if hierarchy in roots:
            yield roots[hierarchy] / path.lstrip("/")


def _joined(group: Path) -> bool:
    """Make a group and move this process into it; False where that may not be done."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(OSError):
            group.mkdir(exist_ok=True)
            _enter(group)
            return True
    return False


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _sweep(parent: Path) -> None:
    """Remove the groups of runs that were killed; a group with processes in it stays."""
    for group in parent.glob(f"{_PREFIX}*"):
        _remove(group)


def _remove(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
