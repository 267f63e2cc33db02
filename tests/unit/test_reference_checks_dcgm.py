"""The checks of the role dcgm, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/dcgm/checks/test_dcgm.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/dcgm"
MACHINE = "machine.py"
VERSION, EXPORTER = "1:4.4.1-1", "4.5.2-1"
CORE, CUDA = "datacenter-gpu-manager-4-core", "datacenter-gpu-manager-4-cuda12"
NAME = "datacenter-gpu-manager-exporter"
QUIET = {"enabled": "enabled", "state": "inactive"}


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    given = {
        "dcgm_version": VERSION,
        "dcgm_cuda_major": 12,
        "dcgm_exporter_version": EXPORTER,
    }
    counters = ["-f", "/etc/dcgm-exporter/default-counters.csv"]
    machine = {
        "exporter": {
            "arguments": [*counters, "-a", "127.0.0.1:9400"],
            "output": "journal",
            **QUIET,
        },
        "gpu": False,
        "packages": {CORE: [VERSION, "hold"], CUDA: [VERSION, "hold"], NAME: [EXPORTER, "hold"]},
        "service": QUIET,
    }
    return {"expected": defaults | given, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


PACKAGES = "test_packages_are_pinned_and_held"
STARTS = "test_it_starts_at_boot_where_a_gpu_is"
TOO = "test_the_exporter_starts_there_too"
LISTENS = "test_the_exporter_listens_where_it_was_told"
PROPRIETARY = {
    f"datacenter-gpu-manager-4-{part}": [VERSION, "hold"]
    for part in ("proprietary", "proprietary-cuda12")
}
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "with a GPU": (told(gpu=True, service={"state": "active"}, exporter={"state": "active"}),),
    "with the proprietary parts": (
        {"expected": {"dcgm_proprietary": True}} | told(packages=PROPRIETARY),
    ),
    "without the exporter": (
        {"expected": {"dcgm_exporter_version": ""}}
        | told(packages=(NAME, None), exporter={"enabled": "not-found", "arguments": []}),
    ),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "of another version": (told(packages={CORE: ["1:4.2.3-2", "hold"]}), PACKAGES),
    "not held": (told(packages={CUDA: [VERSION, "install"]}), PACKAGES),
    "the part for CUDA is missing": (told(packages=(CUDA, None)), PACKAGES),
    "another CUDA's part is there": (
        told(packages={"datacenter-gpu-manager-4-cuda13": [VERSION, "hold"]}),
        PACKAGES,
    ),
    "the exporter is of another version": (told(packages={NAME: ["4.1.3", "hold"]}), PACKAGES),
    "not enabled": (told(service={"enabled": "disabled"}), STARTS),
    "failed without a GPU": (told(service={"state": "failed"}), STARTS),
    "sleeps beside a GPU": (told(gpu=True), STARTS, TOO),
    "the exporter is not enabled": (told(exporter={"enabled": "disabled"}), TOO),
    "the exporter failed": (told(exporter={"state": "failed"}), TOO),
    "the exporter listens on every address": (
        told(exporter={"arguments": ("127.0.0.1:9400", ":9400")}),
        LISTENS,
    ),
    "the exporter writes to a file": (
        told(exporter={"output": "append:/var/dcgm-exporter.log"}),
        LISTENS,
    ),
}
