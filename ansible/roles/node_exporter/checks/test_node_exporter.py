"""The node exporter runs where it was asked to, and reads the files it was asked to read."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()


@pytest.fixture(scope="module")
def machine(host, expected):
    """What the machine says about its exporter."""
    done = host.run("python3 -c %s %s", PROGRAM, expected["node_exporter_address"])
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_it_is_of_the_version_asked_for(machine, expected):
    assert machine["version"] == expected["node_exporter_version"]


def test_it_starts_at_boot(machine):
    assert machine["enabled"] == "enabled"


def test_it_measures(machine):
    assert {"node_load", "node_exporter_build_info"} <= set(machine["measured"])


def test_it_listens_and_reads_as_it_was_told(machine, expected):
    wanted = [
        f"--web.listen-address={expected['node_exporter_address']}",
        f"--collector.textfile.directory={expected['node_exporter_textfiles']}",
        *expected["node_exporter_arguments"],
    ]
    assert machine["arguments"] == wanted
