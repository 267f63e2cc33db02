"""Seal the disk of a machine that was powered off, before its image is digested.

A machine that shuts down writes: the random seed, logs, the state of timers. So the program of the
role ``seal``, which removes identities and leftovers as the stage's last role, runs once more, on
the disk. Then what is free is made zero. ``fstrim`` does that in whole clusters of the QCOW2; a
free block of the file system that shares its cluster with one in use would still hold what it held.

The work is done by ``python -m builder.sealing JOB`` in namespaces of its own. Mounting needs root;
without it the role's own pass is all there is, and what is free is made zero by ``qemu-io``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import disks, process
from builder.errors import CommandError, VaultbuildError
from builder.partitions import RootFileSystem
from builder.rawdisk import exported, mounted

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROGRAM = Path("ansible/roles/seal/files/seal.py")
_SECONDS = 600
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be sealed, and by which program; ``patterns`` name what else is removed."""

    disk: Path
    work: Path
    log: Path
    program: Path
    patterns: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write the document that :meth:`read` reads."""
        named = {name: str(getattr(self, name)) for name in ("disk", "work", "log", "program")}
        path.write_text(json.dumps({**named, "patterns": list(self.patterns)}))

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what :meth:`write` wrote."""
        found: dict[str, Any] = json.loads(path.read_text())
        patterns = tuple(found.pop("patterns"))
        return cls(**{name: Path(value) for name, value in found.items()}, patterns=patterns)


def obstacle(snapshot: Path) -> str | None:
    """Return why a disk cannot be sealed here; None where it can."""
    if not (snapshot / _PROGRAM).is_file():
        return f"there is no {_PROGRAM}"
    return None if os.geteuid() == 0 else "only root may mount it"


def seal(
    disk: Path,
    snapshot: Path,
    patterns: Sequence[str],
    *,
    work: Path,
    logs: Path,
    locks: Sequence[int] = (),
) -> None:
    """Seal a closed disk with the program in ``snapshot``.

    ``work`` is a folder for this alone, which is removed. Raises :class:`CommandError` when
    something fails or the file system is not clean in the end.
    """
    log = logs / "seal.log"
    work.mkdir()
    job = Job(disk.absolute(), work, log, snapshot.absolute() / _PROGRAM, tuple(patterns))
    job.write(work / "job.json")
    argv = ["unshare", "--mount", sys.executable, "-m", "builder.sealing", str(work / "job.json")]
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    started = process.start(argv, log=log, env=env, keep_fds=locks, contained=True)
    with process.session(started) as child:
        status = child.wait(_SECONDS)
    if status:
        raise process.failure(["sealing"], status, log.read_text(errors="replace"), log=log)
    shutil.rmtree(work)


def clear(disk: Path, work: Path) -> None:
    """Make zero what is free on a closed disk, without mounting it; ``work`` as in :func:`seal`."""
    work.mkdir()
    disks.unpack(disk, work / "disk.raw")
    root = RootFileSystem.find(work / "disk.raw")
    spans = list(root.held_where_free()) if root else []
    lines = [f"write -z {start} {end - start}" for start, end in spans]
    done = process.run(["qemu-io", "-f", "qcow2", disk], stdin="\n".join([*lines, "quit\n"]))
    if done.stdout.count("wrote ") != len(spans):
        raise CommandError(f"qemu-io did not write all zeros\n{done.stdout}{done.stderr}")
    shutil.rmtree(work)


def carry_out(job: Job) -> None:
    """Seal the disk: remove, trim, make zero what is free, look whether all is well."""
    with exported(job.disk, job.work, job.log) as raw:
        found = RootFileSystem.find(raw)
        if found is None:
            _log.info("its root file system is none that can be sealed here")
            return
        with mounted(raw, job.work) as root:
            program: list[str | Path] = [sys.executable, "-I", job.program, "--offline", root]
            removed = process.run([*program, *job.patterns]).stdout.strip()
            _log.info("%s", removed or "nothing was left to remove")
            process.run(["fstrim", root], check=False)
        _log.info("%d bytes in free blocks were made zero", found.zero_what_is_free())
        if complaints := found.complaints():
            raise CommandError(f"the file system is not clean:\n{complaints}")


def main() -> int:
    """Do the job that the argument names; the error, if any, goes to the log."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        carry_out(Job.read(Path(sys.argv[1])))
    except VaultbuildError as error:
        _log.error("%s", error.message)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
