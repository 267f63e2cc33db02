"""The fabric manager, or IMEX: of the driver's version, held, and quiet where no GPU is."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()
PARTS = {
    "nvswitch": ("nvidia-fabricmanager", "nvidia-fabricmanager.service"),
    "nvlink5": ("nvidia-fabricmanager", "nvidia-fabricmanager.service"),
    "imex": ("nvidia-imex", "nvidia-imex.service"),
}


@pytest.fixture(scope="module")
def machine(host, expected):
    """What the machine says."""
    done = host.run("python3 -c %s %s", PROGRAM, PARTS[expected["fabric_manager_platform"]][1])
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_packages_are_pinned_and_held(machine, expected):
    name = PARTS[expected["fabric_manager_platform"]][0] + expected["fabric_manager_suffix"]
    pinned = {name: [expected["fabric_manager_version"], "hold"]}
    for item in expected["fabric_manager_extra_packages"]:
        extra, _, version = item.partition("=")
        pinned[extra] = [version, "hold"]
    assert {name: machine["packages"].get(name) for name in pinned} == pinned


def test_it_is_of_the_drivers_version(machine, expected):
    version = expected["fabric_manager_version"].rpartition(":")[2].partition("-")[0]
    assert machine["drivers"] == [version]


def test_it_starts_at_boot_where_a_gpu_is(machine):
    state = "active" if machine["gpu"] else "inactive"
    assert machine["unit"] == {"enabled": "enabled", "state": state}
