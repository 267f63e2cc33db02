"""Roles on a guest: one ansible-runner run per role, its events told as they happen.

A role is run alone, so that it is done exactly when the run is: what it notified has been handled
(a play does that at the end of its roles), and the disk can be frozen. What connects the runs of a
stage is kept beside them: the SSH connection and the facts.

Ansible sees nothing of this user: configuration, connection and environment are ours. The guest
keeps nothing of Ansible: temporary files are where ``in_guest.leave`` takes them away.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from builder import in_guest, process
from builder.errors import Interrupted
from builder.files import write_json, write_text
from builder.outcome import Listener, Place, RoleResult
from builder.role_names import as_folder, role_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.events import Writer
    from builder.ssh import Link

# Part of every key: raise it when a change here, or in another module that provisions
# (tests/guards/test_versions.py lists them), may change bytes in an image.
PROVISIONING_VERSION = 2

_HOST = "guest"
_SCRATCH = f"/{in_guest.SCRATCH}"
_APT_CONF = f"/{in_guest.RUN}/apt.conf"
# Which mitogen was tried with which ansible-core, in the tests of this project. Mitogen reaches
# deep into Ansible and says itself only which versions are too old.
_MITOGEN_FOR_CORE = {"2.19": (0, 3, 54)}


@dataclass(frozen=True, slots=True)
class Use:
    """A role with the variables it is given, and what only its tasks find in their environment.

    ``name`` is what its stage calls it.
    """

    name: str
    variables: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caches:
    """The caches as the guest reaches them; None where there is none.

    ``direct`` are the hosts for which no proxy is asked, between commas.
    """

    apt_proxy: str | None = None
    pip_index: str | None = None
    models: str | None = None
    direct: str = ""
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Strategy:
    """How Ansible carries out tasks: ``mitogen`` or ``pipelining``, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Setup:
    """What the roles of a stage have in common."""

    stage: str
    snapshot: Path
    logs: Path
    caches: Caches
    strategy: Strategy
    modules: Path | None = None
    """Where the build host keeps kernel modules that roles compiled; roles look there first."""

    @property
    def place(self) -> Place:
        """Where an error of a role is found: the log is of all roles of the stage."""
        return Place(self.stage, self.snapshot.absolute(), self.logs / "ansible.log")


def apt_conf(caches: Caches) -> str:
    """Return the configuration of the guest's apt while it is provisioned."""
    lines = [
        'Acquire::Retries "3";',
        # The gateway asks other mirrors before it gives up.
        'Acquire::http::Timeout "240";',
        # The package files would stay in the image.
        'APT::Keep-Downloaded-Packages "false";',
        'DPkg::Lock::Timeout "120";',
        # The disk is synced once, when the role is done.
        'DPkg::Options { "--force-unsafe-io"; };',
    ]
    if caches.apt_proxy:
        lines.append(f'Acquire::http::Proxy "{caches.apt_proxy}";')
    if caches.offline:
        # What the caches have may be older than what archives promise to renew.
        lines.append('Acquire::Check-Valid-Until "false";')
    return "\n".join(lines) + "\n"


def environment(caches: Caches) -> dict[str, str]:
    """Return the environment of every task in the guest."""
    variables = {
        "APT_CONFIG": _APT_CONF,
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_NO_INPUT": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "TMPDIR": _SCRATCH,
    }
    if caches.pip_index:
        variables["PIP_INDEX_URL"] = caches.pip_index
        variables["PIP_TRUSTED_HOST"] = urlsplit(caches.pip_index).hostname or ""
    if caches.apt_proxy:
        # Programs that follow it are told what they may not reach; the others find no route.
        variables |= dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), caches.apt_proxy)
        variables |= dict.fromkeys(("no_proxy", "NO_PROXY"), caches.direct)
    if caches.models:
        variables["HF_ENDPOINT"] = caches.models.rstrip("/")
    return variables


def role_play(name: str, variables: Mapping[str, str], *, facts: bool) -> dict[str, Any]:
    """Return the play of the role that a stage calls ``name``.

    ``variables`` are the tasks' environment.

    Only facts that the inputs decide are gathered: those of the machine (memory, addresses, disks)
    are circumstance, and a role that used them would make images that differ under one key.
    """
    return {
        "name": name,
        "hosts": _HOST,
        "gather_facts": facts,
        "gather_subset": ["!all", "min", "service_mgr"],
        "environment": dict(variables),
        "roles": [{"role": role_of(name)}],
    }


def inventory(link: Link) -> dict[str, Any]:
    """Return Ansible's inventory: the guest, reached through the open connection."""
    guest = {
        "ansible_connection": "ssh",
        "ansible_host": link.endpoint.host,
        "ansible_port": link.endpoint.port,
        "ansible_user": link.endpoint.user,
        "ansible_ssh_private_key_file": str(link.endpoint.private_key),
        "ansible_ssh_args": shlex.join(link.options),
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_pipelining": True,
    }
    return {"all": {"hosts": {_HOST: guest}}}


def choose_strategy(wanted: str = "auto") -> Strategy:
    """Return mitogen where it is known to work with this ansible-core, else pipelining."""
    # Late: slow to import, and only the provisioning program needs it.
    from importlib.metadata import PackageNotFoundError, version

    if wanted == "pipelining":
        return Strategy("pipelining", "asked for")
    try:
        mitogen = version("mitogen")
    except PackageNotFoundError:
        mitogen = None
    return strategy_for(version("ansible-core"), mitogen)


def strategy_for(core: str, mitogen: str | None) -> Strategy:
    """Return the strategy for a pair of versions; ``mitogen`` is None where there is none."""
    if mitogen is None:
        return Strategy("pipelining", "mitogen is not installed")
    least = _MITOGEN_FOR_CORE.get(".".join(core.split(".")[:2]))
    pair = f"mitogen {mitogen} with ansible-core {core}"
    # A version with letters is a pre-release, which nobody tried.
    numbers = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", mitogen)
    if least and numbers and tuple(map(int, numbers.groups())) >= least:
        return Strategy("mitogen", pair)
    return Strategy("pipelining", f"{pair} was never tried")


class Provisioner:
    """Runs the roles of one stage on one guest."""

    def __init__(
        self,
        setup: Setup,
        link: Link,
        events: Writer,
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._setup = setup
        self._link = link
        self._events = events
        self._cancelled = cancelled
        self._facts = False

    def run(self, index: int, use: Use) -> RoleResult:
        """Run one role to its end; raise :class:`ProvisionError` when it fails."""
        folder = self._folder(f"{index:02}-{as_folder(use.name)}")
        self._write_inputs(folder, use)
        listener = Listener(use.name, self._setup.place, self._events)
        started = time.monotonic()
        self._events.write("role_started", use.name)
        status = "failed"
        try:
            status = self._play(folder, listener)
        finally:
            result = listener.result
            result.seconds = round(time.monotonic() - started, 3)
            self._events.write(
                "role_finished", use.name, status=status,
                seconds=result.seconds, changed=result.changed, tasks=result.tasks,
            )  # fmt: skip
        if status == "interrupted":
            raise Interrupted(f"{self._setup.stage}: stopped in role {use.name}")
        if status == "failed":
            raise listener.failure()
        self._facts = True
        return result

    def _folder(self, name: str) -> Path:
        """Make an empty folder for a run: in an old one, ansible-runner keeps the old variables."""
        folder = self._setup.logs / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _write_inputs(self, folder: Path, use: Use) -> None:
        variables = {**environment(self._setup.caches), **use.environment}
        play = role_play(use.name, variables, facts=not self._facts)
        write_json(folder / "project" / "main.json", [play], durable=False)
        write_json(folder / "inventory" / "hosts.json", inventory(self._link), durable=False)
        write_json(folder / "env" / "extravars", self._variables(use), durable=False)
        write_json(folder / "env" / "settings", {"pexpect_timeout": 1}, durable=False)
        write_text(folder / "empty.cfg", "", durable=False)

    def _variables(self, use: Use) -> dict[str, Any]:
        kept = self._setup.modules
        here = {"vaultbuild_modules": str(kept.absolute())} if kept else {}
        return {**use.variables, **here}

    def _play(self, folder: Path, listener: Listener) -> str:
        # Late: 70 ms, and only the provisioning program needs it.
        from ansible_runner import Runner, RunnerConfig

        ours = _ansible_environment(folder, self._setup)
        config = RunnerConfig(
            private_data_dir=str(folder),
            playbook="main.json",
            inventory=str(folder / "inventory" / "hosts.json"),
            envvars=ours,
            fact_cache=str(self._setup.logs.absolute() / "facts"),
            ident="run",
            quiet=True,
        )
        config.prepare()
        config.env = _without_strangers(config.env, ours)
        config.command = _contained(config.command)
        runner = Runner(config, event_handler=listener, cancel_callback=self._cancelled)
        with listener:
            runner.run()
        # All of it is in ansible.log and the events; what stays is what repeats the run.
        for leftover in ("artifacts", "home"):
            shutil.rmtree(folder / leftover, ignore_errors=True)
        ended = {"successful": "done", "canceled": "interrupted"}
        return ended.get(str(runner.status), "failed")


def _ansible_environment(folder: Path, setup: Setup) -> dict[str, str]:
    ansible = setup.snapshot.absolute() / "ansible"
    configuration = ansible / "ansible.cfg"
    if not configuration.exists():
        configuration = folder.absolute() / "empty.cfg"
    return {
        **_strategy_environment(setup.strategy),
        "ANSIBLE_CONFIG": str(configuration),
        "ANSIBLE_HOME": str(folder.absolute() / "home"),
        "ANSIBLE_NOCOLOR": "1",
        # Not in the inventory: mitogen does not look there.
        "ANSIBLE_REMOTE_TMP": f"{_SCRATCH}/ansible",
        "ANSIBLE_ROLES_PATH": str(ansible / "roles"),
        "LC_ALL": "C.UTF-8",
        # ansible-playbook stands beside the Python that runs us, which need not be on PATH.
        "PATH": f"{Path(sys.executable).parent}:{process.environment()['PATH']}",
    }


def _strategy_environment(strategy: Strategy) -> dict[str, str]:
    if strategy.name != "mitogen":
        return {}
    from importlib.util import find_spec  # late, as above

    spec = find_spec("ansible_mitogen")
    assert spec is not None, "the strategy was chosen for an installed mitogen"  # noqa: S101
    assert spec.origin is not None, "ansible_mitogen is a regular package"  # noqa: S101
    return {
        # Ansible announces the end of strategy plugins from elsewhere, at every task.
        "ANSIBLE_DEPRECATION_WARNINGS": "0",
        "ANSIBLE_STRATEGY": "mitogen_linear",
        "ANSIBLE_STRATEGY_PLUGINS": str(Path(spec.origin).parent / "plugins" / "strategy"),
    }


def _contained(command: list[str]) -> list[str]:
    """Wrap Ansible so that its workers end with it, and it with us.

    Each worker has a session of its own, so that ansible-runner, which kills Ansible's, does not
    reach it: the worker stays, and its connection.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
    namespace = [process.require("unshare"), *user, "--pid", "--mount-proc", "--fork"]
    mortal = [process.require("setpriv"), "--pdeathsig", "KILL"]
    return [*mortal, *namespace, "--kill-child=KILL", *command]


def _without_strangers(variables: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """Drop what ansible-runner took from our environment and what no program of ours is given."""
    strangers = os.environ.keys() - process.environment().keys() - ours.keys()
    kept = {name: value for name, value in variables.items() if name not in strangers}
    return {**process.environment(), **kept}


def source_of_in_guest() -> str:
    """Return the program that :mod:`builder.in_guest` is."""
    return Path(in_guest.__file__).read_text(encoding="utf-8")


def enter(link: Link, caches: Caches) -> None:
    """Prepare the guest for roles."""
    settings = json.dumps({"apt_conf": apt_conf(caches)})
    link.run_python(source_of_in_guest(), "enter", settings)


def leave(link: Link, public_key: str) -> dict[str, Any]:
    """Take every trace of provisioning from the guest; return its packages."""
    settings = json.dumps({"public_key": public_key})
    packages: dict[str, Any] = json.loads(link.run_python(source_of_in_guest(), "leave", settings))
    return packages
