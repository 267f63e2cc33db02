"""What the CIS benchmark asks (numbers: Debian Linux 12, 1.1.0), as far as it is in force."""

import json
import re
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()
# Path: the bits that nobody may have. 2.4.1.2 to 2.4.1.7, then 7.1.1, 7.1.3, 7.1.5, 7.1.7, 7.1.9.
FORBIDDEN = {
    "/etc/cron.d": 0o077,
    "/etc/cron.daily": 0o077,
    "/etc/cron.hourly": 0o077,
    "/etc/cron.monthly": 0o077,
    "/etc/cron.weekly": 0o077,
    "/etc/crontab": 0o177,
    "/etc/passwd": 0o133,
    "/etc/group": 0o133,
    "/etc/shadow": 0o137,
    "/etc/gshadow": 0o137,
    "/etc/shells": 0o133,
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(expected):
    """The kernel settings, each of which may have several values; those of the role tuning win."""
    asked = expected["cis_baseline_sysctl"] | expected.get("tuning_sysctl", {})
    return {name: str(asked[name]).split() for name in expected["cis_baseline_sysctl"]}


@pytest.fixture(scope="module")
def machine(host, settings):
    """What the machine says about its hardening."""
    done = host.run("python3 -c %s %s", PROGRAM, json.dumps(list(settings)))
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_kernel_settings_are_written(machine, expected):
    written = dict(re.findall(r"^-(\S+) = (.+)$", machine["sysctl_file"], re.MULTILINE))
    asked = expected["cis_baseline_sysctl"]
    assert written == {name: str(value) for name, value in asked.items()}


def test_kernel_settings_are_in_force(machine, container, settings):
    if container:
        pytest.skip("the kernel belongs to the host of the container")
    there = {name: said.split() for name, said in machine["sysctl"].items() if said is not None}
    assert there == {name: settings[name] for name in there}
    assert bool(there) == bool(settings), "this kernel knows none of them"


def test_modules_are_not_loaded_by_anybody(machine, expected):
    for name in (name.replace("-", "_") for name in expected["cis_baseline_blocked_modules"]):
        assert f"blacklist {name}" in machine["modprobe"]
        assert f"install {name} /bin/false" in machine["modprobe"]


def test_files_are_for_those_who_need_them(machine):
    open_to_others = {
        path: mode
        for path, (mode, owner) in machine["modes"].items()
        if int(mode, 8) & FORBIDDEN[path] or owner
    }
    assert open_to_others == {}
    assert {"/etc/passwd", "/etc/shadow"} <= machine["modes"].keys()


def test_shared_memory_has_no_devices_and_lends_no_rights(machine):
    # 1.1.2.2.1 to 1.1.2.2.3. Not 1.1.2.2.4: programs must be able to map it for execution.
    assert {"nodev", "nosuid"} <= set(machine["mounts"]["/dev/shm"] or ())  # noqa: S108
    assert "noexec" not in machine["mounts"]["/dev/shm"]  # noqa: S108


def test_temporary_files_have_no_devices_and_lend_no_rights(machine):
    # 1.1.2.1.2 and 1.1.2.1.3, where /tmp is a file system of its own.
    assert {"nodev", "nosuid"} <= set(machine["mounts"].get("/tmp") or ("nodev", "nosuid"))  # noqa: S108


def test_auditing_is_on_where_it_was_asked_for(machine, container, expected):
    if version := expected["cis_baseline_auditd_version"]:
        # Its unit is skipped in a container: the kernel's audit belongs to its host.
        state = "inactive" if container else "active"
        assert machine["auditd"] == {"enabled": "enabled", "state": state, "version": version}
    else:
        assert machine["auditd"]["version"] == ""
