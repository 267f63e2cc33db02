"""The same playbook through Packer's own ``ansible`` provisioner, and through vaultbuild.

::

    python -m bench.provisioning

One VM runs; Packer's null builder connects to it again and again, and either runs Ansible as it
comes, or calls vaultbuild's provisioning program. Each run works in a folder of its own in the
guest, so each has the same to do.
"""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import measure
from bench.measure import ROOT, VAULTBUILD, Figure, median, ratio, say, seconds
from builder import guest, ssh
from builder.engines.keys import make_keys
from builder.project import Project
from builder.provision import Use
from builder.verify import throwaway

if TYPE_CHECKING:
    from builder.engines import Endpoint

_HERE = Path(__file__).parent
_NUMBERS = itertools.count(1)
_TEMPLATE = """\
source "null" "vm" {{
  communicator         = "ssh"
  ssh_host             = "{host}"
  ssh_port             = {port}
  ssh_username         = "root"
  ssh_private_key_file = "{key}"
}}

build {{
  sources = ["source.null.vm"]
  {provisioner}
}}
"""
_ANSIBLE = """\
provisioner "ansible" {{
    playbook_file   = "{playbook}"
    extra_arguments = ["--extra-vars", "many_tasks_place=/opt/bench/{number}"]
    user            = "root"
    # Packer 1.6's proxy has an RSA key that today's OpenSSH refuses; without it Ansible is quicker.
    use_proxy       = false
  }}"""
_OURS = """\
provisioner "shell-local" {{
    command = "{command} ${{build.Host}} ${{build.Port}}"
  }}"""


def main() -> None:
    """Measure and print."""
    options = measure.parser(__doc__ or "").parse_args()
    with measure.folder(options.scratch) as scratch:
        project = measure.copy_project(ROOT / "bench/peers/project", scratch / "project")
        say("building a disk to boot")
        seconds([*VAULTBUILD, "--project", str(project), "--quiet", "stage", "final"])
        measure.wait_until_calm(options.calm)
        before = measure.load()
        figures = _measured(Project(project), scratch, options.rounds or 1)
    measure.show(figures, as_json=options.json, load_before=before)


def _measured(project: Project, scratch: Path, rounds: int) -> list[Figure]:
    logs = scratch / "logs"
    logs.mkdir(exist_ok=True)
    say(f"booting it ({project.vm.accelerator})")
    disk = project.image("final").disk
    resources = project.pipeline.stage("final").resources
    with throwaway(disk, project.vm, resources, logs) as (endpoint, _):
        packer = partial(_by_packer, endpoint, scratch)
        ours = {
            name: partial(_by_vaultbuild, endpoint, scratch, name)
            for name in ("pipelining", "auto")
        }
        found = measure.alternate(rounds, {"packer": packer, **ours})
    return [
        Figure("packer, its ansible provisioner", median(found["packer"]), "s"),
        Figure("vaultbuild, pipelining", median(found["pipelining"]), "s"),
        Figure("vaultbuild", median(found["auto"]), "s"),
        Figure("packer / vaultbuild, pipelining", ratio(found["packer"], found["pipelining"]), "x"),
        Figure("vaultbuild / packer", ratio(found["auto"], found["packer"]), "x", 0.2),
    ]


def _by_packer(endpoint: Endpoint, scratch: Path) -> float:
    provisioner = _ANSIBLE.format(playbook=_HERE / "playbook.yml", number=next(_NUMBERS))
    env = {"ANSIBLE_ROLES_PATH": str(_HERE / "roles"), "PATH": _path()}
    return _packer(endpoint, scratch, provisioner, env)


def _by_vaultbuild(endpoint: Endpoint, scratch: Path, strategy: str) -> float:
    number = next(_NUMBERS)
    logs = scratch / f"run-{number}"
    snapshot = scratch / "snapshot"
    if not snapshot.exists():
        (snapshot / "ansible").mkdir(parents=True)
        (snapshot / "ansible/roles").symlink_to(_HERE / "roles")
    job = guest.Job(
        stage="bench",
        snapshot=snapshot,
        private_key=_let_in(endpoint, scratch),
        logs=logs,
        events=logs / "events.jsonl",
        result=logs / "result.json",
        roles=(Use("many_tasks", {"many_tasks_place": f"/opt/bench/{number}"}),),
        strategy=strategy,
    )
    logs.mkdir(parents=True)
    guest.write_job(logs / "job.json", job)
    command = shlex.join([sys.executable, "-m", "builder.guest", str(logs / "job.json")])
    env = {"PYTHONPATH": str(ROOT)}
    spent = _packer(endpoint, scratch, _OURS.format(command=command), env)
    say(f"  {json.loads((logs / 'result.json').read_text())['strategy']}: {spent:.1f} s")
    return spent


def _let_in(endpoint: Endpoint, scratch: Path) -> Path:
    """Give the guest a second key, which the provisioning program takes away when it leaves."""
    keys = make_keys(scratch) if not (scratch / "key").exists() else None
    public = scratch / "public"
    if keys:
        keys.private.rename(scratch / "key")
        public.write_text(keys.public)
    line = f"echo '{public.read_text().strip()}' >> /root/.ssh/authorized_keys"
    address = f"{endpoint.user}@{endpoint.host}"
    subprocess.run(["ssh", *ssh.options(endpoint), address, line], check=True)
    return scratch / "key"


def _packer(endpoint: Endpoint, scratch: Path, provisioner: str, env: dict[str, str]) -> float:
    template = scratch / "vm.pkr.hcl"
    template.write_text(
        _TEMPLATE.format(
            host=endpoint.host,
            port=endpoint.port,
            key=endpoint.private_key,
            provisioner=provisioner,
        )
    )
    return seconds(["packer", "build", str(template)], env=env, log=scratch / "packer.log")


def _path() -> str:
    """Where ansible-playbook is: beside this Python."""
    return f"{Path(sys.executable).parent}:{measure.environment()['PATH']}"


if __name__ == "__main__":
    main()
