"""The rules of what goes together, on the project's own table: each was seen saying yes and no."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from builder.compat import rules
from builder.compat.finding import accepting, worst
from builder.compat.stack import Environment, Stack
from builder.compat.table import read_table
from builder.memo import Tree
from builder.schema import Rule

ROOT = Path(__file__).parents[2]
MONTH = "2026-11"
KERNEL, OLDER = "6.12.117+deb13-cloud-amd64", "6.12.94+deb13-cloud-amd64"


@pytest.fixture(scope="module")
def table():
    found = read_table(Tree(ROOT))
    assert found is not None
    return found


REFERENCE = Stack(
    driver="550.163.01-2",
    flavour="proprietary",
    kernel=KERNEL,
    cuda="12.4.127~12.4.1-2",
    gpus=("L4", "A100", "H100", "H200"),
)


def environment(python="3.12", **packages):
    named = {name.replace("_", "-"): version for name, version in packages.items()}
    return (Environment("stages/frameworks/a.lock", named, python),)


def stack(**changed):
    return replace(REFERENCE, **changed)


def of_driver(driver, **changed):
    """A stack of a driver and its GPUs alone: nothing else to find fault with."""
    return Stack(driver=driver, **changed)


TORCH_26 = {
    "torch": "2.6.0",
    "nvidia_cuda_runtime_cu12": "12.4.127",
    "nvidia_cublas_cu12": "12.4.5.8",
    "nvidia_cudnn_cu12": "9.1.0.70",
}
# What they require, resolved: cuBLAS 13.1 is of CUDA 13.0 Update 2, and nvJitLink is the newest.
TORCH_211 = {
    "torch": "2.11.0",
    "nvidia_cuda_runtime": "13.0.96",
    "nvidia_cuda_nvrtc": "13.0.88",
    "nvidia_cublas": "13.1.0.3",
    "nvidia_nvjitlink": "13.0.88",
}
TORCH_213 = TORCH_211 | {"torch": "2.13.0", "nvidia_nvjitlink": "13.5.37"}
# Rule, stack, level, what the message says.
CASES = {
    "a branch that ended": ("driver-end", of_driver("550.163.01"), "warn", "550 ended"),
    "one that ended this year": ("driver-end", of_driver("535.261.03"), "warn", "in 2026-06"),
    "one that is maintained": ("driver-end", of_driver("580.95.05"), "ok", "until 2028-06"),
    "one that nobody knows": ("driver-end", of_driver("999.1"), "note", "nothing is known"),
    "a driver without its packages": (
        "driver-missing",
        stack(missing=("the driver 550.163.01",)),
        "fail",
        "brings the driver 550.163.01",
    ),
    "a driver without a module": (
        "driver-missing",
        stack(missing=("the proprietary module",)),
        "fail",
        "brings the proprietary module",
    ),
    "both modules": (
        "one-module",
        stack(modules={"open": "nvidia-open-kernel-dkms", "proprietary": "nvidia-kernel-dkms"}),
        "fail",
        "open (nvidia-open-kernel-dkms), proprietary (nvidia-kernel-dkms)",
    ),
    "one module": (
        "one-module",
        stack(modules={"open": "nvidia-dkms-580-open"}),
        "ok",
        "nvidia-dkms-580-open",
    ),
    "no open module yet": (
        "driver-module",
        of_driver("470.82", flavour="open"),
        "fail",
        "470 has no open module",
    ),
    "the proprietary module on the newest kernel": ("kernel-module", stack(), "ok", KERNEL),
    "the open module on it": (
        "kernel-module",
        stack(flavour="open"),
        "fail",
        "pci_resize_resource",
    ),
    "the open module on the first kernel that broke it": (
        "kernel-module",
        stack(flavour="open", kernel="6.12.107+deb13-amd64"),
        "fail",
        "6.12.107",
    ),
    "the open module on an older kernel": (
        "kernel-module",
        stack(flavour="open", kernel=OLDER),
        "ok",
        OLDER,
    ),
    "a kernel that nobody tried": (
        "kernel-module",
        stack(flavour="open", kernel="6.13.1-amd64"),
        "note",
        "nobody has seen",
    ),
    "Fabric Manager of another version": (
        "fabric-version",
        stack(fabric={"nvidia-fabricmanager-550": "550.54.15-1"}),
        "fail",
        "550.54",
    ),
    "Fabric Manager of the same": (
        "fabric-version",
        stack(fabric={"nvidia-fabricmanager": "550.163.01-1"}),
        "ok",
        "550.163.01",
    ),
    "Fabric Manager without a driver": (
        "fabric-version",
        Stack(fabric={"nvidia-fabricmanager": "550.163.01-1"}),
        "note",
        "nothing says which driver",
    ),
    "B200 without the subnet manager": (
        "fabric-platform",
        of_driver("580.95", gpus=("B200",), fabric_platform="nvswitch"),
        "fail",
        "fabric_manager_platform must be nvlink5, and is nvswitch",
    ),
    "GB200 and a fabric manager": (
        "fabric-platform",
        of_driver("580.95", gpus=("GB200",), fabric_platform="nvlink5"),
        "fail",
        "fabric_manager_platform must be imex, and is nvlink5",
    ),
    "H100 and IMEX": (
        "fabric-platform",
        stack(fabric_platform="imex"),
        "fail",
        "A100, H100, H200: fabric_manager_platform must be nvswitch or nvlink5, and is imex",
    ),
    "H100 and the fabric manager": (
        "fabric-platform",
        stack(fabric_platform="nvswitch"),
        "ok",
        "nvswitch serves A100, H100, H200",
    ),
    "B200 with the subnet manager, and H100": (
        "fabric-platform",
        of_driver("580.95", gpus=("B200", "H100"), fabric_platform="nvlink5"),
        "ok",
        "nvlink5 serves B200",
    ),
    "B300 without a platform": (
        "fabric-platform",
        of_driver("580.95", gpus=("B300",), fabric_platform=""),
        "note",
        "B300: boards with NVLink switches want fabric_manager_platform nvlink5",
    ),
    "a GPU that does not exist": ("gpu-known", stack(gpus=("H300",)), "fail", "H300"),
    "a GPU that is too new": ("gpu-driver", stack(gpus=("B200",)), "fail", "570 or later"),
    "a GPU that is too old": (
        "gpu-driver",
        of_driver("595.71.05", gpus=("V100",)),
        "fail",
        "580 is the last",
    ),
    "a GPU of the driver": ("gpu-driver", stack(gpus=("H200",)), "ok", "550 or later"),
    "Blackwell and the proprietary module": (
        "gpu-module",
        of_driver("580.95", gpus=("b200",), flavour="proprietary"),
        "fail",
        "open module",
    ),
    "Blackwell and the open module": (
        "gpu-module",
        of_driver("580.95", gpus=("B200",), flavour="open"),
        "ok",
        "open module",
    ),
    "Volta and the open module": (
        "gpu-module",
        of_driver("580.95", gpus=("V100",), flavour="open"),
        "fail",
        "proprietary",
    ),
    "an open module without the GPU on its list": (
        "gpu-module",
        of_driver("550.163", gpus=("L40S",), flavour="open"),
        "warn",
        "555 is the first",
    ),
    "CUDA before the GPU": ("gpu-cuda", stack(gpus=("B200",)), "fail", "12.8 or later"),
    "CUDA after the GPU": (
        "gpu-cuda",
        stack(gpus=("V100",), cuda="13.0.96"),
        "fail",
        "no code for V100",
    ),
    "CUDA with the GPU": ("gpu-cuda", stack(gpus=("H100",)), "ok", "12.4"),
    "torch 2.15 on driver 550": (
        "cuda-driver",
        stack(cuda=None, environments=environment(torch="2.15.0")),
        "fail",
        "580.65.06",
    ),
    "torch 2.8 on driver 550": (
        "cuda-driver",
        stack(cuda=None, environments=environment(torch="2.8.0")),
        "note",
        "minor version",
    ),
    "torch 2.6 on driver 550": (
        "cuda-driver",
        stack(cuda=None, environments=environment(**TORCH_26)),
        "ok",
        "all of CUDA 12.4",
    ),
    "the runtime that the lock really has": (
        "cuda-driver",
        stack(cuda=None, environments=environment(torch="2.6.0", nvidia_cuda_runtime="13.0.96")),
        "fail",
        "580.65.06",
    ),
    "a CUDA without a framework": (
        "cuda-driver",
        stack(cuda=None, environments=environment(nvidia_cuda_runtime="13.0.96")),
        "fail",
        "a.lock",
    ),
    "a CUDA that nobody knows": ("cuda-driver", stack(cuda="99.1"), "note", "nothing is known"),
    "cuDNN for another CUDA": (
        "cudnn",
        stack(
            environments=environment(nvidia_cudnn_cu12="9.0.0", nvidia_cuda_runtime_cu12="12.4.1")
        ),
        "fail",
        "not made for CUDA 12.4",
    ),
    "cuDNN and an old driver": (
        "cudnn",
        of_driver("470.82", environments=environment(torch="2.6.0")),
        "fail",
        "525.60.13",
    ),
    "cuDNN without the GPU": (
        "cudnn",
        of_driver(
            "580.95",
            gpus=("V100",),
            environments=environment(
                nvidia_cudnn_cu12="9.17.0", nvidia_cuda_runtime_cu12="12.8.90"
            ),
        ),
        "fail",
        "not for V100",
    ),
    "cuDNN that goes": ("cudnn", stack(environments=environment(**TORCH_26)), "ok", "9.1.0.70"),
    "cuDNN without Blackwell on an older driver": (
        "cudnn",
        stack(environments=environment(torch="2.8.0")),
        "ok",
        "9.10.2.21",
    ),
    "cuDNN that nobody knows": (
        "cudnn",
        stack(environments=environment(torch="2.15.0")),
        "note",
        "nothing is known",
    ),
    "the image's cuDNN for another major version": (
        "cudnn",
        stack(cudnn={"13": "9.17.0.29-1"}),
        "fail",
        "packages for CUDA 13; the image has CUDA 12.4",
    ),
    "the image's cuDNN for another CUDA": (
        "cudnn",
        stack(cudnn={"12": "9.0.0.312-1"}),
        "fail",
        "9.0.0.312 is not made for CUDA 12.4",
    ),
    "the image's cuDNN and an old driver": (
        "cudnn",
        of_driver("470.82", cuda="12.4", cudnn={"12": "9.1.0.70-1"}),
        "fail",
        "525.60.13",
    ),
    "the image's cuDNN that goes": ("cudnn", stack(cudnn={"12": "9.1.0.70-1"}), "ok", "9.1.0.70"),
    "the image's cuDNN that nobody knows": (
        "cudnn",
        stack(cudnn={"12": "9.99.1-1"}),
        "note",
        "nothing is known of cuDNN 9.99.1",
    ),
    "the image's cuDNN without a CUDA": (
        "cudnn",
        stack(cuda=None, cudnn={"12": "9.1.0.70-1"}),
        "note",
        "nothing says beside which CUDA",
    ),
    "two CUDAs in one environment": (
        "one-cuda",
        stack(environments=environment(**TORCH_26, nvidia_cuda_nvrtc_cu12="12.5.82")),
        "fail",
        "has 2 CUDAs: nvidia-cuda-runtime-cu12 12.4, nvidia-cuda-nvrtc-cu12 12.5",
    ),
    "the runtime of two CUDAs in one environment": (
        "one-cuda",
        stack(environments=environment(**TORCH_26, nvidia_cuda_runtime="13.0.96")),
        "fail",
        "has 2 CUDAs: nvidia-cuda-runtime-cu12 12.4, nvidia-cuda-runtime 13.0",
    ),
    "cuBLAS of another major version": (
        "one-cuda",
        stack(environments=environment(**TORCH_211 | {"nvidia_cublas": "12.9.1.4"})),
        "fail",
        "has 2 CUDAs: nvidia-cuda-runtime 13.0, nvidia-cublas 12",
    ),
    "cuBLAS of CUDA 13.0 Update 2": (
        "one-cuda",
        stack(environments=environment(**TORCH_211)),
        "ok",
        "has one CUDA, 13.0",
    ),
    "an nvJitLink that is newer": (
        "one-cuda",
        stack(environments=environment(**TORCH_213)),
        "ok",
        "has one CUDA, 13.0",
    ),
    "cuBLAS alone": (
        "one-cuda",
        stack(environments=environment(nvidia_cublas="13.1.0.3")),
        "ok",
        "has one CUDA, 13",
    ),
    "one CUDA": ("one-cuda", stack(environments=environment(**TORCH_26)), "ok", "12.4"),
    "a release that nobody knows": (
        "framework-known",
        stack(environments=environment(torch="9.9")),
        "note",
        "torch 9.9",
    ),
    "a Python without wheels": (
        "framework-python",
        stack(environments=environment("3.13", torch="2.5.1")),
        "fail",
        "3.12",
    ),
    "a Python with wheels": (
        "framework-python",
        stack(environments=environment("3.13", torch="2.6.0")),
        "ok",
        "3.13",
    ),
    "vLLM and another torch": (
        "framework-needs",
        stack(environments=environment(vllm="0.8.5.post1", torch="2.7.1")),
        "fail",
        "torch 2.6.0",
    ),
    "vLLM and its torch": (
        "framework-needs",
        stack(environments=environment(vllm="0.8.5.post1", torch="2.6.0+cu124")),
        "ok",
        "2.6.0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_says(case, table):
    rule, wanted, level, words = CASES[case]
    found = [each for each in rules.judge(wanted, table, MONTH) if each.rule == rule]
    assert found, f"{rule} said nothing"
    assert worst(found) == level
    assert any(words in each.message for each in found if each.level == level)


def test_every_rule_has_cases_and_may_be_accepted():
    assert {rule for rule, *_ in CASES.values()} == set(get_args(Rule))


def test_the_reference_goes_together(table):
    assert worst(rules.judge(REFERENCE, table, MONTH)) == "warn"


def test_what_goes_says_on_whose_word(table):
    found = rules.judge(REFERENCE, table, MONTH)
    assert {each.source for each in found} <= set(table.sources)


def test_an_old_driver_is_told_what_it_can_run(table):
    wanted = stack(cuda=None, environments=environment(torch="2.15.0"))
    (found,) = [each for each in rules.judge(wanted, table, MONTH) if each.level == "fail"]
    assert "torch 2.6.0 is the newest that it runs in full" in found.cure
    assert "torch 2.10.0 the newest that it runs at all" in found.cure
    assert (found.where, found.package) == ("stages/frameworks/a.lock", "torch")


def test_a_module_that_does_not_compile_is_told_what_does(table):
    found = rules.judge(stack(flavour="open"), table, MONTH)
    (failed,) = [each for each in found if each.level == "fail"]
    assert failed.cure == f"the proprietary one does; it does for {OLDER}"


def test_a_branch_ends_with_its_month(table):
    def level(month):
        return rules.judge(of_driver("580.95"), table, month)[0].level

    assert (level("2028-06"), level("2028-07")) == ("ok", "warn")


def test_nothing_said_is_nothing_found(table):
    assert rules.judge(Stack(), table, MONTH) == []


def test_what_a_variant_accepts_is_a_note(table):
    found = rules.judge(stack(flavour="open", gpus=("H100",)), table, MONTH)
    accepted = accepting(found, ["kernel-module", "driver-end"])
    assert worst(accepted) == "note"
    assert worst(accepting(found, ["driver-end"])) == "fail"
