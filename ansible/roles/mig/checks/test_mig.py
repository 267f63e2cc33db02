"""GPUs are split at boot, as the layout says, before anything uses them."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()
# What keeps a GPU open, or writes down which there are.
USERS = {
    "containerd.service",
    "docker.service",
    "gpu-monitor.service",
    "kubelet.service",
    "nvidia-cdi-refresh.service",
    "nvidia-dcgm-exporter.service",
    "nvidia-dcgm.service",
    "nvidia-persistenced.service",
}


@pytest.fixture(scope="module")
def machine(host, expected):
    """What the machine says about its layout."""
    done = host.run("python3 -c %s %s", PROGRAM, expected["mig_selected"])
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_layouts_are_those_given(machine, expected):
    assert machine["configs"] == expected["mig_configs"]


def test_the_layout_is_made_at_boot_where_a_gpu_is(machine, expected):
    assert machine["unit"]["enabled"] == "enabled"
    assert machine["unit"]["ActiveState"] == ("active" if machine["gpu"] else "inactive")
    wanted = f"/usr/local/sbin/gpu-mig apply /etc/gpu-host/mig.json {expected['mig_selected']} ;"
    assert wanted in machine["unit"]["ExecStart"]


def test_it_is_made_before_gpus_are_used(machine):
    assert USERS - set(machine["unit"]["Before"].split()) == set()


def test_gpus_are_as_the_layout_says(machine):
    assert isinstance(machine["check"], list), machine["check"]
    # Without one the program itself cannot be asked: nvidia-smi is not there, or knows no driver.
    assert (machine["check"] == []) == machine["gpu"]
