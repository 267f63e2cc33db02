"""RDMA: libraries and tools of one version, which find what adapters there are."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says about RDMA."""
    done = host.run("python3 -c %s", PROGRAM)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_packages_are_of_the_version_asked_for(machine, expected):
    pinned = dict.fromkeys(expected["rdma_packages"], expected["rdma_version"])
    extra = (item.partition("=") for item in expected["rdma_extra_packages"])
    for name, _, version in extra:
        pinned[name] = version or machine["packages"].get(name, "any")
    assert {name: machine["packages"].get(name) for name in pinned} == pinned


def test_the_library_finds_what_the_kernel_has(machine):
    assert machine["devices"]["library"] == machine["devices"]["kernel"]


def test_there_is_a_provider_for_mellanox_adapters(machine):
    assert machine["providers"] == 1


def test_peermem_is_loaded_where_it_was_asked_for(machine, expected):
    wanted = ["nvidia-peermem"] if expected["rdma_nvidia_peermem"] else []
    assert machine["loaded_at_boot"] == wanted
