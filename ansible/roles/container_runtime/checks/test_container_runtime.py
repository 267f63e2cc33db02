"""Docker and containerd are enabled, run where they can, and are configured for GPUs."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()
UNITS = ("containerd.service", "docker.service")


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says about Docker and containerd."""
    done = host.run("python3 -c %s", PROGRAM)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


@pytest.mark.parametrize("unit", UNITS)
def test_runtime_is_enabled(machine, unit):
    assert machine["enabled"][unit] == "enabled"


def test_docker_runs_where_it_can(machine):
    # Its units are skipped in a container: network and control groups there belong to others.
    assert machine["docker_state"] == ("active" if machine["container"] == "none" else "inactive")


def test_docker_is_configured_for_gpus(machine):
    settings = machine["docker"]
    assert settings.get("features", {}).get("cdi") is True
    assert settings.get("default-ulimits", {}).get("memlock", {}).get("Hard") == -1
    assert settings.get("log-opts", {}).get("max-size")


def test_containerd_is_configured_for_gpus(machine):
    assert "enable_cdi = true" in machine["containerd"]
    assert "SystemdCgroup = true" in machine["containerd"]
