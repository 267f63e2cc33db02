"""The checks of the role apt_hygiene, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/apt_hygiene/checks/test_apt_hygiene.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/apt_hygiene"
MACHINE = "machine.py"
SETTINGS = "90apt-hygiene"


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    written = (ROLE / "files" / SETTINGS).read_text().splitlines()
    machine = {
        # apt-config says the branch too, and what other files set.
        "periodic": ['APT::Periodic "";', *(line for line in written if line[:2] != "//")],
        "present": [],
        "timers": "Thu 2026-11-26 03:00:00 UTC 1h - - systemd-tmpfiles-clean.timer",
        "unneeded": [],
        "units": dict.fromkeys(defaults["apt_hygiene_masked_units"], "masked"),
    }
    return {"expected": defaults, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


UNITS = "test_units_are_masked"
TIMERS = "test_no_timer_starts_apt"
JOB = "test_the_daily_job_does_nothing"
UNNEEDED = "test_nothing_stays_that_nobody_needs"
PRESENT = "test_nothing_is_there_that_upgrades"
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "no timer at all": (told(timers=""),),
    "fewer units were asked for": (
        {
            "expected": {"apt_hygiene_masked_units": (..., ["apt-daily.timer"])},
            MACHINE: {"units": (..., {"apt-daily.timer": "masked"})},
        },
    ),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "a timer is enabled": (told(units={"apt-daily.timer": "enabled"}), UNITS),
    "a unit is merely disabled": (told(units={"unattended-upgrades.service": "disabled"}), UNITS),
    "a timer runs": (told(timers=(..., "Thu - - - - apt-daily-upgrade.timer apt-d…")), TIMERS),
    "the daily job is on": (
        told(periodic=('APT::Periodic::Enable "0";', 'APT::Periodic::Enable "1";')),
        JOB,
    ),
    "upgrades are on": (
        told(periodic=('APT::Periodic::Unattended-Upgrade "0";', None)),
        JOB,
    ),
    "a package that nobody needs": (told(unneeded=["python3-distro-info"]), UNNEEDED),
    "apt cannot tell": (told(unneeded="error: CalledProcessError(100, 'apt-get')"), UNNEEDED),
    "the package is there": (told(present=["unattended-upgrades"]), PRESENT),
}
