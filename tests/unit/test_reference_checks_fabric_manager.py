"""The checks of the role fabric_manager, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/fabric_manager/checks/test_fabric_manager.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/fabric_manager"
MACHINE = "machine.py"
VERSION, DRIVER = "580.95.05-1", "580.95.05"
NVLSM = "2025.10.11-1"


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    given = {"fabric_manager_platform": "nvswitch", "fabric_manager_version": VERSION}
    machine = {
        "drivers": [DRIVER],
        "gpu": False,
        "packages": {"nvidia-fabricmanager": [VERSION, "hold"]},
        "unit": {"enabled": "enabled", "state": "inactive"},
    }
    return {"expected": defaults | given, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


def asked(**expected):
    return {"expected": {f"fabric_manager_{name}": value for name, value in expected.items()}}


PACKAGES, SAME = "test_packages_are_pinned_and_held", "test_it_is_of_the_drivers_version"
STARTS = "test_it_starts_at_boot_where_a_gpu_is"
NVLINK5 = asked(platform="nvlink5", extra_packages=(..., [f"nvlsm={NVLSM}"]))
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "with a GPU": (told(gpu=True, unit={"state": "active"}),),
    "NVLink 5": (NVLINK5 | told(packages={"nvlsm": [NVLSM, "hold"]}),),
    "IMEX": (asked(platform="imex") | told(packages={"nvidia-imex": [VERSION, "hold"]}),),
    "the branch is in the name": (
        asked(suffix="-580") | told(packages={"nvidia-fabricmanager-580": [VERSION, "hold"]}),
    ),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "of another version": (
        told(packages={"nvidia-fabricmanager": ["580.82.07-1", "hold"]}),
        PACKAGES,
    ),
    "not held": (told(packages={"nvidia-fabricmanager": [VERSION, "install"]}), PACKAGES),
    "not there": (told(packages={"nvidia-fabricmanager": None}), PACKAGES),
    "the subnet manager is missing": (NVLINK5, PACKAGES),
    "the driver is of another version": (told(drivers=["580.82.07"]), SAME),
    "there are two drivers": (told(drivers=(None, "550.163.01")), SAME),
    "there is no driver": (told(drivers=[]), SAME),
    "not enabled": (told(unit={"enabled": "disabled"}), STARTS),
    "failed without a GPU": (told(unit={"state": "failed"}), STARTS),
    "sleeps beside a GPU": (told(gpu=True), STARTS),
}
