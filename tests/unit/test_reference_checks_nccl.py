"""The checks of the role nccl, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/nccl/checks/test_nccl.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/nccl"
MACHINE = "machine.py"
VERSION = "2.22.3-1-1"


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    given = {
        "nccl_version": VERSION,
        "nccl_cuda_major": 12,
        "nccl_settings": {"NCCL_SOCKET_IFNAME": "eth0", "NCCL_IB_HCA": "mlx5"},
    }
    machine = {
        "packages": {"libnccl2": [VERSION, "hold"], "libc6": ["2.41-12", "install"]},
        "settings": ["NCCL_IB_HCA=mlx5", "NCCL_SOCKET_IFNAME=eth0"],
        "version": 22203,
    }
    return {"expected": defaults | given, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


PACKAGES = "test_packages_are_pinned_and_held"
LIBRARY = "test_the_library_is_of_that_version"
SETTINGS = "test_settings_are_those_given"
NVIDIAS = "2.27.5-1+cuda12.9"
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "of NVIDIA's archive": (
        {
            "expected": {"nccl_version": NVIDIAS},
            MACHINE: {"packages": {"libnccl2": [NVIDIAS, "hold"]}, "version": 22705},
        },
    ),
    "without settings": ({"expected": {"nccl_settings": (..., {})}} | told(settings=[]),),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "of another version": (told(packages={"libnccl2": ["2.21.5-1", "hold"]}), PACKAGES),
    "not held": (told(packages={"libnccl2": [VERSION, "install"]}), PACKAGES),
    "not there": (told(packages=("libnccl2", None)), PACKAGES),
    "another library is found first": (told(version=22105), LIBRARY),
    "a setting is missing": (told(settings=("NCCL_IB_HCA=mlx5", None)), SETTINGS),
    "a setting more": (told(settings=(None, "NCCL_DEBUG=INFO")), SETTINGS),
}
