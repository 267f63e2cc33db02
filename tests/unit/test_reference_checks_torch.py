"""The checks of torch, on answers of sound and of broken environments."""

from __future__ import annotations

import re
from pathlib import Path

CHECKS = "stages/frameworks/checks/test_torch.py"
FOLDER = Path(__file__).parents[2] / "stages/frameworks"
TORCH = "python_frameworks:torch"
LOCKED = dict(
    re.findall(r"^([\w.-]+)==([\w.]+)", (FOLDER / "torch.lock").read_text(), re.MULTILINE)
)
NVIDIA = "/opt/vaultbuild/venvs/torch.lock/lib/python3.13/site-packages/nvidia"
LOADED = [
    "cublas/lib/libcublas.so.12",
    "cuda_runtime/lib/libcudart.so.12",
    "cudnn/lib/libcudnn.so.9",
    "nccl/lib/libnccl.so.2",
]
SYSTEM = "/usr/lib/x86_64-linux-gnu/libcudart.so.12.4.127"


def answer():
    uses = {
        name: {
            "python_frameworks_requirements": f"stages/frameworks/{lock}",
            "python_frameworks_venv": f"/opt/vaultbuild/venvs/{lock}",
        }
        for name, lock in {"python_frameworks": "requirements.lock", TORCH: "torch.lock"}.items()
    }
    training = {
        "architectures": ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"],
        "convolved": [[[[9.0, 9.0], [9.0, 9.0]]]],
        "cuda": "12.4",
        "cudnn": 90100,
        "loaded": [f"{NVIDIA}/{name}" for name in LOADED],
        "nccl": 22105,
        "residual": 2.6e-14,
        "trained": {"weights": [[0.875, 1.25]], "losses": [2.5, 18.640625]},
        "versions": {"numpy": LOCKED["numpy"], "torch": f"{LOCKED['torch']}+cu124"},
    }
    gpus = {"L4": "8.9", "A100": "8.0", "H100": "9.0", "H200": "9.0"}
    return {"expected": {}, "uses": uses, "gpus": gpus, "training.py": training}


def said(**training):
    return {"training.py": training}


def names(*checks):
    return tuple(f"{check}[{TORCH}]" for check in checks)


def codes(*targets):
    return tuple(f"test_torch_has_code_for[{TORCH}-{target}]" for target in targets)


VERSION, CUDA = names(
    "test_torch_is_of_the_locked_version", "test_torch_is_for_the_cuda_of_its_wheels"
)
LIBRARIES, INSIDE = names(
    "test_torch_loads_the_libraries_of_its_wheels", "test_torch_finds_cuda_in_its_environment"
)
TRAINS, CONVOLVES, ALGEBRA = names(
    "test_torch_trains", "test_torch_convolves", "test_linear_algebra_of_torch_is_right"
)
(GPUS,) = names("test_torch_has_code_for_the_gpus_of_the_image")


def only(**gpus):
    """The image is for these GPUs and no other."""
    return {"gpus": (..., gpus)}


# Case: (what is different, checks that are skipped).
SOUND = {
    "as built": ({},),
    "a version without its build": (said(versions={"torch": LOCKED["torch"]}),),
    "a target has code of its own": (said(architectures=(None, "sm_89")),),
    "Turing runs code for Volta": (said(architectures=("sm_75", None)),),
    "for no GPU in particular": (only(), GPUS),
    "for Blackwell, with code for it": (
        {**only(B200="10.0", B300="10.3"), **said(architectures=(None, "sm_100"))},
    ),
    "code for compilers too": (said(architectures=(None, "compute_90")),),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "another torch": (said(versions={"torch": "2.7.1+cu124"}), VERSION),
    "another numpy": (said(versions={"numpy": "1.26.4"}), VERSION),
    "built for another CUDA": (said(cuda="12.6"), CUDA),
    "built for no CUDA": (said(cuda=None), CUDA),
    "another cuDNN is loaded": (said(cudnn=90501), LIBRARIES),
    "no cuDNN": (said(cudnn=None), LIBRARIES),
    "another NCCL is loaded": (said(nccl=22005), LIBRARIES),
    "cuDNN's version cannot be told": (said(cudnn="error: OSError()"), LIBRARIES),
    "the system's CUDA runtime is loaded": (
        said(loaded=(f"{NVIDIA}/cuda_runtime/lib/libcudart.so.12", SYSTEM)),
        INSIDE,
    ),
    "the system's CUDA runtime is loaded too": (said(loaded=(None, SYSTEM)), INSIDE),
    "another environment's NCCL is loaded": (
        said(loaded=(None, "/opt/vaultbuild/venvs/torch.lock2/lib/libnccl.so.2")),
        INSIDE,
    ),
    "no cuBLAS is loaded": (said(loaded=(f"{NVIDIA}/cublas/lib/libcublas.so.12", None)), INSIDE),
    "nothing of CUDA is loaded": (said(loaded=[]), INSIDE),
    "no code for Hopper": (said(architectures=("sm_90", None)), *codes(90), GPUS),
    "for Blackwell, without code for it": (only(B200="10.0"), GPUS),
    "for Blackwell, with code of later devices": (
        {**only(B200="10.0"), **said(architectures=(None, "sm_103"))},
        GPUS,
    ),
    "for Blackwell, with code that runs on one device": (
        {**only(B300="10.3"), **said(architectures=(None, "sm_100a"))},
        GPUS,
    ),
    "for a GPU that nobody knows": (only(X1=None), GPUS),
    "code for Hopper is only to be compiled": (
        said(architectures=("sm_90", "compute_90")),
        *codes(90),
        GPUS,
    ),
    "code of a newer Ampere only": (said(architectures=("sm_80", None)), *codes(80), GPUS),
    "no code for Ampere and Ada": (
        said(architectures=["sm_70", "sm_75", "sm_90"]),
        *codes(80, 86, 89),
        GPUS,
    ),
    "no code at all": (said(architectures=[]), *codes(75, 80, 86, 89, 90), GPUS),
    "the step goes elsewhere": (said(trained={"weights": [[0.875, 1.0]]}), TRAINS),
    "the loss is another": (said(trained={"losses": [2.5, 2.5]}), TRAINS),
    "a convolution computes something else": (
        said(convolved=[[[[9.0, 9.0], [9.0, 8.0]]]]),
        CONVOLVES,
    ),
    "linear algebra is inexact": (said(residual=1e-3), ALGEBRA),
    "linear algebra gives no number": (said(residual=float("nan")), ALGEBRA),
}
