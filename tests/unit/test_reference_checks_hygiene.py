"""The hygiene checks, on answers of sound and of spoiled machines.

tests/e2e/test_hygiene.py spoils a real image; what cannot be spoiled there is only here.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import yaml

CHECKS = "stages/final/checks/test_hygiene.py"
ROOT = Path(__file__).parents[2]
ROLES = ROOT / "ansible/roles"
KERNEL = "6.12.117+deb13-cloud-amd64"
ID, OTHER = "0123456789abcdef0123456789abcdef", "f" * 32
RESULTS = "/var/lib/vaultbuild/gpu-check.json"
SOURCES = "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"
EMPTY = ["archives", "backups", "cloud_init", "history", "lists", "network", "proxies", "residues"]
EMPTY += ["secrets", "temporary", "tokens", "users"]


def defaults(role, **given):
    """The variables in force of a use of a role."""
    path = ROLES / role / "defaults/main.yml"
    return {**(yaml.safe_load(path.read_text()) if path.exists() else {}), **given}


def used(role, **given):
    return {role: defaults(role, **given)}


USES = {
    **used("kernel_pin", kernel_pin_release=KERNEL),
    **used("cis_baseline"),
    **used("nvidia_driver", nvidia_driver_extra_packages=["nvidia-modprobe=570.133.07-1"]),
    **used("nvidia_persistenced"),
    **used("cuda_runtime", cuda_runtime_packages=["libcudart12", "libnvrtc12"]),
}
HELD_NAMES = [f"linux-image-{KERNEL}", f"linux-headers-{KERNEL}", "nvidia-kernel-dkms"]
HELD_NAMES += USES["nvidia_driver"]["nvidia_driver_packages"]
HELD_NAMES += ["nvidia-modprobe", "nvidia-persistenced", "libcudart12", "libnvrtc12"]


def answer():
    machine = {
        **{name: [] for name in EMPTY},
        "booted": 1763650000.12,
        "free": 5 << 30,
        "gpu_results": {},
        "held": HELD_NAMES,
        "host_key_made": 1763650003.5,
        "host_key_wanted": "yes",
        "journals": [f"/var/log/journal/{ID}"],
        "log_bytes": 8 << 20,
        "logs": ["/var/log/lastlog", "/var/log/wtmp"],
        "machine_id": ID,
        "machine_id_made": 1763650000.11,
        "private_keys": ["/etc/ssh/ssh_host_ed25519_key"],
        "seed_made": 1763650002.5,
        "root_keys": ["ssh-ed25519 AAAA vaultbuild"],
        "sources": SOURCES,
        "ssh": ["/root/.ssh/authorized_keys"],
    }
    return {"expected": {}, "uses": USES, "leftovers.py": machine}


def told(**machine):
    return {"leftovers.py": machine}


UBUNTU_HELD = [*HELD_NAMES[:2], "nvidia-dkms-580-open", "nvidia-kernel-source-580-open"]
UBUNTU_HELD += ["libnvidia-compute-580", "nvidia-utils-580", "nvidia-modprobe", "cuda-cudart-12-8"]
UBUNTU_HELD += ["libcublas-12-8", "libcudnn9-cuda-12", "libnccl2", "nvidia-container-toolkit"]
UBUNTU_HELD += [f"datacenter-gpu-manager-4-{part}" for part in ("core", "cuda12")]
UBUNTU_HELD += ["nvidia-fabricmanager-580"]
UBUNTU_USES = {
    **used("kernel_pin", kernel_pin_release=KERNEL),
    **used(
        "nvidia",
        nvidia_driver_series="580",
        nvidia_driver_flavour="open",
        nvidia_driver_packages=["libnvidia-compute-580", "nvidia-utils-580"],
        nvidia_driver_extra_packages=["nvidia-modprobe=580.105.08-0ubuntu1"],
    ),
    **used("cuda_runtime", cuda_runtime_packages=["cuda-cudart-12-8"]),
    "cuda_runtime:cublas": {"cuda_runtime_packages": ["libcublas-12-8"]},
    **used("cudnn", cudnn_cuda_major=12),
    **used("nccl"),
    **used(
        "nvidia_container_toolkit", nvidia_container_toolkit_packages=["nvidia-container-toolkit"]
    ),
    **used("dcgm", dcgm_cuda_major=12),
    **used("fabric_manager", fabric_manager_platform="nvswitch", fabric_manager_suffix="-580"),
}
UBUNTU = {"uses": (..., UBUNTU_USES), **told(held=UBUNTU_HELD)}


def on_ubuntu(role, *more, **given):
    """Ubuntu, where one role is given something else, and more is held."""
    changed = {**UBUNTU_USES, role: UBUNTU_USES[role] | given}
    return {"uses": (..., changed), **told(held=[*UBUNTU_HELD, *more])}


# HGX with B200: the switches need a manager of their own beside the driver's.
NVLINK = {"fabric_manager_platform": "nvlink5", "fabric_manager_extra_packages": ["nvlsm=2025.06"]}
PROPRIETARY_DCGM = [f"datacenter-gpu-manager-4-proprietary{part}" for part in ("", "-cuda12")]
EXPORTER = "datacenter-gpu-manager-exporter"


def without(role):
    """Ubuntu, where one role is not in use and what it holds is held all the same."""
    return {**UBUNTU, "uses": (..., {key: use for key, use in UBUNTU_USES.items() if key != role})}


# Case: (what is different,).
SOUND = {
    "as sealed": ({},),
    "on Ubuntu": (UBUNTU,),
    "on Ubuntu, for B200": (on_ubuntu("fabric_manager", "nvlsm", **NVLINK),),
    "on Ubuntu, all of DCGM": (
        on_ubuntu(
            "dcgm", *PROPRIETARY_DCGM, EXPORTER, dcgm_proprietary=True, dcgm_exporter_version="4.5"
        ),
    ),
    "on Ubuntu, cuDNN by its packages": (
        on_ubuntu(
            "cudnn",
            "libcudnn9-headers-cuda-12",
            cudnn_packages=["libcudnn9-cuda-12", "libcudnn9-headers-cuda-12"],
        ),
    ),
    "for memory that machines share": (
        {
            "uses": used(
                "fabric_manager", fabric_manager_platform="imex", fabric_manager_suffix="-580"
            ),
            **told(held=(None, "nvidia-imex-580")),
        },
    ),
    "the open module": (
        {
            "uses": {"nvidia_driver": {"nvidia_driver_flavour": "open"}},
            **told(held=("nvidia-kernel-dkms", "nvidia-open-kernel-dkms")),
        },
    ),
    "without roles of the driver": (
        {"uses": (..., used("kernel_pin", kernel_pin_release=KERNEL)), **told(held=HELD_NAMES[:2])},
    ),
    "without the role kernel_pin": ({"uses": ("kernel_pin", None), **told(held=HELD_NAMES[2:])},),
    "the root was made with a kernel that is held": ({"uses": ("kernel_pin", None)},),
    "audited": (
        {
            "uses": {"cis_baseline": {"cis_baseline_auditd_version": "1:4.0.2-2+deb13u1"}},
            **told(logs=(None, "/var/log/audit/audit.log")),
        },
    ),
    "the GPUs were checked in this boot": (told(gpu_results={RESULTS: 1763650031.0}),),
    "the key came as a credential": (told(root_keys=[], ssh=[], journals=[], logs=[]),),
    "no random seed": (told(seed_made=None),),
    "sources in one line": (told(sources="deb http://mirror.example/debian trixie main\n"),),
}

MACHINE_ID = "test_machine_id_was_made_in_this_boot"
HOST_KEY = "test_host_key_was_made_in_this_boot"
JOURNAL = "test_journal_knows_no_other_machine"
LOGIN = "test_nobody_else_may_log_in"
APT = "test_apt_kept_nothing"
LOGS = "test_logs_are_those_of_this_boot"
HELD = "test_kernel_and_driver_are_held_and_nothing_else"
NO = "test_package_sources_name_no"
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "no machine-id": (told(machine_id="uninitialized", journals=[]), MACHINE_ID),
    "a machine-id of the build": (told(machine_id_made=1763640000.0), MACHINE_ID),
    "a host key of the build": (told(host_key_made=1763640000.0), HOST_KEY),
    "the host key was there": (told(host_key_wanted="no"), HOST_KEY),
    "the journal of the build": (told(journals=(None, f"/var/log/journal/{OTHER}")), JOURNAL),
    "a second key": (told(root_keys=(None, "ssh-ed25519 AAAA engineer")), LOGIN),
    "known hosts": (told(ssh=(None, "/root/.ssh/known_hosts")), LOGIN),
    "a user": (told(users=["debian"]), LOGIN),
    "a private key": (
        told(private_keys=(None, "/root/.ssh/id_ed25519")),
        "test_there_is_no_private_key",
    ),
    "a secret": (told(secrets=["/root/.netrc"]), "test_there_is_no_secret"),
    "a token": (told(tokens=["/etc/hub.conf"]), "test_there_is_no_token"),
    "the random seed of the build": (
        told(seed_made=1763640000.0),
        "test_random_seed_is_none_of_the_build",
    ),
    "a history": (told(history=["/root/.bash_history"]), "test_there_is_no_history"),
    "lists of apt": (told(lists=["/var/lib/apt/lists/mirror_InRelease"]), APT),
    "archives of apt": (told(archives=["/var/cache/apt/archives/a.deb"]), APT),
    "a proxy": (
        told(proxies=["/etc/apt/apt.conf.d/99mmdebstrap"]),
        "test_no_proxy_and_no_index_is_left",
    ),
    "an unsigned archive": (
        told(sources=("Types: deb", "Types: deb\nTrusted: yes")),
        f"{NO}[unsigned archive]",
    ),
    "an unsigned archive in one line": (
        told(sources="deb [trusted=yes] http://mirror.example/debian trixie main\n"),
        f"{NO}[unsigned archive]",
    ),
    "credentials of an archive": (
        told(sources=("//mirror", "//user:word@mirror")),
        f"{NO}[credentials]",
    ),
    **{
        f"the mirror is {address}": (
            told(sources=("mirror.example", address)),
            f"{NO}[mirror of the build]",
        )
        for address in ("localhost:3142", "127.0.0.1", "169.254.7.1:3142", "10.0.2.2", "[::1]:80")
    },
    "packages from a folder": (
        told(sources=("http://mirror.example", "file:/srv")),
        f"{NO}[folder of the build host]",
    ),
    "no package sources": (told(sources=""), "test_package_sources_are_there"),
    "a log of the build": (told(logs=(None, "/var/log/apt/history.log")), LOGS),
    "a log of audits that nobody asked for": (
        told(logs=(None, "/var/log/audit/audit.log")),
        LOGS,
    ),
    "a log of audits without the role cis_baseline": (
        {"uses": ("cis_baseline", None), **told(logs=(None, "/var/log/audit/audit.log"))},
        LOGS,
    ),
    "logs without end": (told(log_bytes=1 << 30), LOGS),
    "a temporary file": (told(temporary=["/var/crash/x"]), "test_nothing_temporary_is_left"),
    "a backup": (told(backups=["/etc/passwd-"]), "test_there_are_no_backups"),
    "names of interfaces": (
        told(network=["/etc/udev/rules.d/70-persistent-net.rules"]),
        "test_network_has_no_memory",
    ),
    "an instance of cloud-init": (
        told(cloud_init=["/var/lib/cloud/instances"]),
        "test_cloud_init_has_no_memory",
    ),
    **{f"{name} is not held": (told(held=(name, None)), HELD) for name in HELD_NAMES},
    "something else is held": (told(held=(None, "openssl")), HELD),
    "more of the driver is held": (told(held=(None, "nvidia-settings")), HELD),
    "what only B200 needs is held": (told(held=(None, "nvlsm")), HELD),
    "what only B200 needs is held for H100": (on_ubuntu("fabric_manager", "nvlsm"), HELD),
    "what B200 needs is not held": (on_ubuntu("fabric_manager", **NVLINK), HELD),
    **{
        f"Ubuntu holds what {role} would": (without(role), HELD)
        for role in UBUNTU_USES
        if role != "kernel_pin"
    },
    "Ubuntu's driver is not held": (
        {**UBUNTU, **told(held=[name for name in UBUNTU_HELD if "compute" not in name])},
        HELD,
    ),
    "Ubuntu holds another series": (
        on_ubuntu("nvidia", nvidia_driver_series="550"),
        HELD,
    ),
    "a removed package's configuration": (
        told(residues=["exim4-base"]),
        "test_no_package_is_half_removed",
    ),
    "results of another machine": (
        told(gpu_results={RESULTS: 1763640000.0}),
        "test_results_of_gpus_are_those_of_this_machine",
    ),
    "a full disk": (told(free=100 << 20), "test_there_is_room"),
}


def test_the_checks_know_every_role_that_holds():
    tasks = ((path.parents[1].name, path.read_text()) for path in ROLES.glob("*/tasks/*.yml"))
    found = {role for role, text in tasks if re.search("'hold'|selection: hold", text)}
    assert runpy.run_path(str(ROOT / CHECKS))["HOLDS"].keys() == found
