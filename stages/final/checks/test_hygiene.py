"""The sealed image: nothing tells who built it, and machines made from it share nothing.

The machine that answers was booted once, by the verification. So it has a machine-id, a host key
and the verification's own key; that they came to be in this boot is what can be checked.
"""

import json
import re
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("leftovers.py").read_text()
AUDIT_LOG = "/var/log/audit/audit.log"
# What a boot and a login write; package managers and installers have no place there.
LOGS_OF_A_BOOT = {
    "/var/log/btmp",
    "/var/log/lastlog",
    "/var/log/lastlog2.db",
    "/var/log/wtmp",
    "/var/log/wtmp.db",
}
# Addresses that mean a build: loopback, link-local, and QEMU's name for its host.
LOCAL = r"://([^/\s]*@)?(localhost|127\.|169\.254\.|10\.0\.2\.|\[::1\])"
# What the clocks of files and of processes may differ by, in seconds.
GRAIN = 0.05
# What the root was made from may hold more of the kernel than the role kernel_pin.
KERNEL = "linux-[^ ]+"


@pytest.fixture(scope="module")
def machine(host):
    """What is left on the machine."""
    return ask(host)


@pytest.fixture(scope="module")
def searched(host):
    """Files with something in them that should not be there; a boot writes none of that."""
    return ask(host, "private_keys", "proxies", "tokens")


def ask(host, *names):
    """Have the program look; return what it found."""
    words = " ".join(["%s"] * len(names))
    done = host.run(f"python3 -c %s {words}", PROGRAM, *names)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_machine_id_was_made_in_this_boot(machine):
    assert re.fullmatch("[0-9a-f]{32}", machine["machine_id"])
    assert machine["machine_id_made"] >= machine["booted"] - GRAIN


def test_host_key_was_made_in_this_boot(machine):
    # The unit wants that there is none, and it ran: the image has none.
    assert machine["host_key_wanted"] == "yes"
    assert machine["host_key_made"] >= machine["booted"] - GRAIN


def test_journal_knows_no_other_machine(machine):
    assert set(machine["journals"]) <= {f"/var/log/journal/{machine['machine_id']}"}


def test_nobody_else_may_log_in(machine):
    assert len(machine["root_keys"]) <= 1
    assert set(machine["ssh"]) <= {"/root/.ssh/authorized_keys"}
    assert machine["users"] == []


@pytest.mark.anywhere
def test_there_is_no_private_key(searched):
    assert searched["private_keys"] == ["/etc/ssh/ssh_host_ed25519_key"]


def test_there_is_no_secret(machine):
    assert machine["secrets"] == []


@pytest.mark.anywhere
def test_there_is_no_token(searched):
    assert searched["tokens"] == []


def test_random_seed_is_none_of_the_build(machine):
    # A boot writes one; in a container it does not, and what is there came with the image.
    assert machine["seed_made"] is None or machine["seed_made"] >= machine["booted"] - GRAIN


def test_there_is_no_history(machine):
    assert machine["history"] == []


def test_apt_kept_nothing(machine):
    assert machine["lists"] == []
    assert machine["archives"] == []


@pytest.mark.anywhere
def test_no_proxy_and_no_index_is_left(searched):
    assert searched["proxies"] == []


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"trusted *[=:] *yes", id="unsigned archive"),
        pytest.param(r"://[^/\s]*@", id="credentials"),
        pytest.param(LOCAL, id="mirror of the build"),
        pytest.param(r"\b(file|copy|cdrom):", id="folder of the build host"),
    ],
)
def test_package_sources_name_no(machine, pattern):
    assert not re.search(pattern, machine["sources"].lower())


def test_package_sources_are_there(machine):
    assert re.search(r"^(deb |URIs: )", machine["sources"], re.MULTILINE)


def test_logs_are_those_of_this_boot(machine, uses):
    audited = any(use["cis_baseline_auditd_version"] for use in uses("cis_baseline"))
    of_roles = {AUDIT_LOG} if audited else set()
    assert set(machine["logs"]) - LOGS_OF_A_BOOT - of_roles == set()
    assert machine["log_bytes"] < 64 << 20


def test_nothing_temporary_is_left(machine):
    assert machine["temporary"] == []


def test_there_are_no_backups(machine):
    assert machine["backups"] == []


def test_network_has_no_memory(machine):
    assert machine["network"] == []


def test_cloud_init_has_no_memory(machine):
    assert machine["cloud_init"] == []


def of_the_kernel(use):
    """Packages that the role kernel_pin holds."""
    return [f"linux-{part}-{use['kernel_pin_release']}" for part in ("image", "headers")]


def of_debians_driver(use):
    """Packages that the role nvidia_driver holds."""
    module = {"proprietary": "nvidia-kernel-dkms", "open": "nvidia-open-kernel-dkms"}
    names = [module[use["nvidia_driver_flavour"]], *use["nvidia_driver_packages"]]
    return names + use["nvidia_driver_extra_packages"]


def of_ubuntus_driver(use):
    """Packages that the role nvidia holds: their names end in the series."""
    ending = "-open" if use["nvidia_driver_flavour"] == "open" else ""
    parts = ("nvidia-dkms", "nvidia-kernel-source")
    names = [f"{part}-{use['nvidia_driver_series']}{ending}" for part in parts]
    return names + use["nvidia_driver_packages"] + use["nvidia_driver_extra_packages"]


def of_dcgm(use):
    """Packages that the role dcgm holds."""
    parts = ["core", f"cuda{use['dcgm_cuda_major']}"]
    if use["dcgm_proprietary"]:
        parts += [f"proprietary{part}" for part in ("", f"-cuda{use['dcgm_cuda_major']}")]
    exporter = ["datacenter-gpu-manager-exporter"] if use["dcgm_exporter_version"] else []
    return [f"datacenter-gpu-manager-4-{part}" for part in parts] + exporter


def of_switches(use):
    """Packages that the role fabric_manager holds, for any platform."""
    imex = use["fabric_manager_platform"] == "imex"
    name = "nvidia-imex" if imex else "nvidia-fabricmanager"
    return [name + use["fabric_manager_suffix"], *use["fabric_manager_extra_packages"]]


# Role: the packages that a use of it holds, with or without "=version".
HOLDS = {
    "cuda_runtime": lambda use: use["cuda_runtime_packages"],
    "cudnn": lambda use: use["cudnn_packages"] or [f"libcudnn9-cuda-{use['cudnn_cuda_major']}"],
    "dcgm": of_dcgm,
    "fabric_manager": of_switches,
    "kernel_pin": of_the_kernel,
    "nccl": lambda use: use["nccl_packages"],
    "nvidia": of_ubuntus_driver,
    "nvidia_container_toolkit": lambda use: use["nvidia_container_toolkit_packages"],
    "nvidia_driver": of_debians_driver,
    "nvidia_persistenced": lambda _: ["nvidia-persistenced"],
}


def test_kernel_and_driver_are_held_and_nothing_else(machine, uses):
    names = {name for role, held in HOLDS.items() for use in uses(role) for name in held(use)}
    wanted, found = {name.partition("=")[0] for name in names}, set(machine["held"])
    assert wanted - found == set()
    assert {name for name in found - wanted if not re.fullmatch(KERNEL, name)} == set()


def test_no_package_is_half_removed(machine):
    assert machine["residues"] == []


def test_results_of_gpus_are_those_of_this_machine(machine):
    # Where a GPU is, this boot has checked it; the build and other clones have not.
    made = machine["gpu_results"]
    assert [path for path, at in made.items() if at < machine["booted"] - GRAIN] == []


def test_there_is_room(machine):
    assert machine["free"] >= 1 << 30
