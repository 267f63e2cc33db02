"""The base image: one kernel, logins by key, a clean package database, a boot without failures."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()
ENABLED = (
    "ssh-host-key.service",
    "ssh.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
)
SSHD = (
    "hostkey /etc/ssh/ssh_host_ed25519_key",
    "kbdinteractiveauthentication no",
    "passwordauthentication no",
    "permitemptypasswords no",
    "permitrootlogin without-password",
    "x11forwarding no",
)

pinned = pytest.mark.if_used("kernel_pin")


@pytest.fixture(scope="module")
def machine(host, expected):
    """What the running machine says about itself."""
    units = expected.get("base_system_masked_units", [])
    done = host.run(f"python3 -c %s {' '.join(['%s'] * len(units))}", PROGRAM, *units)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


@pinned
def test_grub_boots_the_pinned_kernel(machine, expected):
    assert machine["grub_kernel"] == f"/boot/vmlinuz-{expected['kernel_pin_release']}"


@pinned
def test_there_is_no_other_kernel(machine, expected):
    release = expected["kernel_pin_release"]
    assert machine["kernels"] == [f"/boot/vmlinuz-{release}"]
    assert machine["initrds"] == [f"/boot/initrd.img-{release}"]
    assert machine["modules"] == [release]


@pinned
@pytest.mark.parametrize("part", ["image", "headers"])
def test_kernel_packages_are_pinned_and_held(machine, expected, part):
    name = f"linux-{part}-{expected['kernel_pin_release']}"
    assert machine["packages"].get(name) == expected["kernel_pin_version"]
    assert name in machine["held"]


@pinned
def test_running_kernel_is_the_pinned_one(machine, container, expected):
    if container:
        pytest.skip("a container runs the kernel of its host")
    assert machine["release"] == expected["kernel_pin_release"]


def test_no_package_is_half_installed(machine):
    assert machine["audit"] == ""
    assert machine["broken"] == ""


@pytest.mark.parametrize("line", SSHD)
def test_ssh_takes_keys_alone(machine, line):
    assert line in machine["sshd"]


@pytest.mark.if_used("ssh_baseline")
def test_ssh_asks_for_clients_that_are_silent(machine, expected):
    interval = expected["ssh_baseline_client_alive_interval"]
    assert f"clientaliveinterval {interval}" in machine["sshd"]


def test_ssh_has_one_host_key(machine):
    key = "/etc/ssh/ssh_host_ed25519_key"
    assert machine["host_keys"] == [key, f"{key}.pub"]
    assert machine["host_key_mode"] == "0o600"


def test_nobody_has_a_password(machine):
    assert [name for name, secret in machine["shadow"] if secret[:1] not in {"!", "*"}] == []


@pytest.mark.parametrize("unit", ENABLED)
def test_unit_is_enabled(machine, unit):
    assert machine["enabled"][unit] == "enabled"


def test_nothing_else_makes_host_keys(machine):
    assert machine["enabled"]["sshd-keygen.service"] == "masked"


@pytest.mark.if_used("base_system")
def test_units_that_must_not_run_are_masked(machine, expected):
    wanted = dict.fromkeys(expected["base_system_masked_units"], "masked")
    assert {unit: machine["enabled"].get(unit) for unit in wanted} == wanted


def test_no_unit_failed(machine, container):
    failed = set(machine["failed"])
    if container:
        # The root of a container is mounted by whoever started it, and cannot be mounted again.
        failed -= {"systemd-remount-fs.service"}
    assert failed == set()


@pytest.mark.if_used("base_system")
def test_locale_and_time_zone(machine, expected):
    assert machine["locale"] == f"LANG={expected['base_system_locale']}"
    assert machine["localtime"] == f"/usr/share/zoneinfo/{expected['base_system_timezone']}"


@pytest.mark.if_used("base_system")
def test_network_leaves_virtual_interfaces_alone(machine):
    assert "Kind=!*" in machine["network"]
    assert "DHCP=yes" in machine["network"]


@pytest.mark.if_used("base_system")
def test_names_are_resolved_by_systemd(machine):
    assert machine["resolver"] == "/run/systemd/resolve/stub-resolv.conf"


def test_host_name_is_not_that_of_a_build_host(machine, uses):
    given = {use["base_system_hostname"] for use in uses("base_system")} - {""}
    assert machine["hostname"] in (given or {"", "localhost"})


def test_there_is_no_swap(machine):
    assert machine["swaps"] == []
    assert machine["fstab_swaps"] == []
