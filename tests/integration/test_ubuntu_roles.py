"""What Ansible makes of the roles that the Ubuntu variants use, with no machine to run them on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from builder import process
from builder.pipeline import load_pipeline

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "ansible/roles/nvidia"


@pytest.fixture
def ansible(tmp_path):
    """Run a program of Ansible's with the project's roles."""

    def run(program, *arguments):
        env = {"ANSIBLE_ROLES_PATH": str(ROOT / "ansible/roles"), "HOME": str(tmp_path)}
        path = Path(sys.executable).with_name(program)
        return process.run([path, *arguments], cwd=tmp_path, env=env).stdout

    return run


@pytest.mark.parametrize("variant", ["ubuntu-24.04", "ubuntu-24.04-550"])
def test_roles_are_plays_that_ansible_can_read(ansible, tmp_path, variant):
    roles = [
        {"role": use.role, **use.variables, **{k: str(ROOT / v) for k, v in use.paths.items()}}
        for stage in load_pipeline(ROOT, variant).stages
        for use in stage.roles
    ]
    assert {"nvidia", "apt_repository", "dcgm"} <= {each["role"] for each in roles}
    play = tmp_path / "play.yml"
    play.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "roles": roles}]))
    said = ansible("ansible-playbook", "--syntax-check", "-i", "localhost,", str(play))
    assert "playbook:" in said


def asked(ansible, tmp_path, variables, expression):
    """Return what an expression is, with the variables of the role and given ones."""
    play = tmp_path / "ask.yml"
    tasks = [{"ansible.builtin.debug": {"msg": "{{ " + expression + " }}"}}]
    play.write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "localhost",
                    "connection": "local",
                    "gather_facts": False,
                    "vars_files": [str(ROLE / "vars/main.yml")],
                    "vars": variables,
                    "tasks": tasks,
                }
            ]
        )
    )
    said = ansible("ansible-playbook", "-i", "localhost,", str(play))
    return json.loads(said[said.index("{") : said.rindex("}") + 1])["msg"]


DRIVERS = {
    "580": ("580.105.08-0ubuntu1", ["libnvidia-compute-580"]),
    "550-server": ("550.163.01-0ubuntu0.24.04.1", ["nvidia-firmware-550-server-550.163.01"]),
}


@pytest.mark.parametrize("series", DRIVERS)
@pytest.mark.parametrize(("flavour", "ending"), [("open", "-open"), ("proprietary", "")])
def test_the_driver_is_pinned_with_its_module(ansible, tmp_path, series, flavour, ending):
    version, packages = DRIVERS[series]
    variables = {
        "nvidia_driver_version": version,
        "nvidia_driver_series": series,
        "nvidia_driver_flavour": flavour,
        "nvidia_driver_packages": packages,
        "nvidia_driver_extra_packages": ["nvidia-modprobe=1.0"],
    }
    names = [f"nvidia-dkms-{series}{ending}", f"nvidia-kernel-source-{series}{ending}", *packages]
    wanted = [*(f"{name}={version}" for name in names), "nvidia-modprobe=1.0"]
    assert asked(ansible, tmp_path, variables, "nvidia_pinned") == wanted
    upstream = asked(ansible, tmp_path, variables, "nvidia_upstream_version")
    assert upstream == version.partition("-")[0]


@pytest.mark.parametrize(
    ("series", "version", "package", "right"),
    [
        ("580", "580.105.08-0ubuntu1", "libnvidia-compute-580", True),
        (
            "550-server",
            "550.163.01-0ubuntu0.24.04.1",
            "nvidia-firmware-550-server-550.163.01",
            True,
        ),
        ("580", "550.163.01-0ubuntu0.24.04.1", "libnvidia-compute-580", False),
        ("580", "580.105.08-0ubuntu1", "libnvidia-compute-550", False),
        ("550-server", "550.163.01-0ubuntu0.24.04.1", "libnvidia-compute-550", False),
        ("58", "580.105.08-0ubuntu1", "libnvidia-compute-580", False),
    ],
)
def test_packages_of_another_branch_are_refused(ansible, tmp_path, series, version, package, right):
    guard = yaml.safe_load((ROLE / "tasks/main.yml").read_text())[1]["ansible.builtin.assert"]
    variables = {
        "nvidia_driver_version": version,
        "nvidia_driver_series": series,
        "nvidia_driver_packages": [package],
    }
    expression = " and ".join(f"({each})" for each in guard["that"])
    assert asked(ansible, tmp_path, variables, f"({expression})") is right
