"""The first boot with a GPU is prepared: the checks are there, run by themselves, and have not run.

Where the machine that answers has a GPU, that boot was this one.
"""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("first_boot.py").read_text()
pytestmark = pytest.mark.if_used("first_boot_gpu_check")


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says about the checks of its GPUs."""
    done = host.run("python3 -c %s", PROGRAM)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


@pytest.fixture
def without_gpu(machine):
    """Skip on a machine with a GPU; not knowing it would skip half of this file."""
    assert machine["gpu"] in (True, False), machine["gpu"]
    if machine["gpu"]:
        pytest.skip("this machine has a GPU")


def test_unit_is_switched_as_was_asked(machine, expected):
    wanted = expected.get("first_boot_gpu_check_enabled", True)
    assert machine["unit"]["enabled"] == ("enabled" if wanted else "disabled")


def test_nothing_waits_for_the_unit(machine):
    assert "multi-user.target" in machine["unit"]["After"].split()


def test_gpus_are_described_to_containers_before_they_are_checked(machine):
    assert "nvidia-cdi-refresh.service" in machine["unit"]["After"].split()


@pytest.mark.usefixtures("without_gpu")
def test_unit_is_ready_for_a_gpu(machine):
    assert machine["unit"]["ActiveState"] == "inactive"
    assert machine["unit"]["Result"] in ("success", "exec-condition")
    assert machine["results"] == "none"


@pytest.mark.usefixtures("without_gpu")
def test_program_says_that_no_gpu_is_here(machine):
    assert machine["ran"]["status"] == 3
    assert "no NVIDIA GPU is here" in machine["ran"]["said"]
    assert machine["ran"]["outcome"] == "no-gpu"
    assert "<skipped" in machine["ran"]["junit"]


def test_gpus_passed_on_their_first_boot(machine, expected):
    if not machine["gpu"] or not expected.get("first_boot_gpu_check_enabled", True):
        pytest.skip("nothing was to be checked in this boot")
    assert machine["results"] == "passed"


def test_expectations_are_written_down(machine, expected):
    assert machine["expected"] == expected.get("first_boot_gpu_check_expected", {})


@pytest.mark.if_used("nvidia_driver", "nvidia")
def test_expected_driver_is_the_pinned_one(machine, expected):
    driver = expected["nvidia_driver_version"].rpartition("-")[0]
    assert machine["expected"].get("driver_version", driver) == driver


@pytest.mark.if_used("cuda_runtime")
def test_expected_cuda_is_the_pinned_one(machine, expected):
    cuda = ".".join(expected["cuda_runtime_version"].split(".")[:2])
    assert machine["expected"].get("cuda_version", cuda) == cuda


@pytest.mark.if_used("nvidia_driver", "nvidia")
def test_expected_gpus_are_the_declared_ones(machine, gpus):
    assert set(machine["expected"].get("pci_ids", gpus)) == set(gpus)
