"""The checks of the role cudnn, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/cudnn/checks/test_cudnn.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/cudnn"
MACHINE = "machine.py"
VERSION = "9.10.2.21-1"
NAME = "libcudnn9-cuda-12"


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    given = {"cudnn_version": VERSION, "cudnn_cuda_major": 12}
    machine = {"libraries": ["9.10.2"], "packages": {NAME: [VERSION, "hold"]}}
    return {"expected": defaults | given, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


PACKAGES, ONE = "test_packages_are_pinned_and_held", "test_it_is_for_one_cuda"
LIBRARY = "test_the_library_is_there_once"
DEV = "libcudnn9-dev-cuda-12"
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "with what compilers need": (
        {"expected": {"cudnn_packages": (..., [NAME, DEV])}}
        | told(packages={DEV: [VERSION, "hold"]}),
    ),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "of another version": (told(packages={NAME: ["9.1.0.70-1", "hold"]}), PACKAGES),
    "not held": (told(packages={NAME: [VERSION, "install"]}), PACKAGES),
    "not there": (told(packages=(NAME, None)), PACKAGES),
    "another CUDA's is there": (told(packages={"libcudnn9-cuda-13": [VERSION, "hold"]}), ONE),
    "Debian's script is there": (told(packages={"nvidia-cudnn": ["9.0.0", "install"]}), ONE),
    "the file is of another version": (told(libraries=["9.1.0"]), LIBRARY),
    "there are two": (told(libraries=(None, "9.1.0")), LIBRARY),
    "there is none": (told(libraries=[]), LIBRARY),
}
