"""The program that Packer calls back: ``python -m builder.guest JOB HOST PORT``.

The job is a document that the driver wrote; what came of it is another, written in one step
however the program ends. The driver believes that document and not Packer's "non-zero exit status".
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import network, ssh
from builder.checkpoints import Checkpoints, Layers
from builder.engines import Endpoint
from builder.errors import (
    Cause,
    CommandError,
    Interrupted,
    ProvisionError,
    Told,
    VaultbuildError,
    host_error,
)
from builder.events import Writer
from builder.files import write_json
from builder.provision import (
    Caches,
    Provisioner,
    Setup,
    Use,
    choose_strategy,
    enter,
    leave,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.outcome import RoleResult

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Job:
    """What to do to one guest. Roles before ``first_role`` are in its disk already."""

    stage: str
    snapshot: Path
    private_key: Path
    logs: Path
    events: Path
    result: Path
    roles: tuple[Use, ...]
    caches: Caches = field(default_factory=Caches)
    first_role: int = 0
    strategy: str = "auto"
    user: str = "root"
    layers: Layers | None = None
    """What checkpoints are made of; None for a disk that nobody can freeze."""
    keep_failed: bool = False
    journal: Path | None = None
    """What the gateway writes down; see :mod:`builder.network`."""
    modules: Path | None = None
    """Where kernel modules are kept that roles compiled; circumstance, and in no key."""


@dataclass(slots=True)
class Result:
    """What came of a job. ``status`` is done, failed, interrupted, or crashed (a bug of ours).

    ``packages`` has ``dpkg`` (name to version) and ``python`` (virtual environment to name to
    version). ``failure`` has role, task, message, cause (its rule and sentence), hint and log.
    ``top`` is the layer that the guest wrote to at last and ``checkpoint`` the key of what that
    stands on; ``failed`` is the disk of a failed run, frozen, when it was to be kept.
    """

    stage: str
    status: str = "crashed"
    strategy: str = ""
    roles: list[dict[str, Any]] = field(default_factory=list)
    packages: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    top: str | None = None
    checkpoint: str | None = None
    failed: str | None = None
    schema: int = SCHEMA


def write_job(path: Path, job: Job) -> None:
    """Write the document that tells this program what to do."""
    layers = job.layers.to_json() if job.layers else None
    document = {"schema": SCHEMA, **asdict(replace(job, layers=None)), "layers": layers}
    write_json(path, json.loads(json.dumps(document, default=str)), durable=False)


def read_job(path: Path) -> Job:
    """Read what :func:`write_job` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if document.pop("schema") != SCHEMA:
        raise VaultbuildError(f"{path} was written by another version of vaultbuild")
    for name in ("snapshot", "private_key", "logs", "events", "result", "journal", "modules"):
        document[name] = Path(document[name]) if document[name] else None
    document["roles"] = tuple(Use(**role) for role in document["roles"])
    document["caches"] = Caches(**document["caches"])
    document["layers"] = Layers.from_json(document["layers"]) if document["layers"] else None
    return Job(**document)


def read_result(path: Path) -> Result | None:
    """Return what came of a job; None when the program never got to run."""
    if not path.exists():
        return None
    return Result(**json.loads(path.read_text(encoding="utf-8")))


def raise_failure(result: Result) -> None:
    """Raise what the program raised, when it did not do its job."""
    if result.status == "done":
        return
    failure = result.failure or {"message": f"{result.stage}: the provisioning program crashed"}
    if result.status == "interrupted":
        raise Interrupted(failure["message"])
    raise ProvisionError(
        failure["message"],
        stage=result.stage,
        role=failure.get("role") or "",
        task=failure.get("task"),
        hint=failure.get("hint"),
        log=Path(failure["log"]) if failure.get("log") else None,
        cause=Cause(**failure["cause"]) if failure.get("cause") else None,
    )


def carry_out(job: Job, endpoint: Endpoint, stop: threading.Event) -> Result:
    """Do the job; return what came of it, which stands in the job's result file too."""
    result = Result(job.stage)
    try:
        _carry_out(job, endpoint, stop, result)
        result.status = "done"
    except Told as error:
        result.status = "interrupted" if isinstance(error, Interrupted) else "failed"
        result.failure = failure_of(error)
    except OSError as error:
        if (refused := host_error(error)) is None:
            raise
        result.status, result.failure = "failed", failure_of(refused)
    finally:
        write_json(job.result, asdict(result), durable=False)
    return result


def _carry_out(job: Job, endpoint: Endpoint, stop: threading.Event, result: Result) -> None:
    strategy = choose_strategy(job.strategy)
    result.strategy = strategy.name
    setup = Setup(job.stage, job.snapshot, job.logs, job.caches, strategy, job.modules)
    try:
        with (
            ssh.connect(endpoint, log=job.logs / "ssh.log") as link,
            Writer(job.events, job.stage) as events,
        ):
            key = ssh.public_key(endpoint)
            disk = Checkpoints(job.layers, link, key) if job.layers else None
            enter(link, job.caches)
            provisioner = Provisioner(setup, link, events, cancelled=stop.is_set)
            with _kept_when_failed(job, disk, result):
                _run_roles(job, provisioner, disk, stop, result, events)
            result.packages = leave(link, key)
    except ssh.UnreachableError as error:
        raise _unreachable(job, endpoint, error) from error
    except CommandError as error:
        raise _unprepared(job, error) from error


def _run_roles(
    job: Job,
    provisioner: Provisioner,
    disk: Checkpoints | None,
    stop: threading.Event,
    result: Result,
    events: Writer,
) -> None:
    for index, use in list(enumerate(job.roles))[job.first_role :]:
        if stop.is_set():
            raise Interrupted(f"{job.stage}: stopped before role {use.name}")
        with _network_blamed(job):
            done = provisioner.run(index, use)
        result.roles.append(_role(done))
        if disk is None:
            continue
        if (seconds := disk.after_role(index, done)) is not None:
            events.write("checkpoint_made", use.name, seconds=seconds)
        result.top, result.checkpoint = str(disk.top), disk.stands_on


@contextlib.contextmanager
def _network_blamed(job: Job) -> Iterator[None]:
    """Say of a role that failed what it asked for in vain: mostly it failed because of that."""
    started = round(time.time(), 3)
    try:
        yield
    except ProvisionError as error:
        journal = network.read_journal(job.journal) if job.journal else ()
        network.blame(error, journal, started, stage=job.stage, role=error.role)
        raise


@contextlib.contextmanager
def _kept_when_failed(job: Job, disk: Checkpoints | None, result: Result) -> Iterator[None]:
    """Freeze the disk of a role that failed, if somebody wants to look at it."""
    try:
        yield
    except ProvisionError:
        if disk and job.keep_failed:
            result.checkpoint = disk.stands_on
            kept = disk.keep_failed()
            result.failed = str(kept) if kept else None
        raise


def _unprepared(job: Job, error: CommandError) -> ProvisionError:
    from builder.failures import explained  # late: only failures need it

    # In the guest itself only small programs of ours run outside of roles.
    failure = ProvisionError(
        f"{job.stage}: the guest cannot be prepared, frozen or left: {error.message}",
        stage=job.stage, role="", task=None, log=job.logs / "ssh.log",
    )  # fmt: skip
    hint = "the guest needs /usr/bin/python3; see its console log"
    return explained(failure, error.output or error.message, "role", hint=hint)


def _unreachable(job: Job, endpoint: Endpoint, error: ssh.UnreachableError) -> ProvisionError:
    from builder.failures import explained  # late, as above

    place = f"{endpoint.user}@{endpoint.host} port {endpoint.port}"
    failure = ProvisionError(
        f"{job.stage}: the guest does not answer on SSH ({place})\n       {error}",
        stage=job.stage, role="", task=None, log=job.logs / "ssh.log",
    )  # fmt: skip
    hint = "the guest's console log says how far it came"
    return explained(failure, str(error), "ssh", hint=hint)


def _role(result: RoleResult) -> dict[str, Any]:
    return {**asdict(result), "changed": result.changed}


def failure_of(error: Told) -> dict[str, Any]:
    """Return what :func:`raise_failure` makes an error of again."""
    return {
        "role": getattr(error, "role", None),
        "task": getattr(error, "task", None),
        "message": error.message,
        "cause": asdict(error.cause) if error.cause else None,
        "hint": error.hint,
        "log": str(error.log) if error.log else None,
    }


def main(arguments: Sequence[str]) -> int:
    """Do the job that the arguments name; return the exit status for Packer."""
    path, host, port = arguments
    job = read_job(Path(path))
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    endpoint = Endpoint(host, int(port), job.user, job.private_key)
    result = carry_out(job, endpoint, stop)
    return 0 if result.status == "done" else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
