"""DCGM: made for the CUDA of the image, held, enabled, and quiet where no GPU is."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says."""
    done = host.run("python3 -c %s", PROGRAM)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_packages_are_pinned_and_held(machine, expected):
    cuda = expected["dcgm_cuda_major"]
    parts = ["core", f"cuda{cuda}"]
    if expected["dcgm_proprietary"]:
        parts += ["proprietary", f"proprietary-cuda{cuda}"]
    names = [f"datacenter-gpu-manager-4-{part}" for part in parts]
    pinned = {name: [expected["dcgm_version"], "hold"] for name in names}
    if expected["dcgm_exporter_version"]:
        pinned["datacenter-gpu-manager-exporter"] = [expected["dcgm_exporter_version"], "hold"]
    found = {
        name: one for name, one in machine["packages"].items() if name.startswith("datacenter-gpu")
    }
    # Those for another CUDA would be loaded too.
    assert found == pinned


def test_it_starts_at_boot_where_a_gpu_is(machine):
    state = "active" if machine["gpu"] else "inactive"
    assert machine["service"] == {"enabled": "enabled", "state": state}


def test_the_exporter_starts_there_too(machine, expected):
    if expected["dcgm_exporter_version"]:
        assert machine["exporter"]["enabled"] == "enabled"
        assert machine["exporter"]["state"] == ("active" if machine["gpu"] else "inactive")


def test_the_exporter_listens_where_it_was_told(machine, expected):
    if expected["dcgm_exporter_version"]:
        assert machine["exporter"]["arguments"][-2:] == ["-a", expected["dcgm_exporter_address"]]
        assert machine["exporter"]["output"] == "journal"
