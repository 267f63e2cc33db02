"""Boot an image on a throwaway overlay and ask it questions.

The checks are testinfra's, from ``stages/<stage>/checks/`` of the stage and of all it stands on,
and from ``ansible/roles/<role>/checks/`` of the roles that these list. What they said is a verdict;
it belongs to one image, one set of checks and one engine, and an image that was asked once is not
asked again.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import digest, disks, files, process, ssh
from builder.compat import PATH as COMPATIBILITY
from builder.compat import versions
from builder.engines import Machine
from builder.engines.keys import make_keys
from builder.errors import CheckError
from builder.inputs import copy_files, require_links_inside
from builder.memo import Tree
from builder.pipeline import ROLES_FOLDER
from builder.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.engines import Endpoint, Engine
    from builder.pipeline import Resources, Stage
    from builder.store import Image

_CHECK_SECONDS = 1800
_BOOT_SECONDS = 600
# The engine of what was seen of the file itself.
NO_ENGINE = "none"
# How pytest ends when it did what it was asked to.
_ALL_WELL, _SOME_FAILED, _NO_CHECKS = 0, 1, 5
_ENDED = (_ALL_WELL, _SOME_FAILED, _NO_CHECKS)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check said. ``outcome`` is passed, failed or skipped.

    ``engine`` is where it was asked, empty where that is the verdict's.
    """

    name: str
    outcome: str
    seconds: float
    message: str
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a set of checks said about an image; ``disk`` is the SHA-256 of its disk.

    A release is asked in VMs, and beside them in a container: each result names its engine.
    """

    image: str
    disk: str
    checks: str
    engine: str
    seconds: float
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """True when a check passed and none failed; where all were skipped, nobody looked."""
        return self.counts()["passed"] > 0 and not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.outcome == "failed")

    def counts(self) -> dict[str, int]:
        """Return how many checks passed, failed and were skipped."""
        outcomes = [result.outcome for result in self.results]
        return {name: outcomes.count(name) for name in ("passed", "failed", "skipped")}

    def asked(self) -> str:
        """Return where the checks were asked, and how many in each place where there are several.

        ``qemu``, or ``20 of the file, 28 qemu, 9 nspawn``.
        """
        found = Counter(result.engine or self.engine for result in self.results)
        if set(found) <= {self.engine}:
            return self.engine
        words = {NO_ENGINE: "of the file"}
        return ", ".join(f"{count} {words.get(name, name)}" for name, count in found.items())

    def to_json(self) -> dict[str, Any]:
        """Return the document that :meth:`from_json` reads."""
        return {"schema": 1, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Verdict:
        """Read a document; raises KeyError or TypeError when it is none."""
        results = tuple(CheckResult(**result) for result in document["results"])
        names = ("image", "disk", "checks", "engine", "seconds")
        return cls(**{name: document[name] for name in names}, results=results)


@dataclass(frozen=True, slots=True)
class CheckSet:
    """The checks that apply to a stage: its own, its roles', and those of what it stands on.

    ``folders`` and ``files`` are relative to ``root``: the project, or a copy of them.
    """

    stage: str
    variant: str
    root: Path
    folders: tuple[str, ...]
    files: Mapping[str, str]
    variables: Mapping[str, Any]
    uses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def digest(self) -> str:
        """Return the name of this set: its files and all that they are told."""
        told = {"variant": self.variant, "variables": self.variables, "uses": self.uses}
        return digest.digest_document({"files": self.files, **told})


def checks_of(
    lineage: Sequence[Stage],
    cache: digest.StatCache,
    variant: str,
    variables: Mapping[str, Any],
    uses: Mapping[str, Mapping[str, Any]] | None = None,
) -> CheckSet:
    """Return the checks of the last stage of ``lineage``.

    With the files that variables name, such as a lock file: checks read what an image shall have.
    And with the table of versions that go together, which knows the GPUs that an image is for, and
    its driver.
    ``uses`` are the variables of each use of a role, ``variables`` all of them as one.
    Raises :class:`builder.errors.ProjectError` for links that lead out of their folder.
    """
    names = [f"{folder}/checks" for stage in lineage for folder in _folders(stage)]
    folders = tuple(name for name in dict.fromkeys(names) if (cache.root / name).is_dir())
    held: dict[str, str] = {}
    for folder in folders:
        found = cache.tree(folder)
        require_links_inside(found, "folder of checks")
        held.update(found)
    held.update(_named_files(lineage, cache))
    if (cache.root / COMPATIBILITY).is_file():
        held[COMPATIBILITY] = cache.entry(COMPATIBILITY)
    return CheckSet(lineage[-1].name, variant, cache.root, folders, held, variables, uses or {})


def _folders(stage: Stage) -> Iterator[Path]:
    """Yield what has checks of a stage: itself, then its roles."""
    yield stage.folder
    yield from (ROLES_FOLDER / use.role for use in stage.roles)


def _named_files(lineage: Sequence[Stage], cache: digest.StatCache) -> dict[str, str]:
    paths = [path for stage in lineage for use in stage.roles for path in use.paths.values()]
    return {path.as_posix(): cache.entry(path.as_posix()) for path in paths}


def known_of(checks: CheckSet) -> dict[str, dict[str, str | None]]:
    """Return what the table knows of an image.

    ``gpus``: those that it is for, with their compute capabilities. ``driver_cuda``: the branch of
    its driver, with the CUDA that the driver's library speaks. None for what the table does not
    say. Where there is no table, nothing is known.
    """
    from builder.compat.table import read_table  # late: brings pydantic

    table = read_table(Tree(checks.root))
    if table is None:
        return {"gpus": {}, "driver_cuda": {}}
    names = checks.variables.get(table.variables.get("gpus", ""), ())
    gpus = {name: table.gpu(name) for name in names}
    driver = checks.variables.get(table.variables.get("driver", ""))
    branches = [versions.major(str(driver))] if driver else []
    drivers = {branch: table.drivers.get(branch) for branch in branches}
    return {
        "gpus": {name: row[1].capability if row else None for name, row in gpus.items()},
        "driver_cuda": {branch: row.cuda if row else None for branch, row in drivers.items()},
    }


@contextlib.contextmanager
def copied(checks: CheckSet) -> Iterator[CheckSet]:
    """Yield the set with copies of its files, which hold what its digest says.

    A later edit belongs to the next run. Raises :class:`builder.inputs.EditedError` for an edit
    that came between the digest and the copy.
    """
    with scratch() as folder:
        copy_files(checks.root, checks.files, folder)
        yield replace(checks, root=folder)


def verdict_path(var: Path, image: str, checks: str, engine: str) -> Path:
    """Return where a verdict is kept; ``var`` is the store's folder."""
    return var / "verdicts" / image / f"{checks[:16]}-{engine}.json"


def read_verdict(path: Path) -> Verdict | None:
    """Return the verdict in a file; None when nothing readable is there."""
    try:
        return Verdict.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def verify(
    image: Image,
    checks: CheckSet,
    engine: Engine,
    resources: Resources,
    *,
    logs: Path,
    junit: Path | None = None,
) -> Verdict:
    """Boot a throwaway overlay of an image and run ``checks`` in it; without checks, do neither.

    Raises :class:`builder.errors.CommandError` when the guest does not come up; failing checks are
    the verdict's affair.
    """
    disk = image.record.disk.sha256
    if not checks.folders:
        return Verdict(image.key, disk, checks.digest(), engine.name, 0.0, ())
    started = time.monotonic()
    with copied(checks) as copy, throwaway(image.disk, engine, resources, logs) as (endpoint, work):
        results = ask(endpoint, copy, work=work, logs=logs, engine=engine.name, junit=junit)
    seconds = round(time.monotonic() - started, 1)
    return Verdict(image.key, disk, checks.digest(), engine.name, seconds, results)


@contextlib.contextmanager
def throwaway(
    disk: Path, engine: Engine, resources: Resources, logs: Path, *, firmware: str = "bios"
) -> Iterator[tuple[Endpoint, Path]]:
    """Boot an overlay that is thrown away; yield where it answers and a folder for the run."""
    with scratch() as work:
        overlay = work / "throwaway.qcow2"
        disks.make_overlay(disk.resolve(), overlay)
        machine = Machine(
            overlay,
            work=work,
            logs=logs,
            keys=make_keys(work),
            cpus=resources.cpus,
            memory_mib=resources.memory_mib,
            firmware=firmware,
        )
        with engine.boot(machine) as endpoint:
            yield endpoint, work


def ask(
    endpoint: Endpoint,
    checks: CheckSet,
    *,
    work: Path,
    logs: Path,
    engine: str,
    junit: Path | None = None,
    marks: str = "",
) -> tuple[CheckResult, ...]:
    """Run the checks against a running guest, once it has booted, and return what they said.

    ``checks`` are copies (:func:`copied`), else they are not what their digest says for long.
    ``marks`` chooses among them, as pytest's ``-m`` does.
    """
    _wait_for_boot(endpoint)
    outcomes = work / "outcomes.json"
    context = {
        "variant": checks.variant,
        "stage": checks.stage,
        "engine": engine,
        "variables": checks.variables,
        "uses": checks.uses,
        **known_of(checks),
    }
    files.write_json(work / "context.json", context, durable=False)
    argv = [*_pytest(endpoint, checks, work, junit), "-m", marks]
    env = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "VAULTBUILD_CHECK_CONTEXT": str(work / "context.json"),
        "VAULTBUILD_CHECK_RESULTS": str(outcomes),
    }
    log = logs / "checks.log"
    # Started where their paths begin, so that what they say of a place holds in the project too.
    with process.start(argv, log=log, env=env, cwd=checks.root) as child:
        status = child.wait(_CHECK_SECONDS)
    written = status in _ENDED and outcomes.exists()
    results = _read_outcomes(outcomes, engine) if written else ()
    if not _believable(status, results):
        raise process.failure(["pytest"], status, log.read_text(errors="replace"), log=log)
    return results


def _believable(status: int, results: Sequence[CheckResult]) -> bool:
    """Tell whether pytest's status fits what was written down: a run cut short proves nothing."""
    failed = any(result.outcome == "failed" for result in results)
    fits = {_ALL_WELL: bool(results), _SOME_FAILED: failed, _NO_CHECKS: not results}
    return fits.get(status, False)


def _wait_for_boot(endpoint: Endpoint) -> None:
    """Return when the guest's boot has come to its end: SSH answers long before, in emulation.

    How it ended - ``running``, ``degraded`` - is for the checks to judge.
    """
    address = f"{endpoint.user}@{endpoint.host}"
    command = "systemctl is-system-running --wait"
    process.run(
        ["ssh", *ssh.options(endpoint), address, command], check=False, timeout=_BOOT_SECONDS
    )


def require_passed(
    verdict: Verdict,
    stage: str,
    command: Callable[[str], str],
    *,
    log: Path | None = None,
    hint: str | None = None,
) -> None:
    """Raise :class:`CheckError`, naming each failing check, unless all passed.

    ``command`` words what to type; ``hint`` stands for the usual one, to look inside.
    """
    if verdict.passed:
        return
    if not verdict.results:
        raise CheckError(
            f"{stage}: no check was found", hint=f"add stages/{stage}/checks/test_*.py"
        )
    if not verdict.failures:
        raise CheckError(
            f"{stage}: no check passed: all {len(verdict.results)} were skipped",
            hint=f"in a VM more can be asked: {command(f'verify {stage} --vm')}",
            log=log,
        )
    lines = [f"{stage}: {len(verdict.failures)} of {len(verdict.results)} checks failed"]
    lines += [f"       {item.name}\n{_reason(item)}" for item in verdict.failures]
    hint = hint or f"look inside: {command(f'shell {stage}')}"
    raise CheckError("\n".join(lines), hint=hint, log=log)


def _pytest(endpoint: Endpoint, checks: CheckSet, work: Path, junit: Path | None) -> list[str]:
    config = work / "ssh_config"
    config.write_text(
        "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        # Short: the name of a socket has 108 bytes, and ssh adds seventeen to it.
        f"  ControlPath {work}/c\n"
    )
    argv = [
        sys.executable, "-m", "pytest", "-q",
        "-p", "no:cacheprovider", "-p", "builder.checks",
        "--import-mode=importlib", "--continue-on-collection-errors",
        "--rootdir", str(checks.root), "--confcutdir", str(checks.root), "-c", "/dev/null",
        f"--hosts=ssh://{endpoint.user}@{endpoint.host}:{endpoint.port}",
        f"--ssh-config={config}",
        f"--ssh-identity-file={endpoint.private_key}",
        *checks.folders,
    ]  # fmt: skip
    return [*argv, f"--junitxml={junit.resolve()}"] if junit else argv


def _read_outcomes(path: Path, engine: str) -> tuple[CheckResult, ...]:
    found: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return tuple(
        CheckResult(name=_short(name), engine=engine, **entry)
        for name, entry in sorted(found.items())
    )


def _short(nodeid: str) -> str:
    """Return ``stage/test_file.py::test_name[what it is asked about]``.

    Without folders, and without the host, which testinfra puts first or last.
    """
    path, _, test = nodeid.partition("::")
    parts = Path(path).parts
    stage = parts[-3] if len(parts) > 2 else ""  # noqa: PLR2004 - <stage>/checks/<file>
    name = re.sub(r"\[ssh://[^]-]*(?:-|\])|-ssh://[^]-]*(?=\])", _kept, test)
    return f"{stage}/{parts[-1]}::{name}" if parts else nodeid


def _kept(host: re.Match[str]) -> str:
    return "[" if host[0].endswith("-") else ""


def _reason(result: CheckResult) -> str:
    lines = [line for line in result.message.splitlines() if line.startswith("E ")]
    return "\n".join(f"         {line[1:].strip()}" for line in lines[:4])
