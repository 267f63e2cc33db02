"""The checks of the base stage, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import jinja2
import yaml

CHECKS = "stages/base/checks/test_base.py"
ROOT = Path(__file__).parents[2]
ROLES = ROOT / "ansible/roles"
MACHINE = "machine.py"
KERNEL, VERSION = "6.12.117+deb13-cloud-amd64", "6.12.117-1"
OTHER = "6.12.94+deb13-cloud-amd64"
KEY = "/etc/ssh/ssh_host_ed25519_key"
MASKED = {
    "sshd-keygen.service": "test_nothing_else_makes_host_keys",
    "systemd-networkd-wait-online.service": "test_units_that_must_not_run_are_masked",
}
ENABLED = ["ssh-host-key.service", "ssh.service"]
ENABLED += [f"systemd-{name}.service" for name in ("networkd", "resolved", "timesyncd")]


def defaults(role):
    return yaml.safe_load((ROLES / role / "defaults/main.yml").read_text())


def rendered(role, template, **given):
    """The lines of a role's template, with its defaults."""
    text = (ROLES / role / "templates" / template).read_text()
    return jinja2.Template(text, trim_blocks=True).render(defaults(role) | given).splitlines()


def sshd(**given):
    """What sshd says of the role's settings."""
    lines = rendered("ssh_baseline", "sshd.conf.j2", **given)
    found = [line.lower() for line in lines if line[:1] != "#"]
    # sshd -T has another name for it.
    return [line.replace("prohibit-password", "without-password") for line in found]


def answer():
    pinned = [f"linux-image-{KERNEL}", f"linux-headers-{KERNEL}"]
    machine = {
        "audit": "",
        "broken": "",
        "container": "none",
        "enabled": dict.fromkeys(ENABLED, "enabled") | dict.fromkeys(MASKED, "masked"),
        "failed": [],
        "fstab_swaps": [],
        "grub_kernel": f"/boot/vmlinuz-{KERNEL}",
        "held": pinned,
        "host_keys": [KEY, f"{KEY}.pub"],
        "host_key_mode": "0o600",
        "hostname": "",
        "initrds": [f"/boot/initrd.img-{KERNEL}"],
        "kernels": [f"/boot/vmlinuz-{KERNEL}"],
        "locale": "LANG=C.UTF-8",
        "localtime": "/usr/share/zoneinfo/Etc/UTC",
        "modules": [KERNEL],
        "network": rendered("base_system", "wired.network.j2"),
        "packages": {**dict.fromkeys(pinned, VERSION), "openssh-server": "1:10.0p1-7"},
        "release": KERNEL,
        "resolver": "/run/systemd/resolve/stub-resolv.conf",
        "shadow": [["root", "*"], ["daemon", "*"], ["sshd", "!*"], ["messagebus", "!"]],
        "sshd": ["port 22", "addressfamily any", *sshd()],
        "swaps": [],
    }
    uses = {
        "kernel_pin": {"kernel_pin_release": KERNEL, "kernel_pin_version": VERSION},
        "base_system": defaults("base_system"),
        "ssh_baseline": defaults("ssh_baseline"),
    }
    expected = {name: value for use in uses.values() for name, value in use.items()}
    return {"expected": expected, "uses": uses, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


def given(role, **values):
    """A role is given other values than its defaults."""
    return {"expected": values, "uses": {role: values}}


CONTAINER = {"container": "systemd-nspawn", "release": "6.1.0-40-amd64"}
NAMED = given("base_system", base_system_hostname="gpu-7.example.com")
SILENT = "clientaliveinterval 180"
INTERVAL = "test_ssh_asks_for_clients_that_are_silent"
# Case: (what is different, checks that are skipped).
SOUND = {
    "as built": ({},),
    "in a container": (
        told(**CONTAINER, failed=["systemd-remount-fs.service"]),
        "test_running_kernel_is_the_pinned_one",
    ),
    "a host name for everybody": (told(hostname="localhost"),),
    "a host name that was asked for": (NAMED | told(hostname="gpu-7.example.com"),),
    "elsewhere, in another language": (
        given("base_system", base_system_locale="de_DE.UTF-8", base_system_timezone="Europe/Berlin")
        | told(locale="LANG=de_DE.UTF-8", localtime="/usr/share/zoneinfo/Europe/Berlin"),
    ),
    "other units must not run": (
        given("base_system", base_system_masked_units=["apt-daily.timer"])
        | told(
            enabled={
                "apt-daily.timer": "masked",
                "systemd-networkd-wait-online.service": "enabled",
            }
        ),
    ),
    "silent clients are asked sooner": (
        given("ssh_baseline", ssh_baseline_client_alive_interval=30, ssh_baseline_max_sessions=4)
        | told(sshd=sshd(ssh_baseline_client_alive_interval=30, ssh_baseline_max_sessions=4)),
    ),
    "without the role kernel_pin": (
        {"uses": ("kernel_pin", None), **told(kernels=[], held=[])},
        "test_grub_boots_the_pinned_kernel",
        "test_there_is_no_other_kernel",
        *(f"test_kernel_packages_are_pinned_and_held[{part}]" for part in ("image", "headers")),
        "test_running_kernel_is_the_pinned_one",
    ),
    "without the role base_system": (
        {"uses": ("base_system", None), **told(network=[], locale="", resolver="/etc/resolv.conf")},
        "test_locale_and_time_zone",
        "test_network_leaves_virtual_interfaces_alone",
        "test_names_are_resolved_by_systemd",
        "test_units_that_must_not_run_are_masked",
    ),
    "without the role ssh_baseline": (
        {"uses": ("ssh_baseline", None), **told(sshd=(SILENT, "clientaliveinterval 0"))},
        INTERVAL,
    ),
}

PINNED = "test_kernel_packages_are_pinned_and_held"
ALONE = "test_there_is_no_other_kernel"
NETWORK = "test_network_leaves_virtual_interfaces_alone"
NO_FAILURE = "test_no_unit_failed"
# sshd's words for what the baseline forbids or sets.
SSHD = {
    f"hostkey {KEY}": "hostkey /etc/ssh/ssh_host_rsa_key",
    "kbdinteractiveauthentication no": "kbdinteractiveauthentication yes",
    "passwordauthentication no": "passwordauthentication yes",
    "permitemptypasswords no": "permitemptypasswords yes",
    "permitrootlogin without-password": "permitrootlogin yes",
    "x11forwarding no": "x11forwarding yes",
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "another kernel is booted": (
        told(grub_kernel=f"/boot/vmlinuz-{OTHER}"),
        "test_grub_boots_the_pinned_kernel",
    ),
    "a second kernel": (told(kernels=(None, f"/boot/vmlinuz-{OTHER}")), ALONE),
    "a second initramfs": (told(initrds=(None, f"/boot/initrd.img-{OTHER}")), ALONE),
    "no initramfs": (told(initrds=[]), ALONE),
    "modules of another kernel": (told(modules=(None, OTHER)), ALONE),
    "another kernel runs": (told(release=OTHER), "test_running_kernel_is_the_pinned_one"),
    **{
        f"{part} of another version": (
            told(packages={f"linux-{part}-{KERNEL}": "6.12.117-2"}),
            f"{PINNED}[{part}]",
        )
        for part in ("image", "headers")
    },
    **{
        f"{part} not held": (told(held=(f"linux-{part}-{KERNEL}", None)), f"{PINNED}[{part}]")
        for part in ("image", "headers")
    },
    "no headers": (told(packages=(f"linux-headers-{KERNEL}", None)), f"{PINNED}[headers]"),
    "half configured": (
        told(audit="The following packages are only half configured:\n docker.io"),
        "test_no_package_is_half_installed",
    ),
    "unmet dependency": (
        told(broken="E: Unmet dependencies. Try 'apt --fix-broken install'"),
        "test_no_package_is_half_installed",
    ),
    **{
        f"sshd says {wrong}": (told(sshd=(right, wrong)), f"test_ssh_takes_keys_alone[{right}]")
        for right, wrong in SSHD.items()
    },
    "silent clients are never asked": (told(sshd=(SILENT, "clientaliveinterval 0")), INTERVAL),
    "silent clients are asked as by default": (
        given("ssh_baseline", ssh_baseline_client_alive_interval=30),
        INTERVAL,
    ),
    "host key of another kind": (
        told(host_keys=(None, "/etc/ssh/ssh_host_rsa_key")),
        "test_ssh_has_one_host_key",
    ),
    "host key for all to read": (told(host_key_mode="0o644"), "test_ssh_has_one_host_key"),
    "root has a password": (
        told(shadow=(["root", "*"], ["root", "$y$j9T$salt$hash"])),
        "test_nobody_has_a_password",
    ),
    "root needs no password": (
        told(shadow=(["root", "*"], ["root", ""])),
        "test_nobody_has_a_password",
    ),
    **{
        f"{unit} is disabled": (
            told(enabled={unit: "disabled"}),
            f"test_unit_is_enabled[{unit}]",
        )
        for unit in ENABLED
    },
    **{
        f"{unit} is not masked": (told(enabled={unit: "enabled"}), check)
        for unit, check in MASKED.items()
    },
    "a unit that must not run is not masked": (
        given("base_system", base_system_masked_units=["apt-daily.timer"]),
        MASKED["systemd-networkd-wait-online.service"],
    ),
    "a unit failed": (told(failed=["ssh-host-key.service"]), NO_FAILURE),
    "the root was not mounted again": (told(failed=["systemd-remount-fs.service"]), NO_FAILURE),
    "a unit failed in a container": (
        told(**CONTAINER, failed=["systemd-remount-fs.service", "ssh.service"]),
        NO_FAILURE,
    ),
    "another locale": (told(locale="LANG=de_DE.UTF-8"), "test_locale_and_time_zone"),
    "the locale is not the one that was asked for": (
        given("base_system", base_system_locale="de_DE.UTF-8"),
        "test_locale_and_time_zone",
    ),
    "the time zone is not the one that was asked for": (
        given("base_system", base_system_timezone="Europe/Berlin"),
        "test_locale_and_time_zone",
    ),
    "another time zone": (
        told(localtime="/usr/share/zoneinfo/Europe/Berlin"),
        "test_locale_and_time_zone",
    ),
    "every interface is configured": (told(network=("Kind=!*", None)), NETWORK),
    "no DHCP": (told(network=("DHCP=yes", None)), NETWORK),
    "the resolver of the build": (
        told(resolver="/etc/resolv.conf"),
        "test_names_are_resolved_by_systemd",
    ),
    "the name of the build host": (
        told(hostname="ci-runner-7"),
        "test_host_name_is_not_that_of_a_build_host",
    ),
    "another host name than was asked for": (
        NAMED | told(hostname="ci-runner-7"),
        "test_host_name_is_not_that_of_a_build_host",
    ),
    "no host name where one was asked for": (NAMED, "test_host_name_is_not_that_of_a_build_host"),
    "swap is on": (told(swaps=["/swapfile file 1048572 0 -2"]), "test_there_is_no_swap"),
    "swap in fstab": (
        told(fstab_swaps=["/swapfile none swap sw 0 0"]),
        "test_there_is_no_swap",
    ),
}  # fmt: skip
