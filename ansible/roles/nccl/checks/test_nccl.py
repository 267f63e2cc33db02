"""NCCL: of the version asked for, held, and loadable without a GPU."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says about NCCL."""
    done = host.run("python3 -c %s", PROGRAM)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_packages_are_pinned_and_held(machine, expected):
    pinned = {name: [expected["nccl_version"], "hold"] for name in expected["nccl_packages"]}
    assert {name: machine["packages"].get(name) for name in pinned} == pinned


def test_the_library_is_of_that_version(machine, expected):
    major, minor, patch = map(int, expected["nccl_version"].partition("-")[0].split("."))
    assert machine["version"] == major * 10000 + minor * 100 + patch


def test_settings_are_those_given(machine, expected):
    assert machine["settings"] == [
        f"{name}={value}" for name, value in sorted(expected["nccl_settings"].items())
    ]
