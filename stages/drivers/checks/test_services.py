"""The services of GPUs on the machine that booted: switched on, and none of them failed."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.if_used("nvidia_driver", "nvidia")
PROGRAM = Path(__file__).with_name("services.py").read_text()
PERSISTENCED = "nvidia-persistenced.service"


@pytest.fixture(scope="module")
def running(host):
    """What the machine says about its services, and whether it has a GPU."""
    done = host.run("python3 -c %s", PROGRAM)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


@pytest.mark.if_used("nvidia_persistenced", "nvidia")
def test_persistenced_is_enabled_and_did_not_fail(running):
    state = "active" if running["gpu"] else "inactive"
    assert running["services"].get(PERSISTENCED) == {"enabled": "enabled", "state": state}


def test_services_of_gpus_are_enabled_and_did_not_fail(running):
    wrong = {
        unit: how
        for unit, how in running["services"].items()
        if how["enabled"] != "enabled" or how["state"] == "failed"
    }
    assert wrong == {}
