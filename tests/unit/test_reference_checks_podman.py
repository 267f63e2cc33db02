"""The checks of the role podman, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/podman/checks/test_podman.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/podman"
MACHINE = "machine.py"
SHM = "1073741824"
# As podman 4.3 says it.
UNRESOLVED = "Error: setting up CDI devices: unresolvable CDI devices check.vaultbuild.invalid/gpu"
REFUSED = "Error: crun: setrlimit `RLIMIT_NOFILE`: Operation not permitted: OCI permission denied"


def answer():
    machine = {
        "container": "none",
        "devices": {
            "known": {"status": 0, "output": ["given", "unlimited", SHM], "said": ""},
            "unknown": {"status": 126, "output": [], "said": f"{UNRESOLVED}=none"},
        },
        "enabled": {
            "podman-auto-update.timer": "disabled",
            "podman-restart.service": "enabled",
            "podman.socket": "disabled",
        },
        "info": {
            "groups": "systemd",
            "logs": "journald",
            "network": "netavark",
            "root": "/var/lib/containers/storage",
            "runtime": "crun",
            "storage": "overlay",
        },
    }
    expected = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    return {"expected": expected, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


def known(**said):
    return told(devices={"known": said})


WORKS = "test_podman_works_with_what_was_chosen"
DEVICES = "test_devices_are_those_that_cdi_describes"
ROOM = "test_a_container_has_its_device_and_room_for_gpu_work"
NOT_STARTED = {"status": 126, "output": [], "said": REFUSED}
# Case: (what is different, checks that are skipped).
SOUND = {
    "as built": ({},),
    "in a container": (told(container="systemd-nspawn", devices={"known": NOT_STARTED}), ROOM),
    "folders of its own": (
        {"expected": {"podman_data_root": "/srv"}, **told(info={"root": "/srv"})},
    ),
    "more shared memory": (
        {"expected": {"podman_shm_bytes": 8 << 30}, **known(output=(SHM, str(8 << 30)))},
    ),
}  # fmt: skip


def switched(unit, state):
    return told(enabled={unit: state}), f"test_unit_is_switched_as_it_should_be[{unit}]"


# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "containers are updated by themselves": switched("podman-auto-update.timer", "enabled"),
    "a socket is there": switched("podman.socket", "enabled"),
    "containers stay off after a boot": switched("podman-restart.service", "disabled"),
    **{
        f"another {what} is at work": (told(info={what: other}), WORKS)
        for what, other in {
            "groups": "cgroupfs", "logs": "k8s-file", "network": "cni",
            "root": "/home/containers", "runtime": "runc", "storage": "vfs",
        }.items()
    },
    "a device that nobody described is given": (
        told(devices={"unknown": {"status": 0}}), DEVICES,
    ),
    "devices are not looked up": (told(devices={"unknown": {"said": REFUSED}}), DEVICES),
    "no specification is read": (
        known(status=126, output=[], said=f"{UNRESOLVED}=all"), DEVICES, ROOM,
    ),
    "no container starts": (known(**NOT_STARTED), ROOM),
    "the device is not given": (known(output=("given", None)), ROOM),
    "locked memory is limited": (known(output=("unlimited", "8192")), ROOM),
    "little shared memory": (known(output=(SHM, "65536000")), ROOM),
    "nobody knows whether it is a container": (told(container=""), ROOM),
}  # fmt: skip
