"""Two clones of one release: they must come up, and they must not be the same machine.

A host key or a machine-id that is in the image is in every machine made from it. No look at the
disk proves as much as two clones that were asked.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder import process, ssh
from builder.engines import CONSOLE
from builder.errors import CheckError
from builder.verify import CheckResult, CheckSet, ask, throwaway

if TYPE_CHECKING:
    from pathlib import Path

    from builder.engines import Endpoint
    from builder.engines.nspawn import NspawnEngine
    from builder.engines.qemu import QemuEngine
    from builder.pipeline import Resources

_FIRMWARES = ("bios", "uefi")
# By the mark of builder.checks.
_ANYWHERE, _BOOTED = "anywhere", "not anywhere"
_IDENTITY = (
    "cat /etc/machine-id; cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2;"
    " test -d /sys/firmware/efi && echo uefi || echo bios"
)
# The prompt comes with the end of the boot; SSH answers before that.
_LOGIN = b" login: "
# In emulation, on a host that does other things as well, Docker alone was seen to need 270.
_LOGIN_SECONDS = 1200


@dataclass(frozen=True, slots=True)
class Clone:
    """What a booted clone of the release said about itself.

    ``login`` tells whether its console came to a login prompt.
    """

    firmware: str
    machine_id: str
    host_keys: tuple[str, ...]
    login: bool
    results: tuple[CheckResult, ...]
    seconds: float


def boot_clones(
    disk: Path,
    checks: CheckSet,
    engine: QemuEngine,
    resources: Resources,
    logs: Path,
    beside: NspawnEngine | None = None,
) -> tuple[Clone, ...]:
    """Boot one clone per firmware, both at once, and ask each who it is; the first is checked.

    Checks of which a boot changes nothing are asked in a container by ``beside``, where there is
    one: to compile or to infer takes ten times as long in emulation. What they say counts as said
    by the first clone.
    """
    stop = threading.Event()
    marks = _BOOTED if beside else ""
    with concurrent.futures.ThreadPoolExecutor(len(_FIRMWARES) + 1) as pool:
        asked = [
            pool.submit(
                _boot_clone, disk, checks, engine, resources, logs / firmware, firmware, marks, stop
            )
            for firmware in _FIRMWARES
        ]
        native = pool.submit(_ask_beside, disk, checks, beside, resources, logs / "container")
        try:
            first, *others = (clone.result() for clone in asked)
            return replace(first, results=(*first.results, *native.result())), *others
        except BaseException:
            # Leaving the pool waits for its threads, and those wait for their guests.
            stop.set()
            process.stop_all()
            raise


def _boot_clone(
    disk: Path,
    checks: CheckSet,
    engine: QemuEngine,
    resources: Resources,
    logs: Path,
    firmware: str,
    marks: str,
    stop: threading.Event,
) -> Clone:
    started = time.monotonic()
    with throwaway(disk, engine, resources, logs, firmware=firmware) as (endpoint, work):
        machine_id, *host_keys, booted = _identity(endpoint)
        if booted != firmware:
            raise CheckError(f"the clone for {firmware} was booted by {booted}")
        login = _came_to_login(logs / CONSOLE, stop)
        results: tuple[CheckResult, ...] = ()
        if firmware == _FIRMWARES[0]:
            results = ask(endpoint, checks, work=work, logs=logs, engine=engine.name, marks=marks)
    seconds = round(time.monotonic() - started, 1)
    return Clone(firmware, machine_id, tuple(sorted(host_keys)), login, results, seconds)


def _ask_beside(
    disk: Path,
    checks: CheckSet,
    engine: NspawnEngine | None,
    resources: Resources,
    logs: Path,
) -> tuple[CheckResult, ...]:
    if engine is None:
        return ()
    logs.mkdir(parents=True)
    with throwaway(disk, engine, resources, logs) as (endpoint, work):
        return ask(endpoint, checks, work=work, logs=logs, engine=engine.name, marks=_ANYWHERE)


def _identity(endpoint: Endpoint) -> list[str]:
    address = f"{endpoint.user}@{endpoint.host}"
    said = process.run(["ssh", *ssh.options(endpoint), address, _IDENTITY], timeout=300)
    return said.stdout.split("\n")[:-1]


def _came_to_login(console: Path, stop: threading.Event) -> bool:
    """Wait until the serial console asks who is there, or until ``stop``."""
    deadline = time.monotonic() + _LOGIN_SECONDS
    while time.monotonic() < deadline and not stop.wait(0.2):
        if _LOGIN in console.read_bytes():
            return True
    return False


def share_identity(first: Clone, second: Clone) -> bool:
    """Whether two clones have something that only one machine may have."""
    return bool(_shared_keys(first, second)) or first.machine_id == second.machine_id


def _shared_keys(first: Clone, second: Clone) -> list[str]:
    return sorted(set(first.host_keys) & set(second.host_keys))


def clone_results(first: Clone, second: Clone) -> tuple[CheckResult, ...]:
    """Say whether two clones came up, and as two machines that share no identity."""
    shared_keys = _shared_keys(first, second)
    has_keys = bool(first.host_keys and second.host_keys)
    ids = (first.machine_id, second.machine_id)
    return (
        _result("clones::have host keys of their own", ok=has_keys and not shared_keys,
                message=f"E shared: {shared_keys}; first has {len(first.host_keys)}"),
        _result("clones::have machine-ids of their own", ok=all(ids) and ids[0] != ids[1],
                message=f"E machine-ids: {ids}"),
        *(_result(f"clones::come to a login under {clone.firmware}", ok=clone.login,
                  message=f"E its console showed none within {_LOGIN_SECONDS} s")
          for clone in (first, second)),
    )  # fmt: skip


def _result(name: str, *, ok: bool, message: str) -> CheckResult:
    return CheckResult(name, "passed" if ok else "failed", 0.0, "" if ok else message)
