"""The checks of the role container_runtime, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import jinja2
import yaml

CHECKS = "ansible/roles/container_runtime/checks/test_container_runtime.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/container_runtime"
MACHINE = "machine.py"
ENABLED = ["containerd.service", "docker.service"]


def docker():
    """daemon.json as the role writes it: its settings, with the defaults filled in."""
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    text = (ROLE / "vars/main.yml").read_text()
    filled = jinja2.Template(text.split("\n", 2)[2]).render(defaults)
    return yaml.safe_load(filled)


def answer():
    containerd = (ROLE / "files/containerd.toml").read_text().splitlines()
    machine = {
        "container": "none",
        "containerd": [line.strip() for line in containerd if line[:1] != "#"],
        "docker": docker(),
        "docker_state": "active",
        "enabled": dict.fromkeys(ENABLED, "enabled"),
    }
    return {"expected": {}, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


CONTAINER = {"container": "systemd-nspawn", "docker_state": "inactive"}
# Case: (what is different,).
SOUND = {"as built": ({},), "in a container": (told(**CONTAINER),)}

RUNS = "test_docker_runs_where_it_can"
DOCKER = "test_docker_is_configured_for_gpus"
CONTAINERD = "test_containerd_is_configured_for_gpus"
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    **{
        f"{unit} is disabled": (
            told(enabled={unit: "disabled"}),
            f"test_runtime_is_enabled[{unit}]",
        )
        for unit in ENABLED
    },
    "docker did not start": (told(docker_state="failed"), RUNS),
    "docker was started in a container": (told(**{**CONTAINER, "docker_state": "active"}), RUNS),
    "docker without CDI": (told(docker={"features": {"cdi": False}}), DOCKER),
    "docker with no features": (told(docker=("features", None)), DOCKER),
    "docker limits locked memory": (
        told(docker={"default-ulimits": {"memlock": {"Hard": 65536}}}),
        DOCKER,
    ),
    "docker's logs grow for ever": (told(docker={"log-opts": {"max-size": ""}}), DOCKER),
    "containerd without CDI": (
        told(containerd=("enable_cdi = true", "enable_cdi = false")),
        CONTAINERD,
    ),
    "containerd with control groups of its own": (
        told(containerd=("SystemdCgroup = true", "SystemdCgroup = false")),
        CONTAINERD,
    ),
}
