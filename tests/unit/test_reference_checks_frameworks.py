"""The checks of the frameworks stage, on answers of sound and of broken machines."""

from __future__ import annotations

import hashlib
import re
import runpy
from pathlib import Path

import pytest

CHECKS = "stages/frameworks/checks/test_frameworks.py"
ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "stages/frameworks/requirements.lock").read_text()
LOCKED = dict(re.findall(r"^([\w.-]+)==([\w.]+)", LOCK, re.MULTILINE))
ROWS = [[1, 2, 3, 4], [0, 0, 0, 0], [-1, 0.5, 0, 2]]


def computed():
    """relu(x @ weight + bias) with the numbers of the program that makes the model."""
    made = runpy.run_path(str(ROOT / "ansible/roles/model_cache/files/make_models.py"))
    wide, weight = made["OUTPUTS"], made["WEIGHT"]
    return [
        [
            max(0.0, sum(x * weight[k * wide + n] for k, x in enumerate(row)) + made["BIAS"][n])
            for n in range(wide)
        ]
        for row in ROWS
    ]


def answer():
    machine = {
        "check": {"status": 0, "output": "No broken requirements found."},
        "compiled": 1391,
        "dated": [],
        "files": ["SHA256SUMS", "tiny/model.onnx"],
        "frozen": {"status": 0, "output": "\n".join(f"{n}=={v}" for n, v in LOCKED.items())},
        "installed": sorted([*LOCKED, "pip"]),
        "left": [],
        "listed": ["tiny/model.onnx"],
        "lock": hashlib.sha256(LOCK.encode()).hexdigest(),
        "manifest": {"status": 0, "output": ""},
        "model_owners": [0],
        "owners": [0],
        "writable": [],
    }
    inference = {
        "residual": 2.6e-14,
        "tiny": computed(),
        "versions": {name: LOCKED[name] for name in ("numpy", "onnxruntime")},
    }
    expected = {"python_frameworks_requirements": "stages/frameworks/requirements.lock"}
    return {"expected": expected, "machine.py": machine, "inference.py": inference}


def told(**machine):
    return {"machine.py": machine}


def computes(**said):
    return {"inference.py": said}


# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "folders of its own": (
        {"expected": {"python_frameworks_venv": "/opt/venv", "model_cache_directory": "/models"}},
    ),
    "another model too": (told(files=(None, "tiny/other.onnx"), listed=(None, "tiny/other.onnx")),),
}

ENVIRONMENT = "test_environment_is_what_the_lock_lists"
MORE = "test_environment_has_nothing_more_but_pip"
COMPLETE = "test_dependencies_are_complete"
BYTECODE = "test_bytecode_is_there_and_carries_no_time"
MATCH = "test_models_match_their_manifest"
EVERY = "test_every_model_is_in_the_manifest"
VERSIONS = "test_frameworks_are_of_the_locked_versions"
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    **{
        f"{name} of another version": (
            told(frozen={"output": (f"{name}=={version}", f"{name}=={version}.post1")}),
            ENVIRONMENT,
        )
        for name, version in LOCKED.items()
    },
    "a package is missing": (
        told(
            frozen={"output": (f"protobuf=={LOCKED['protobuf']}", "")}, installed=("protobuf", None)
        ),
        ENVIRONMENT,
    ),
    "a package more": (
        told(
            frozen={"output": ("packaging==", "wheel==0.45.1\npackaging==")},
            installed=(None, "wheel"),
        ),
        ENVIRONMENT,
        MORE,
    ),
    "a package from a folder": (
        told(frozen={"output": ("packaging==", "onnx @ file:///tmp/onnx.whl\npackaging==")}),
        ENVIRONMENT,
    ),
    "setuptools, which pip does not list": (told(installed=(None, "setuptools")), MORE),
    "pip freeze fails": (told(frozen={"status": 1}), ENVIRONMENT),
    "no pip": (told(installed=("pip", None)), MORE),
    "made from another lock": (
        told(lock=hashlib.sha256(b"numpy==1.0\n").hexdigest()),
        "test_environment_was_made_from_this_lock",
    ),
    "a requirement is unmet": (
        told(
            check={
                "status": 1,
                "output": "onnxruntime 1.31.1 requires protobuf, which is not installed.",
            }
        ),
        COMPLETE,
    ),
    "no bytecode": (told(compiled=0), BYTECODE),
    "bytecode carries times": (
        told(dated=["/opt/vaultbuild/venvs/default/lib/python3.13/site-packages/a.pyc"]),
        BYTECODE,
    ),
    "models of a user": (told(model_owners=(None, 1000)), "test_models_are_read_only"),
    "files of a user": (told(owners=(None, 1000)), "test_environment_belongs_to_root"),
    "pip's cache is left": (told(left=["/root/.cache"]), "test_installing_left_nothing_behind"),
    "another numpy is imported": (computes(versions={"numpy": "1.26.4"}), VERSIONS),
    "another onnxruntime is imported": (computes(versions={"onnxruntime": "1.0.0"}), VERSIONS),
    "the model computes something else": (
        computes(tiny=[[7.75, 0.0, 0.0], [0.5, 0.0, 1.0], [3.875, 0.0, 1e-7]]),
        "test_model_computes_what_it_should",
    ),
    "linear algebra is inexact": (computes(residual=1e-3), "test_linear_algebra_is_right"),
    "linear algebra gives no number": (
        computes(residual=float("nan")),
        "test_linear_algebra_is_right",
    ),
    "a model has another checksum": (
        told(manifest={"status": 1, "output": "tiny/model.onnx: FAILED"}),
        MATCH,
    ),
    "a line of the manifest is none": (
        told(manifest={"output": "sha256sum: WARNING: 1 line is improperly formatted"}),
        MATCH,
    ),
    "a model is in no manifest": (told(files=(None, "tiny/other.onnx")), EVERY),
    "a model of the manifest is gone": (told(files=("tiny/model.onnx", None)), EVERY),
    "no model at all": (told(files=["SHA256SUMS"], listed=[]), EVERY),
    "a model may be written": (
        told(writable=["/opt/vaultbuild/models/tiny/model.onnx"]),
        "test_models_are_read_only",
    ),
}


@pytest.mark.parametrize("case", SOUND)
def test_checks_pass_on_a_sound_machine(judged, case):
    assert judged.failed(case) == judged.having(case, "skipped") == set()


@pytest.mark.parametrize("case", BROKEN)
def test_checks_fail_on_a_broken_machine(judged, case):
    _, *failing = BROKEN[case]
    assert judged.failed(case) == set(failing)
    assert judged.confused(case) == set()
