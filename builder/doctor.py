"""Can this host build this pipeline? Each thing looked at, what was seen, and what cures it.

A finding is a failure only when this pipeline cannot be built without it here, with the engine that
is wanted: a host without root builds from a cloud image in a VM, one without KVM in a container.
Nothing is changed, and all of it takes about a second: nobody has an excuse not to run it first.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import caches, kvm, ports, process
from builder.compat.judgement import Judge
from builder.digest import Facts, StatCache
from builder.engines.qemu import OVMF, find_ovmf
from builder.errors import CommandError, HostError
from builder.needs import needs_of
from builder.packer import Packer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from builder.pipeline import Pipeline

Level = Literal["ok", "warn", "fail"]
EngineChoice = Literal["auto", "qemu", "nspawn"]

_OLDEST_PYTHON = (3, 11)
_OLDEST_QEMU = (6, 1)
_GIB = 2**30
_MIB = 2**20
_SECONDS = 20
_LOOP_FILE = 1 << 20
_MEMORY = re.compile(r"^(\w+): +(\d+) kB$", re.MULTILINE)
_VERSION = re.compile(r"version (\d+)\.(\d+)")

# Programs that need only be there.
_PROGRAMS = ("socat", "ssh", "ssh-keygen", "setpriv", "unshare", "setsid")
_DISK_PROGRAMS = ("mmdebstrap", "mmd", "mcopy", "mkfs.vfat", "mkfs.ext4", "sfdisk")
_CONTAINER_PROGRAMS = ("systemd-nspawn", "ip", "losetup", "mount")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``cure`` is what to type, empty where nothing is wrong."""

    id: str
    title: str
    level: Level
    evidence: str
    cure: str = ""


@dataclass(frozen=True)
class Host:
    """What is particular to the machine that is looked at; tests look at another."""

    devices: Path = Path("/dev")
    firmware: Path = OVMF
    meminfo: Path = Path("/proc/meminfo")
    root: bool = field(default_factory=lambda: os.geteuid() == 0)


@dataclass(frozen=True)
class Case:
    """A pipeline on a host with an engine, and what follows from the three."""

    pipeline: Pipeline
    host: Host = field(default_factory=Host)
    wanted: EngineChoice = "auto"

    @property
    def var(self) -> Path:
        """Where the project keeps its caches and images."""
        return self.pipeline.project / "cache/var"

    @cached_property
    def kvm(self) -> tuple[bool, str]:
        """Whether KVM works, and what was seen; asked anew, for that is what a doctor is for."""
        return kvm.usable(self.var / "index/kvm.json", again=True)

    @property
    def engine(self) -> str:
        """The engine that stages would be built with."""
        if self.wanted == "auto":
            return "qemu" if self.kvm[0] else "nspawn"
        return self.wanted

    @property
    def container(self) -> Level:
        """How bad it is when a container cannot run."""
        return "fail" if self.engine == "nspawn" else "warn"


def examine(
    pipeline: Pipeline, host: Host | None = None, *, engine: EngineChoice = "auto"
) -> list[Finding]:
    """Look at everything that this pipeline needs of this host, to be built with ``engine``."""
    case = Case(pipeline, host or Host(), engine)
    return [finding for look in _LOOKS for finding in look(case)]


def _python(_: Case) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    right = sys.version_info >= _OLDEST_PYTHON
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    cure = f"use a Python of at least {wanted}"
    yield _finding("python", "Python", f"{version} at {sys.executable}", right=right, cure=cure)


def _packer(case: Case) -> Iterator[Finding]:
    try:
        found = Packer.find()
    except (HostError, CommandError) as error:
        yield Finding("packer", "Packer", "fail", error.message, error.hint or "")
        return
    try:
        found.require_plugins("qemu")
    except HostError as error:
        # A container is provisioned by a builder that every Packer has inside.
        level: Level = "fail" if case.engine == "qemu" else "warn"
        yield Finding("packer", "Packer", level, error.message, error.hint or "")
        return
    builder = f"plugins in {found.plugins}" if found.plugins else "its qemu builder inside"
    yield Finding("packer", "Packer", "ok", f"{found} at {found.program}, {builder}")


def _qemu(_: Case) -> Iterator[Finding]:
    yield _versioned("qemu", "QEMU", "qemu-system-x86_64")
    yield _versioned("qemu-img", "qemu-img", "qemu-img")


def _firmware(case: Case) -> Iterator[Finding]:
    title = "UEFI firmware"
    try:
        code, variables = find_ovmf(case.host.firmware)
    except HostError as error:
        yield Finding("uefi", title, "fail", error.message, error.hint or "")
    else:
        yield Finding("uefi", title, "ok", f"{code} with {variables.name}")


def _kvm(case: Case) -> Iterator[Finding]:
    works, seen = case.kvm
    cure = ""
    if not works:
        where = "in emulation" if case.engine == "qemu" else "in containers (--engine nspawn)"
        cure = f"without it, stages are built {where} and booted in emulation"
        if "may not open" in seen:
            cure = "adduser $USER kvm, and log in again"
    yield Finding("kvm", "KVM", "ok" if works else "warn", seen, cure)


def _user(case: Case) -> Iterator[Finding]:
    if case.host.root:
        yield Finding("user", "root", "ok", "this is root")
        return
    bootstraps = case.pipeline.source.kind == "bootstrap"
    needs_root = bootstraps or case.engine == "nspawn"
    why = "disks are made and containers started as root"
    cure = "sudo vaultbuild ..., or " + ("a cloud image and " if bootstraps else "")
    cure += "--engine qemu" + ("" if case.kvm[0] else ", in emulation")
    yield Finding("user", "root", "fail" if needs_root else "warn", f"not root: {why}", cure)


def _programs(case: Case) -> Iterator[Finding]:
    yield _all_there("programs", "programs of every build", _PROGRAMS, "fail")
    if case.pipeline.source.kind == "bootstrap":
        yield _all_there("disks", "programs that make disks", _DISK_PROGRAMS, "fail")
    yield _all_there("nspawn", "programs of containers", _CONTAINER_PROGRAMS, case.container)


def _fuse(case: Case) -> Iterator[Finding]:
    program, title = "qemu-storage-daemon", "disks as files (FUSE)"
    evidence = _said(program, "--help")
    if evidence is None:
        cure = process.how_to_install(program)
        yield Finding("fuse", title, case.container, f"no {program}", cure)
    elif "type=]fuse" not in evidence:
        cure = f"install a {program} that was built with FUSE"
        yield Finding("fuse", title, case.container, f"{program} has no FUSE export", cure)
    elif not (device := case.host.devices / "fuse").exists():
        yield Finding("fuse", title, case.container, f"{device} does not exist", "modprobe fuse")
    else:
        yield Finding("fuse", title, "ok", f"{program} exports over {device}")


def _loop(case: Case) -> Iterator[Finding]:
    if not case.host.root:
        return  # said already: without root there are no containers
    title, cure = "loop devices", "modprobe loop; in a container, run it with --privileged"
    try:
        device = _attached()
    except (CommandError, HostError) as error:
        last = error.message.splitlines()[-1].strip()
        yield Finding("loop", title, case.container, last, cure)
    else:
        yield Finding("loop", title, "ok", f"{device} was attached and detached")


def _caches(case: Case) -> Iterator[Finding]:
    needed = _needed_caches(case)
    for status in caches.status(case.pipeline.caches, case.pipeline.project, needed):
        title = f"cache {status.name}"
        id_ = f"cache-{status.name}"
        if status.state == "unreachable":
            cure = f"start it, or set caches.{status.name}.url to null in stages/pipeline.yml"
            yield Finding(id_, title, "fail", f"{status.url} does not answer", cure)
        elif status.url:
            yield Finding(id_, title, "ok", f"{status.state} at {status.url}")
        else:
            yield _own_cache(case, status.name, id_, title)
    yield _offline(case, needed)


def _needed_caches(case: Case) -> list[str]:
    """Return the caches that builds of the pipeline use, and those that it says something of."""
    needs = needs_of(case.pipeline)
    needed = {"apt", "pypi"}
    needed |= {"isos"} if needs.image else set()
    needed |= {"wheels"} if needs.wheels else set()
    needed |= {"models"} if needs.models else set()
    settings = case.pipeline.caches
    needed |= {
        name for name in caches.NAMES
        if any(settings.get(name, {}).get(key) for key in ("url", "port", "listen"))
    }  # fmt: skip
    return [name for name in caches.NAMES if name in needed]


def _own_cache(case: Case, name: str, id_: str, title: str) -> Finding:
    """Say whether a cache that does not run now could be started."""
    program, cure = {
        "apt": ("apt-cacher-ng", process.how_to_install("apt-cacher-ng")),
        "pypi": ("devpi-server", f"{sys.executable} -m pip install devpi-server"),
    }.get(name, ("", ""))
    path = _found(program) if program else Path(sys.executable)
    if path is None:
        return Finding(id_, title, "fail", f"no {program}", cure)
    settings = case.pipeline.caches.get(name, {})
    listen, port = settings.get("listen") or ports.LOOPBACK, settings.get("port")
    if not ports.has_address(listen):
        cure = f"set caches.{name}.listen to an address of this host, or to null for itself alone"
        return Finding(id_, title, "fail", f"this host has no address {listen}", cure)
    if port and ports.taken(port, listen):
        evidence = f"port {port} is taken by {ports.holder(port)}"
        return Finding(id_, title, "fail", evidence, f"stop it, or set caches.{name}.port to null")
    where = "" if listen == ports.LOOPBACK else f" at {listen}, open to other hosts"
    return Finding(id_, title, "ok", f"{path}, started when needed{where}")


def _offline(case: Case, needed: Sequence[str]) -> Finding:
    """Say what there is to build from when the network is off."""
    own = [name for name in needed if not case.pipeline.caches.get(name, {}).get("url")]
    kept = caches.holds(case.pipeline.project, own)
    told = [
        f"{name}: {found.files} file{'s' * (found.files != 1)}, {_size(found.bytes)}"
        for name, found in kept.items()
    ]
    told += [f"{name}: somebody else's" for name in needed if name not in own]
    empty = not any(found.files for found in kept.values())
    evidence = "; ".join(told) + ("; the first build needs the network" if own and empty else "")
    return Finding("offline", "building offline", "ok", evidence)


def _compatibility(case: Case) -> Iterator[Finding]:
    """Say what is wrong with the versions that the variant wants, and that the rest is right."""
    index = case.var / "index"
    cache = StatCache(case.pipeline.project, index / "files.json")
    judge = Judge(case.pipeline, cache, Facts(index / "facts.json"))
    found = judge.wanted([stage.name for stage in case.pipeline.stages])
    told = [each for each in found if each.level in {"warn", "fail"}]
    for rule in dict.fromkeys(each.rule for each in told):
        of_rule = [each for each in told if each.rule == rule]
        level: Level = "fail" if any(each.level == "fail" for each in of_rule) else "warn"
        evidence = "; ".join(each.message for each in of_rule)
        cure = of_rule[0].cure or "vaultbuild compat answers what goes with what"
        yield Finding(f"compat-{rule}", "compatibility", level, evidence, cure)
    if judge.has_table and not told:
        evidence = f"{len(found)} things go together, as stages/compatibility.yml has it"
        yield Finding("compat", "compatibility", "ok", evidence)


def _disk(case: Case) -> Iterator[Finding]:
    # The overlays of a line of stages, all together, and beside them the release made from them.
    need = case.pipeline.resources.disk_bytes
    folder = next(path for path in (case.var, *case.var.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    level: Level = "ok" if free >= 2 * need else "warn" if free >= need else "fail"
    evidence = f"{_size(free)} free at {folder}; a full disk and its release need {_size(2 * need)}"
    cure = (
        "" if level == "ok" else "vaultbuild cache prune --dry-run says what can go from cache/var"
    )
    yield Finding("disk", "free disk", level, evidence, cure)


def _memory(case: Case) -> Iterator[Finding]:
    need = case.pipeline.resources.memory_mib * _MIB
    sizes = dict(_MEMORY.findall(case.host.meminfo.read_text("ascii")))
    total, available = (int(sizes[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    level: Level = "ok" if available >= need else "warn" if total >= need else "fail"
    evidence = f"{_size(available)} available of {_size(total)}; a guest gets {_size(need)}"
    cure = "" if level == "ok" else "set resources.memory in stages/pipeline.yml, or free some"
    yield Finding("memory", "memory", level, evidence, cure)


_LOOKS: Sequence[Callable[[Case], Iterator[Finding]]] = (
    _python, _packer, _qemu, _firmware, _kvm, _user, _programs, _fuse, _loop, _caches,
    _compatibility, _disk, _memory,
)  # fmt: skip


def _finding(id_: str, title: str, evidence: str, *, right: bool, cure: str) -> Finding:
    return Finding(id_, title, "ok" if right else "fail", evidence, "" if right else cure)


def _versioned(id_: str, title: str, program: str) -> Finding:
    """Say whether a program of QEMU is there and new enough."""
    said = _said(program, "--version")
    if said is None:
        return Finding(id_, title, "fail", f"no {program}", process.how_to_install(program))
    match = _VERSION.search(said)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    evidence = f"{said.splitlines()[0] if said else 'no version'} at {_found(program)}"
    wanted = ".".join(map(str, _OLDEST_QEMU))
    cure = f"install {program} {wanted} or newer"
    return _finding(id_, title, evidence, right=version >= _OLDEST_QEMU, cure=cure)


def _all_there(id_: str, title: str, programs: Sequence[str], level: Level) -> Finding:
    """Say which of some programs are missing, and which packages bring them."""
    missing = [program for program in programs if _found(program) is None]
    if not missing:
        return Finding(id_, title, "ok", " ".join(programs))
    return Finding(id_, title, level, f"no {' '.join(missing)}", process.how_to_install(*missing))


def _found(program: str) -> Path | None:
    """Return where a program is: on PATH, or beside the Python that runs now."""
    beside = Path(sys.executable).parent / program
    try:
        return Path(process.require(program))
    except HostError:
        return beside if beside.exists() else None


def _said(program: str, argument: str) -> str | None:
    """Return what a program prints; None when there is none, or when it cannot even do that."""
    try:
        return process.run([program, argument], timeout=_SECONDS).stdout
    except (HostError, CommandError):
        return None


def _attached() -> str:
    """Attach a loop device and detach it again; return its name."""
    with tempfile.NamedTemporaryFile(prefix="vaultbuild-loop-") as file:
        file.truncate(_LOOP_FILE)
        done = process.run(["losetup", "--find", "--show", file.name], timeout=_SECONDS)
        device = done.stdout.strip()
        process.run(["losetup", "--detach", device], timeout=_SECONDS)
    return device


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"
