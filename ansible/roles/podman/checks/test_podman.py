"""Podman gives containers what CDI describes, and room for GPU work; nothing updates them."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()
UNITS = {
    "podman-auto-update.timer": "disabled",
    "podman-restart.service": "enabled",
    "podman.socket": "disabled",
}
NO_DEVICE = "unresolvable CDI devices"


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says about its containers."""
    done = host.run("python3 -c %s", PROGRAM)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_switched_as_it_should_be(machine, unit):
    assert machine["enabled"][unit] == UNITS[unit]


def test_podman_works_with_what_was_chosen(machine, expected):
    assert machine["info"] == {
        "groups": "systemd",
        "logs": "journald",
        "network": "netavark",
        "root": expected["podman_data_root"],
        "runtime": "crun",
        "storage": "overlay",
    }


def test_devices_are_those_that_cdi_describes(machine):
    # Before anything is started: so a container can answer that, too.
    assert machine["devices"]["unknown"]["status"] != 0
    assert NO_DEVICE in machine["devices"]["unknown"]["said"]
    assert NO_DEVICE not in machine["devices"]["known"]["said"]


def test_a_container_has_its_device_and_room_for_gpu_work(machine, container, expected):
    if container:
        pytest.skip("in a container the rights to start others are those of its host")
    known = machine["devices"]["known"]
    assert known["status"] == 0, known["said"]
    assert known["output"] == ["given", "unlimited", str(expected["podman_shm_bytes"])]
