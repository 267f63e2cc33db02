"""The archive is where it was said to be, and its key is good for it alone."""

import json
from pathlib import Path, PurePosixPath

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()


@pytest.fixture(scope="module")
def machine(host, expected):
    """What the machine says about the archive."""
    done = host.run("python3 -c %s %s", PROGRAM, expected["apt_repository_name"])
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_the_archive_is_the_one_asked_for(machine, expected):
    end = PurePosixPath(expected["apt_repository_keyring"]).suffix
    wanted = {
        "Types": "deb",
        "URIs": " ".join(expected["apt_repository_uris"]),
        "Suites": " ".join(expected["apt_repository_suites"]),
        "Signed-By": f"/etc/apt/keyrings/{expected['apt_repository_name']}{end}",
    }
    if components := " ".join(expected["apt_repository_components"]):
        wanted["Components"] = components
    # No "Trusted", no "Allow-Insecure": nothing but what was asked for.
    assert machine["source"] == wanted


def test_its_key_can_be_read_by_apt(machine):
    assert machine["key"]["mode"] == "0o644"
    assert machine["key"]["bytes"] > 0


def test_its_key_is_good_for_it_alone(machine):
    assert machine["elsewhere"] == []
