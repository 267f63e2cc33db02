"""Check the GPUs of a host, this one or another over SSH, against what a variant expects.

The program is that of the role ``first_boot_gpu_check``. It is packed into one file, so that a host
needs a Python and nothing of vaultbuild; what it writes comes back, and nothing stays there.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import socket
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import process
from builder.errors import CheckError, CommandError, HostError, StoreError
from builder.memo import Tree
from builder.scratch import scratch
from builder.verify import CheckResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.pipeline import Pipeline

ROLE = "first_boot_gpu_check"
PROGRAM = Path("ansible/roles", ROLE, "files/gpu-check")
EXPECTED = f"{ROLE}_expected"
HERE = "localhost"
# The longest diagnosis has an hour and a half; beyond this a host hangs.
_SECONDS = {"quick": 3600, "medium": 4 * 3600, "long": 8 * 3600}
_PAPERS = ("json", "junit")
_USAGE = 2
_SSH_FAILED, _NO_PROGRAM = 255, 127
# ZIP knows no earlier date. The same files are the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the checks of a host wrote: their document and their JUnit XML."""

    host: str
    document: Mapping[str, Any]
    junit: str

    @property
    def verdict(self) -> Verdict:
        """The same as a verdict, as checks of images have one."""
        results = tuple(
            CheckResult(one["title"], one["outcome"], one["seconds"], one["message"])
            for one in self.document["results"]
        )
        seconds = float(self.document.get("seconds", 0.0))
        return Verdict("", "", "", self.host, seconds, results)


def packed(project: Path) -> bytes:
    """Return the program of a project as one file that Python runs."""
    folder = project / PROGRAM
    if not (folder / "__main__.py").is_file():
        hint = f"copy the role {ROLE} from vaultbuild's own project"
        raise StoreError(f"this project has no {PROGRAM}", hint=hint)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # The package has no __init__.py, and is found in an archive by the entry of its folder.
        archive.writestr(zipfile.ZipInfo("gpu_check/", _DATE), b"")
        for path in sorted(folder.rglob("*.py")):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def expected_of(pipeline: Pipeline, stage: str) -> dict[str, Any]:
    """Return what a variant expects of a machine: a variable of the role, nothing without it.

    The PCI ids of the GPUs that the image is for are in the table, where the variable has none.
    """
    variables = pipeline.variables_of(stage)
    return {**_declared(pipeline.project, variables), **(variables.get(EXPECTED) or {})}


def _declared(project: Path, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the PCI ids by GPU; nothing where one has no row: it would be taken for a stranger."""
    from builder.compat.table import read_table  # late: brings pydantic

    table = read_table(Tree(project))
    names = variables.get(table.variables.get("gpus", ""), ()) if table else ()
    rows = [table.gpu(name) for name in names] if table else []
    if not rows or None in rows:
        return {}
    return {"pci_ids": {row[0]: row[1].pci for row in rows if row}}


def check(program: bytes, expected: Mapping[str, Any], *, level: str, on: str = HERE) -> Answer:
    """Run the checks on a host and return what they wrote.

    Raises :class:`CommandError` when they did not come to their end. What they found is the
    answer's affair: see :func:`require_gpu` and :func:`require_passed`.
    """
    said = _here(program, expected, level) if on == HERE else _there(program, expected, level, on)
    if said["status"] == _USAGE:
        raise CommandError(
            f"{on}: the expectations cannot be used\n       {said['said'].strip()}",
            hint=f"correct {EXPECTED}; docs/gpu-checks.md lists what it may say",
        )
    if not all(name in said for name in _PAPERS):
        raise _cut_short(on, said["status"], said["said"])
    name = socket.gethostname() if on == HERE else on
    return Answer(name, json.loads(said["json"]), said["junit"])


def require_gpu(answer: Answer) -> None:
    """Raise :class:`HostError` where no GPU is: nothing was checked."""
    if answer.document["outcome"] == "no-gpu":
        raise HostError(
            f"{answer.host}: {answer.verdict.results[0].message}",
            hint="name a host that has one: --on USER@HOST",
        )


def require_passed(answer: Answer) -> None:
    """Raise :class:`CheckError`, naming each check that failed, unless all is well."""
    verdict = answer.verdict
    if verdict.passed:
        return
    failures = verdict.failures
    if not failures:
        count = f"all {len(verdict.results)} were skipped"
        raise CheckError(f"{answer.host}: no check of the GPUs passed: {count}")
    lines = [f"{answer.host}: {len(failures)} of {len(verdict.results)} checks of the GPUs failed"]
    lines += [f"       {item.name}\n         {item.message}" for item in failures]
    raise CheckError("\n".join(lines), hint="--json has all that each check saw, as its evidence")


def _here(program: bytes, expected: Mapping[str, Any], level: str) -> dict[str, Any]:
    with scratch() as folder:
        packed, wanted, log = folder / "gpu-check.pyz", folder / "expect.json", folder / "log"
        packed.write_bytes(program)
        wanted.write_text(json.dumps(expected))
        argv: list[str | Path] = [sys.executable, packed, "--level", level, "--expect", wanted]
        argv += [word for name in _PAPERS for word in (f"--{name}", folder / name)]
        # Where this host has its driver's libraries is its own affair.
        passed = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        # Leaving the block ends the checks and all that they started.
        with process.start(argv, log=log, env=passed) as child:
            status = child.wait(_SECONDS[level])
        said = log.read_text(errors="replace").partition("\n")[2]
        papers = {name: (folder / name).read_text() for name in _PAPERS if (folder / name).exists()}
        return {"status": status, "said": said, **papers}


def _there(program: bytes, expected: Mapping[str, Any], level: str, on: str) -> dict[str, Any]:
    source = Path(__file__).with_name("on_host.py").read_text()
    task = {"program": base64.b64encode(program).decode(), "expected": expected, "level": level}
    settings = ("BatchMode=yes", "ConnectTimeout=30", "ServerAliveInterval=15")
    argv = ["ssh", *(word for setting in settings for word in ("-o", setting)), "--", on]
    argv += [f"exec python3 -c {shlex.quote(source)}"]
    done = process.run(argv, stdin=json.dumps(task), check=False, timeout=_SECONDS[level])
    try:
        # In the last line: some hosts greet everybody.
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise _no_answer(on, done) from None
    if "old" in said:
        raise CommandError(
            f"{on}: Python {said['old']} is too old", hint="3.9 or newer must be its python3"
        )
    return said


# What ssh says → what that means, and what to do about it.
_OF_SSH = {
    "HOST IDENTIFICATION HAS CHANGED": (
        "the host key is not the one that is known",
        "if the host was made anew: ssh-keygen -R {host}, then ssh {on}",
    ),
    "Host key verification failed": ("the host key is not known", "look at it once: ssh {on}"),
    "Permission denied": ("no key of yours is accepted", "try: ssh {on}"),
}


def _no_answer(on: str, done: process.Completed) -> CommandError:
    """Return the error of a host that did not even begin, or was cut off."""
    last = (done.stderr.strip() or "no reason was given").splitlines()[-1]
    if done.status == _NO_PROGRAM:
        return CommandError(f"{on}: there is no python3", hint=f"ssh {on} apt-get install python3")
    if done.status != _SSH_FAILED:
        return _cut_short(on, done.status, done.stderr)
    for words, (meaning, cure) in _OF_SSH.items():
        if words in done.stderr:
            host = on.rpartition("@")[2]
            return CommandError(f"{on}: {meaning}", hint=cure.format(on=on, host=host))
    return CommandError(f"{on}: the connection failed: {last}", hint=f"try: ssh {on}")


def _cut_short(on: str, status: int, said: str) -> CommandError:
    last = (said.strip() or "nothing was said").splitlines()[-1]
    return CommandError(
        f"{on}: the checks ended before there was a result (status {status}): {last}",
        hint="run them again; nothing of them is left there",
    )
