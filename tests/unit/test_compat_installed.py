"""What an image has, by its lists of packages, and what the rules say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compat import rules, software
from builder.compat.stack import Stack, installed
from builder.compat.table import read_table
from builder.memo import Tree

ROOT = Path(__file__).parents[2]
MONTH = "2026-11"
KERNEL = "6.12.117+deb13-cloud-amd64"
REFERENCE = Stack(
    driver="550.163.01-2",
    flavour="proprietary",
    kernel=KERNEL,
    cuda="12.4.127~12.4.1-2",
    gpus=("L4", "H100"),
)
DEBIAN = {
    "libcuda1": "550.163.01-2",
    "nvidia-kernel-dkms": "550.163.01-2",
    "linux-image-6.12.117+deb13-cloud-amd64": "6.12.117-1",
    "linux-image-cloud-amd64": "6.12.117-1",
    "libcudart12": "12.4.127~12.4.1-2",
    "python3": "3.13.5-1",
}
UBUNTU = {
    "libnvidia-compute-580": "580.95.05-0ubuntu1",
    "nvidia-dkms-580-open": "580.95.05-0ubuntu1",
    "linux-image-6.8.0-60-generic": "6.8.0-60.63",
    "cuda-cudart-12-8": "12.8.90-1",
    "nvidia-fabricmanager-580": "580.95.05-1",
    "python3": "3.12.3-0ubuntu2",
}


@pytest.fixture(scope="module")
def table():
    found = read_table(Tree(ROOT))
    assert found is not None
    return found


def test_what_debian_installed(table):
    venv = {"Torch": "2.6.0", "nvidia_cuda_runtime_cu12": "12.4.127"}
    found = installed({"dpkg": DEBIAN, "python torch": venv}, Stack(gpus=("L4",)), table)
    assert (found.driver, found.flavour, found.kernel, found.cuda) == (
        "550.163.01-2", "proprietary", KERNEL, "12.4.127~12.4.1-2",
    )  # fmt: skip
    (environment,) = found.environments
    assert (environment.where, environment.python) == ("environment torch", "3.13")
    assert environment.packages["torch"] == "2.6.0"
    assert environment.wheel("nvidia-cuda-runtime") == "12.4.127"
    assert found.gpus == ("L4",)


def test_what_ubuntu_installed(table):
    found = installed({"dpkg": UBUNTU}, Stack(), table)
    assert (found.driver, found.flavour, found.kernel, found.cuda) == (
        "580.95.05-0ubuntu1", "open", "6.8.0-60-generic", "12.8.90-1",
    )  # fmt: skip
    assert found.fabric == {"nvidia-fabricmanager-580": "580.95.05-1"}


def test_an_image_is_judged_by_what_it_has(table):
    """Its files wanted the proprietary module; somebody installed the open one."""
    packages = DEBIAN | {"nvidia-open-kernel-dkms": "550.163.01-2"}
    del packages["nvidia-kernel-dkms"]
    assert failed(packages, table) == {"kernel-module"}


def failed(packages, table):
    found = installed({"dpkg": packages}, REFERENCE, table)
    return {each.rule for each in rules.judge(found, table, MONTH) if each.level == "fail"}


def test_an_image_with_both_modules_is_not_judged_by_one_of_them(table):
    both = DEBIAN | {"nvidia-open-kernel-dkms": "550.163.01-2"}
    assert failed(both, table) == {"one-module"}
    assert installed({"dpkg": both}, REFERENCE, table).flavour == "proprietary"


def test_an_image_without_the_driver_that_was_wanted_is_refused(table):
    without = {name: version for name, version in DEBIAN.items() if "nvidia" not in name}
    found = installed({"dpkg": without}, REFERENCE, table)
    assert found.missing == ("the proprietary module",)
    assert failed(without, table) == {"driver-missing"}
    del without["libcuda1"]
    found = installed({"dpkg": without}, REFERENCE, table)
    assert found.missing == ("the driver 550.163.01", "the proprietary module")
    found = installed({"dpkg": {"python3": "3.13.5-1"}}, Stack(), table)
    assert (found.missing, found.modules) == ((), {})


def test_the_cudnn_of_an_image_is_that_of_its_packages(table):
    packages = UBUNTU | {"libcudnn9-cuda-13": "9.17.0.29-1", "libcudnn9-cuda-12": "9.10.2.21-1"}
    found = installed({"dpkg": packages}, Stack(), table)
    assert found.cudnn == {"12": "9.10.2.21-1", "13": "9.17.0.29-1"}
    said = {each.message: each.level for each in software.own_cudnn(found, table, MONTH)}
    assert sorted(said.values()) == ["fail", "ok"]


def test_what_the_lists_do_not_tell_stays_as_wanted(table):
    assert installed({}, REFERENCE, table) == REFERENCE
