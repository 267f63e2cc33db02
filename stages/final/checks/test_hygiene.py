"""The sealed image: nothing tells who built it, and nothing is shared between machines made from it.

The machine that is asked was booted from the image once, by the verification. So it has a machine-id, a
host key and the key of the verification; that they were made in this boot is what can be checked.
"""

import json
import re

import pytest

ASK = r"""
import glob, json, os, re, subprocess

def say(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()

def present(*patterns):
    return sorted(path for pattern in patterns for path in glob.glob(pattern, recursive=True, include_hidden=True))

def below(folder):
    return sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)

def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""

def containing(pattern, *folders):
    wanted = re.compile(pattern)
    files = (path for folder in folders for path in below(folder))
    files = (path for path in files if os.path.isfile(path) and os.stat(path).st_size < 1 << 20)
    return sorted(path for path in files if wanted.search(read(path)))

def booted():
    start = int(read("/proc/1/stat").rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return int(re.search(r"^btime (\d+)", read("/proc/stat"), re.MULTILINE).group(1)) + start

LEFT_PROXY = r"(?i)acquire::\w+::proxy|\b(?:https?|ftp|all)_proxy\b *=|index[-_]url|trusted[-_]host"
machine_id = read("/etc/machine-id").strip()
disk = os.statvfs("/")
print(json.dumps({
    "booted": booted(),
    "machine_id": machine_id,
    "machine_id_made": os.stat("/etc/machine-id").st_mtime,
    "host_key_unit": say("systemctl", "show", "-P", "ConditionResult", "ssh-host-key.service"),
    "host_key_made": os.stat("/etc/ssh/ssh_host_ed25519_key").st_mtime,
    "journals": sorted(os.listdir("/var/log/journal")) if os.path.isdir("/var/log/journal") else [],
    "root_keys": [line for line in read("/root/.ssh/authorized_keys").splitlines() if line.strip()],
    "root_ssh": present("/root/.ssh/*"),
    "user_ssh": present("/home/*/.ssh/*"),
    "users": [line.split(":")[0] for line in open("/etc/passwd") if 1000 <= int(line.split(":")[2]) < 60000],
    "private_keys": containing("-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----", "/etc", "/root", "/home", "/opt", "/var/lib/dkms"),
    "secrets": present("/root/.netrc", "/root/.docker", "/root/.aws", "/etc/apt/auth.conf", "/etc/apt/auth.conf.d/*",
                       "/root/.pypirc", "/var/lib/dkms/mok.*"),
    "history": present("/root/.*_history", "/home/*/.*_history", "/root/.lesshst", "/root/.viminfo", "/root/.wget-hsts",
                       "/root/.ansible*", "/root/.cache", "/root/.config"),
    "lists": [path for path in below("/var/lib/apt/lists") if not path.endswith("/lock")],
    "archives": [path for path in below("/var/cache/apt") if not path.endswith("/lock")],
    "proxies": containing(LEFT_PROXY, "/etc", "/root", "/home"),
    "sources": "\n".join(read(path) for path in present("/etc/apt/sources.list", "/etc/apt/sources.list.d/*")),
    "logs": [path for path in below("/var/log") if "/journal/" not in path and os.path.isfile(path)],
    "log_bytes": sum(os.stat(path).st_size for path in below("/var/log") if os.path.isfile(path)),
    "temporary": [path for path in present("/var/tmp/*", "/var/crash/*", "/var/lib/systemd/coredump/*")
                  if not os.path.basename(path).startswith("systemd-private-")],
    "backups": present("/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/**/*.dpkg-old",
                       "/etc/**/*.dpkg-dist", "/etc/**/*~", "/var/backups/*"),
    "network": present("/etc/udev/rules.d/70-persistent-net.rules", "/var/lib/dhcp/*", "/etc/netplan/*",
                       "/etc/systemd/network/*.link"),
    "cloud_init": present("/var/lib/cloud/instance*", "/var/lib/cloud/sem/*", "/etc/ssh/sshd_config.d/50-cloud-init.conf"),
    "held": say("apt-mark", "showhold").split(),
    "free": disk.f_bavail * disk.f_frsize,
    "residues": [line for line in say(
        "dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package}\n").splitlines() if line[1] != "i"],
}))
"""


@pytest.fixture(scope="module")
def machine(host):
    """What is left on the machine."""
    return json.loads(host.check_output("python3 -c %s", ASK))


def test_machine_id_was_made_in_this_boot(machine):
    assert re.fullmatch("[0-9a-f]{32}", machine["machine_id"])
    assert machine["machine_id_made"] >= machine["booted"] - 1


def test_host_key_was_made_in_this_boot(machine):
    # The unit's condition is that there is no key; it held, so the image has none.
    assert machine["host_key_unit"] == "yes"
    assert machine["host_key_made"] >= machine["booted"] - 1


def test_journal_knows_no_other_machine(machine):
    assert set(machine["journals"]) <= {machine["machine_id"]}


def test_nobody_else_may_log_in(machine):
    assert len(machine["root_keys"]) <= 1
    assert set(machine["root_ssh"]) <= {"/root/.ssh/authorized_keys"}
    assert machine["user_ssh"] == []
    assert machine["users"] == []


def test_there_is_no_secret(machine):
    assert [
        path for path in machine["private_keys"] if not path.startswith("/etc/ssh/ssh_host_")
    ] == []
    assert machine["secrets"] == []


def test_there_is_no_history(machine):
    assert machine["history"] == []


def test_apt_kept_nothing(machine):
    assert machine["lists"] == []
    assert machine["archives"] == []


def test_no_proxy_and_no_index_of_the_build_is_left(machine):
    assert machine["proxies"] == []


def test_sources_are_not_those_of_a_build(machine):
    sources = machine["sources"].lower()
    assert "trusted=yes" not in sources
    assert "trusted: yes" not in sources
    assert not re.search(r"https?://[^/\s]*@", sources), "credentials"
    assert not re.search(
        r"https?://(localhost|127\.|10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|\[)", sources
    )
    assert not re.search(r"\b(file|copy|cdrom):", sources)


def test_logs_are_those_of_this_boot(machine):
    # What a boot without failures writes; package managers and installers have no place here.
    usual = {
        "/var/log/wtmp",
        "/var/log/btmp",
        "/var/log/lastlog",
        "/var/log/wtmp.db",
        "/var/log/lastlog2.db",
        "/var/log/README",
    }
    assert [path for path in machine["logs"] if path not in usual] == []
    assert machine["log_bytes"] < 64 << 20


def test_nothing_temporary_is_left(machine):
    assert machine["temporary"] == []


def test_there_are_no_backups(machine):
    assert machine["backups"] == []


def test_network_has_no_memory(machine):
    assert machine["network"] == []


def test_cloud_init_has_no_memory(machine):
    assert machine["cloud_init"] == []


def test_kernel_and_driver_are_held(machine, expected):
    release = expected["kernel_pin_release"]
    least = {
        f"linux-image-{release}",
        f"linux-headers-{release}",
        "libcuda1",
        "nvidia-smi",
        "nvidia-persistenced",
    }
    assert least - set(machine["held"]) == set()
    assert all(
        re.match("linux-|nvidia-|libnvidia-|libcuda|libnvrtc|libcudart|firmware-nvidia-", name)
        for name in machine["held"]
    )


def test_no_package_is_half_removed(machine):
    assert machine["residues"] == []


def test_there_is_room(machine):
    assert machine["free"] >= 1 << 30
