"""The sealed image: nothing tells who built it, and machines made from it share nothing.

The machine that answers was booted once, by the verification. So it has a machine-id, a host key
and the verification's own key; that they came to be in this boot is what can be checked.
"""

import json
import re
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("leftovers.py").read_text()
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
HELD = "(linux|firmware-nvidia|nvidia|libnvidia|libcuda|libcudart|libnvrtc)[^ ]*"
# What other roles hold, where they are in use.
HELD_BY = {"cudnn": "libcudnn9", "nccl": "libnccl2", "dcgm": "datacenter-gpu-manager"}


@pytest.fixture(scope="module")
def machine(host):
    """What is left on the machine."""
    done = host.run("python3 -c %s", PROGRAM)
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


def test_there_is_no_private_key(machine):
    assert machine["private_keys"] == ["/etc/ssh/ssh_host_ed25519_key"]


def test_there_is_no_secret(machine):
    assert machine["secrets"] == []


def test_there_is_no_token(machine):
    assert machine["tokens"] == []


def test_random_seed_is_none_of_the_build(machine):
    # A boot writes one; in a container it does not, and what is there came with the image.
    assert machine["seed_made"] is None or machine["seed_made"] >= machine["booted"] - GRAIN


def test_there_is_no_history(machine):
    assert machine["history"] == []


def test_apt_kept_nothing(machine):
    assert machine["lists"] == []
    assert machine["archives"] == []


def test_no_proxy_and_no_index_is_left(machine):
    assert machine["proxies"] == []


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


def test_logs_are_those_of_this_boot(machine):
    assert set(machine["logs"]) - LOGS_OF_A_BOOT == set()
    assert machine["log_bytes"] < 64 << 20


def test_nothing_temporary_is_left(machine):
    assert machine["temporary"] == []


def test_there_are_no_backups(machine):
    assert machine["backups"] == []


def test_network_has_no_memory(machine):
    assert machine["network"] == []


def test_cloud_init_has_no_memory(machine):
    assert machine["cloud_init"] == []


def driver_packages(uses):
    """Packages of the driver that are held: Ubuntu's and NVIDIA's names end in the series."""
    series = [use["nvidia_driver_series"] for use in uses("nvidia")]
    ubuntu = {f"{name}-{each}" for name in ("libnvidia-compute", "nvidia-utils") for each in series}
    debian = {"libcuda1", "nvidia-smi"} if uses("nvidia_driver") else set()
    return ubuntu | debian


def kernel_packages(uses):
    """Packages of the kernel that are held."""
    releases = [use["kernel_pin_release"] for use in uses("kernel_pin")]
    return {f"linux-{part}-{each}" for part in ("image", "headers") for each in releases}


def test_kernel_and_driver_are_held_and_nothing_else(machine, uses):
    least = kernel_packages(uses) | driver_packages(uses)
    assert least - set(machine["held"]) == set()
    cuda = {name for use in uses("cuda_runtime") for name in use["cuda_runtime_packages"]}
    beginnings = tuple(beginning for role, beginning in HELD_BY.items() if uses(role))
    others = [name for name in machine["held"] if not re.fullmatch(HELD, name)]
    assert [name for name in others if name not in cuda and not name.startswith(beginnings)] == []


def test_no_package_is_half_removed(machine):
    assert machine["residues"] == []


def test_results_of_gpus_are_those_of_this_machine(machine):
    # Where a GPU is, this boot has checked it; the build and other clones have not.
    made = machine["gpu_results"]
    assert [path for path, at in made.items() if at < machine["booted"] - GRAIN] == []


def test_there_is_room(machine):
    assert machine["free"] >= 1 << 30
