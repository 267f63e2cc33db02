"""The checks of the role nvidia_container_toolkit, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/nvidia_container_toolkit/checks/test_nvidia_container_toolkit.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/nvidia_container_toolkit"
MACHINE = "machine.py"
VERSION = "1.18.1-1"


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    packages = defaults["nvidia_container_toolkit_packages"]
    machine = {
        "baked": [],
        "containerd": ["version = 3", "enable_cdi = true"],
        "docker": {"features": {"cdi": True}, "cdi-spec-dirs": ["/etc/cdi", "/var/run/cdi"]},
        "gpu": False,
        "packages": {name: [VERSION, "hold"] for name in packages},
        "path": {"enabled": "enabled", "state": "active"},
        "service": {"enabled": "enabled", "state": "inactive"},
        "specification": False,
    }
    return {"expected": defaults | {"nvidia_container_toolkit_version": VERSION}, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


PACKAGES, BAKED = "test_packages_are_pinned_and_held", "test_no_description_is_in_the_image"
BOOT = "test_devices_are_described_at_boot_where_there_are_any"
NOTICED = "test_a_new_driver_is_noticed"
DOCKER = "test_docker_looks_for_descriptions"
CONTAINERD = "test_containerd_looks_for_descriptions"
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "with a GPU": (told(gpu=True, specification=True, service={"state": "active"}),),
    "with a GPU, of 1.18.0": (told(gpu=True, specification=True),),
    "with podman alone": (
        {"expected": {"nvidia_container_toolkit_runtimes": (..., ["podman"])}}
        | told(docker=(..., {}), containerd=[]),
    ),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "of another version": (told(packages={"libnvidia-container1": ["1.17.8-1", "hold"]}), PACKAGES),
    "not held": (told(packages={"nvidia-container-toolkit": [VERSION, "install"]}), PACKAGES),
    "not there": (told(packages=("nvidia-container-toolkit-base", None)), PACKAGES),
    "the build described its devices": (told(baked=["/etc/cdi/nvidia.yaml"]), BAKED),
    "nobody describes devices": (told(service={"enabled": "disabled"}), BOOT),
    "describing failed": (told(service={"state": "failed"}), BOOT),
    "a GPU is not described": (told(gpu=True, service={"state": "active"}), BOOT),
    "a GPU is described that is not there": (told(specification=True), BOOT),
    "nobody looks for a driver": (told(path={"state": "inactive"}), NOTICED),
    "looking for a driver is off": (told(path={"enabled": "disabled"}), NOTICED),
    "Docker does not look": (told(docker={"features": {"cdi": False}}), DOCKER),
    "Docker looks elsewhere": (told(docker={"cdi-spec-dirs": ["/etc/cdi"]}), DOCKER),
    "containerd does not look": (told(containerd=["enable_cdi = false"]), CONTAINERD),
}
