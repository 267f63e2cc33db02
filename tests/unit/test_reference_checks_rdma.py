"""The checks of the role rdma, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/rdma/checks/test_rdma.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/rdma"
MACHINE = "machine.py"
VERSION, PERFTEST = "56.1-1", "25.01.0+0.80-1"


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    given = {"rdma_version": VERSION, "rdma_extra_packages": [f"perftest={PERFTEST}"]}
    packages = dict.fromkeys(defaults["rdma_packages"], VERSION)
    machine = {
        "devices": {"library": 0, "kernel": 0},
        "loaded_at_boot": [],
        "packages": {**packages, "perftest": PERFTEST, "libc6": "2.41-12"},
        "providers": 1,
    }
    return {"expected": defaults | given, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


PACKAGES = "test_packages_are_of_the_version_asked_for"
DEVICES = "test_the_library_finds_what_the_kernel_has"
PROVIDER = "test_there_is_a_provider_for_mellanox_adapters"
PEERMEM = "test_peermem_is_loaded_where_it_was_asked_for"
ASKED = {"expected": {"rdma_nvidia_peermem": True}}
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "with adapters": (told(devices={"library": 8, "kernel": 8}),),
    "peermem was asked for": (ASKED | told(loaded_at_boot=["nvidia-peermem"]),),
    "a package of any version": ({"expected": {"rdma_extra_packages": (..., ["perftest"])}},),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "tools of another version": (told(packages={"ibverbs-utils": "50.0-2"}), PACKAGES),
    "perftest of another version": (told(packages={"perftest": "24.01"}), PACKAGES),
    "a package of any version is missing": (
        {"expected": {"rdma_extra_packages": (..., ["perftest"])}}
        | told(packages=("perftest", None)),
        PACKAGES,
    ),
    "the library finds no adapter": (told(devices={"kernel": 8}), DEVICES),
    "no provider": (told(providers=0), PROVIDER),
    "peermem is loaded unasked": (told(loaded_at_boot=["nvidia-peermem"]), PEERMEM),
    "peermem is not loaded": (ASKED, PEERMEM),
}
