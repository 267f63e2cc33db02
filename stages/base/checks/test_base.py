"""The base image: one kernel, logins by key, a clean package database, a boot without failures.

What a check needs of the machine is asked in one go: in emulation every command costs seconds.
"""

import json

import pytest

ASK = r"""
import glob, json, os, re, subprocess

def say(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip()

def grub_kernel():
    with open("/boot/grub/grub.cfg") as file:
        found = re.search(r"^\s*linux(?:efi)?\s+(\S+)", file.read(), re.MULTILINE)
    image = found.group(1)
    image = image if image.startswith("/boot/") else "/boot" + image
    return os.path.realpath(image)

units = ["systemd-networkd", "systemd-resolved", "systemd-timesyncd", "ssh", "ssh-host-key", "docker", "containerd"]
masked = ["apt-daily.timer", "apt-daily-upgrade.timer", "systemd-networkd-wait-online.service", "sshd-keygen.service"]
print(json.dumps({
    "grub_kernel": grub_kernel(),
    "kernels": sorted(glob.glob("/boot/vmlinuz-*")),
    "initrds": sorted(glob.glob("/boot/initrd.img-*")),
    "modules": sorted(os.listdir("/lib/modules")),
    "held": say("apt-mark", "showhold").split(),
    "packages": dict(line.split(" ") for line in say(
        "dpkg-query", "--show", "--showformat", "${Package} ${Version}\n").splitlines()),
    "audit": say("dpkg", "--audit"),
    "broken": subprocess.run(["apt-get", "check", "-qq"], capture_output=True, text=True).stderr,
    "sshd": say("sshd", "-T").lower().splitlines(),
    "host_keys": sorted(glob.glob("/etc/ssh/ssh_host_*")),
    "host_key_mode": oct(os.stat("/etc/ssh/ssh_host_ed25519_key").st_mode & 0o777),
    "enabled": {unit: say("systemctl", "is-enabled", unit) for unit in units + masked},
    "failed": [line.split()[0] for line in say(
        "systemctl", "list-units", "--failed", "--plain", "--no-legend", "--all").splitlines()],
    "container": say("systemd-detect-virt", "--container"),
    "docker_state": say("systemctl", "show", "--property=ActiveState", "--value", "docker.service"),
    "docker_settings": json.load(open("/etc/docker/daemon.json")),
    "containerd_settings": say("containerd", "config", "dump"),
    "locale": open("/etc/locale.conf").read().strip(),
    "localtime": os.path.realpath("/etc/localtime"),
    "network": open("/etc/systemd/network/80-wired.network").read(),
    "resolv": os.path.realpath("/etc/resolv.conf"),
    "hostname_file": open("/etc/hostname").read().strip() if os.path.exists("/etc/hostname") else "",
    "swap": open("/proc/swaps").read().splitlines()[1:],
    "fstab": open("/etc/fstab").read(),
    "shadow": [line.split(":")[:2] for line in open("/etc/shadow")],
}))
"""


@pytest.fixture(scope="module")
def machine(host):
    """What the running machine says about itself."""
    return json.loads(host.check_output("python3 -c %s", ASK))


def test_grub_boots_the_pinned_kernel(machine, expected):
    assert machine["grub_kernel"] == f"/boot/vmlinuz-{expected['kernel_pin_release']}"


def test_there_is_no_other_kernel(machine, expected):
    release = expected["kernel_pin_release"]
    assert machine["kernels"] == [f"/boot/vmlinuz-{release}"]
    assert machine["initrds"] == [f"/boot/initrd.img-{release}"]
    assert machine["modules"] == [release]


@pytest.mark.parametrize("part", ["image", "headers"])
def test_kernel_packages_are_at_their_version_and_held(machine, expected, part):
    name = f"linux-{part}-{expected['kernel_pin_release']}"
    assert machine["packages"][name] == expected["kernel_pin_version"]
    assert name in machine["held"]


def test_running_kernel_is_the_pinned_one(host, machine, expected):
    if machine["container"] != "none":
        pytest.skip("a container runs the kernel of its host")
    assert host.check_output("uname -r") == expected["kernel_pin_release"]


def test_no_package_is_half_installed(machine):
    assert machine["audit"] == ""
    assert machine["broken"] == ""


@pytest.mark.parametrize(
    "line",
    [
        "permitrootlogin without-password",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "permitemptypasswords no",
        "x11forwarding no",
        "clientaliveinterval 180",
        "hostkey /etc/ssh/ssh_host_ed25519_key",
    ],
)
def test_ssh_takes_keys_alone(machine, line):
    assert line in machine["sshd"]


def test_ssh_has_one_host_key(machine):
    assert machine["host_keys"] == ["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"]
    assert machine["host_key_mode"] == "0o600"


def test_nobody_has_a_password(machine):
    with_password = [name for name, secret in machine["shadow"] if secret[:1] not in {"!", "*"}]
    assert with_password == []


@pytest.mark.parametrize(
    "unit",
    ["systemd-networkd", "systemd-resolved", "systemd-timesyncd", "ssh", "ssh-host-key", "docker", "containerd"],
)
def test_unit_is_enabled(machine, unit):
    assert machine["enabled"][unit] == "enabled"


@pytest.mark.parametrize(
    "unit",
    ["apt-daily.timer", "apt-daily-upgrade.timer", "systemd-networkd-wait-online.service", "sshd-keygen.service"],
)
def test_unit_is_masked(machine, unit):
    assert machine["enabled"][unit] == "masked"


def test_no_unit_failed(machine):
    failed = set(machine["failed"])
    if machine["container"] != "none":
        # The root of a container is mounted by whoever started it and cannot be mounted again.
        failed -= {"systemd-remount-fs.service"}
    assert failed == set()


def test_docker_runs_where_it_can(machine):
    # Its units are skipped in a container, where the network and the cgroups are not theirs.
    wanted = "active" if machine["container"] == "none" else "inactive"
    assert machine["docker_state"] == wanted


def test_docker_is_configured_for_gpus(machine):
    settings = machine["docker_settings"]
    assert settings["features"]["cdi"] is True
    assert settings["default-ulimits"]["memlock"]["Hard"] == -1
    assert settings["log-opts"]["max-size"]


def test_containerd_is_configured_for_gpus(machine):
    lines = [line.strip() for line in machine["containerd_settings"].splitlines()]
    assert "enable_cdi = true" in lines
    assert "SystemdCgroup = true" in lines


def test_locale_and_clock(machine):
    assert machine["locale"] == "LANG=C.UTF-8"
    assert machine["localtime"] == "/usr/share/zoneinfo/Etc/UTC"


def test_network_leaves_virtual_interfaces_alone(machine):
    assert "Kind=!*" in machine["network"].splitlines()
    assert "DHCP=yes" in machine["network"].splitlines()


def test_names_are_resolved_by_systemd(machine):
    assert machine["resolv"] == "/run/systemd/resolve/stub-resolv.conf"


def test_host_name_is_not_that_of_a_build_host(machine):
    assert machine["hostname_file"] in {"", "localhost"}


def test_there_is_no_swap(machine):
    assert machine["swap"] == []
    assert " swap " not in machine["fstab"].replace("\t", " ")
