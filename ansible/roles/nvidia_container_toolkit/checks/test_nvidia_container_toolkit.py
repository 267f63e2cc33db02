"""Containers get GPUs by descriptions that are written at boot, and by none that a build wrote."""

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
    wanted = [expected["nvidia_container_toolkit_version"], "hold"]
    pinned = dict.fromkeys(expected["nvidia_container_toolkit_packages"], wanted)
    assert {name: machine["packages"].get(name) for name in pinned} == pinned


def test_no_description_is_in_the_image(machine):
    assert machine["baked"] == []


def test_devices_are_described_at_boot_where_there_are_any(machine):
    # With a GPU it is active or inactive afterwards: releases differ in that.
    assert machine["service"]["enabled"] == "enabled"
    assert machine["service"]["state"] in (
        {"active", "inactive"} if machine["gpu"] else {"inactive"}
    )
    assert machine["specification"] == machine["gpu"]


def test_a_new_driver_is_noticed(machine):
    assert machine["path"] == {"enabled": "enabled", "state": "active"}


def test_docker_looks_for_descriptions(machine, expected):
    if "docker" in expected["nvidia_container_toolkit_runtimes"]:
        assert machine["docker"].get("features", {}).get("cdi") is True
        assert "/var/run/cdi" in machine["docker"].get("cdi-spec-dirs", ["/var/run/cdi"])


def test_containerd_looks_for_descriptions(machine, expected):
    if "containerd" in expected["nvidia_container_toolkit_runtimes"]:
        assert "enable_cdi = true" in machine["containerd"]
