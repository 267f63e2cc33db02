"""Packages change when somebody changes them, and at no other time."""

import json
import re
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()


@pytest.fixture(scope="module")
def machine(host, expected):
    """What the machine says about packages that come and stay by themselves."""
    asked = [expected["apt_hygiene_masked_units"], expected["apt_hygiene_removed_packages"]]
    done = host.run("python3 -c %s %s", PROGRAM, json.dumps(asked))
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_units_are_masked(machine, expected):
    wanted = dict.fromkeys(expected["apt_hygiene_masked_units"], "masked")
    assert machine["units"] == wanted


def test_no_timer_starts_apt(machine):
    assert not machine["timers"].startswith("error: ")
    assert re.findall(r"\S*(?:apt|unattended)\S*\.timer", machine["timers"]) == []


def test_the_daily_job_does_nothing(machine):
    lines = "\n".join(machine["periodic"])
    settings = dict(re.findall(r'^APT::Periodic::(\S+) "(.*)";$', lines, re.MULTILINE))
    wanted = ("Enable", "Update-Package-Lists", "Unattended-Upgrade")
    assert {name: settings.get(name) for name in wanted} == dict.fromkeys(wanted, "0")


def test_nothing_is_there_that_upgrades(machine):
    assert machine["present"] == []


def test_nothing_stays_that_nobody_needs(machine):
    assert machine["unneeded"] == []
