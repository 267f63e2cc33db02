"""What a build may leave behind, looked for in one go; see the base stage's machine.py.

Arguments: the names of what is asked; where there are none, all that does not search in files.
"""

import json
import os
import re
import subprocess
import sys
import time
from glob import glob
from pathlib import Path

# What keys, tokens, proxies and credentials are, and where they are looked for, publishing knows as
# well: builder/release/hygiene.py asks the disk the same.
# What a setting of a proxy or of an index looks like, in any program's configuration.
PROXY = re.compile(
    r"(?i)acquire::\w+::proxy|\b(?:https?|ftp|all)_proxy\b *="
    r"|(?:\b|_)(?:index[-_]url|trusted[-_]host)\b|^\s*proxy\s*=\s*\S+://",
    re.MULTILINE,
)
# Tokens that say by their form whose they are: of clouds, forges and hubs.
TOKEN = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{30,}|gh[oprsu]_[A-Za-z0-9]{30,}|glpat-[\w-]{20,}"
    r"|pypi-[\w-]{40,}|xox[abp]-[\w-]{20,})"
)
PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
PROXIES_IN = ("/etc", "/root", "/home")
# Not /opt: packages of Python have tokens in their examples.
TOKENS_IN = (*PROXIES_IN, "/srv", "/usr/local")
KEYS_IN = (*TOKENS_IN, "/opt", "/var/lib/dkms")
# What each has in it, in small letters: to look for this first takes a fraction of the time.
PROXY_HAS = (b"proxy", b"index-url", b"index_url", b"trusted-host", b"trusted_host")
TOKEN_HAS = (
    b"akia", b"hf_", b"gho_", b"ghp_", b"ghr_", b"ghs_", b"ghu_", b"glpat-", b"pypi-", b"xoxa-",
    b"xoxb-", b"xoxp-",
)  # fmt: skip
KEY_HAS = (b"private key-----",)
SECRETS = (
    "/root/.netrc", "/root/.pypirc", "/root/.docker", "/root/.aws", "/root/.azure",
    "/root/.config/gcloud", "/root/.git-credentials", "/root/.kube", "/root/.gnupg",
    "/root/.vault-token", "/root/**/huggingface/token", "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d/*", "/etc/credstore/*", "/etc/credstore.encrypted/*",
    "/var/lib/dkms/mok.*", "/var/lib/shim-signed/mok/*",
)  # fmt: skip
# dpkg and not apt-mark: apt makes the caches that are looked for here.
HOLDS = ("dpkg-query", "--show", "--showformat", "${db:Status-Want} ${Package}\n")
STATES = ("dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n")
LARGE = 1 << 20


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def sure(*command):
    """For a question whose good answer is nothing, as that of a program that failed is, too."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def read(path):
    return Path(path).read_text(encoding="utf-8", errors="replace")


def present(*patterns):
    found = (glob(pattern, recursive=True, include_hidden=True) for pattern in patterns)  # noqa: PTH207
    return sorted(path for paths in found for path in paths)


def below(*folders):
    return [
        Path(where, name)
        for folder in folders
        for where, _, names in os.walk(folder)
        for name in names
        if Path(where, name).is_file()
    ]


def containing(pattern, words, *folders):
    small = (path for path in below(*folders) if path.stat().st_size < LARGE)
    likely = (path for path in small if has_one(path, words))
    return sorted(str(path) for path in likely if pattern.search(read(path)))


def has_one(path, words):
    content = path.read_bytes().lower()
    return any(word in content for word in words)


def booted():
    """When this machine's first process started; in a container that is not the kernel's boot.

    Exact to a tick of 10 ms: /proc/stat's btime knows whole seconds alone, and an image that was
    booted within a second of its sealing would pass for a new machine.
    """
    ticks = int(read("/proc/1/stat").rsplit(")", 1)[1].split()[19])
    kernel = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return kernel + ticks / os.sysconf("SC_CLK_TCK")


def root_keys():
    path = Path("/root/.ssh/authorized_keys")
    return path.read_text().split("\n")[:-1] if path.exists() else []


def users():
    fields = (line.split(":") for line in read("/etc/passwd").splitlines())
    return [name for name, _, uid, *_ in fields if 1000 <= int(uid) < 60000]


def seed_made():
    """When the random seed was written; None where there is none."""
    seed = Path("/var/lib/systemd/random-seed")
    return seed.stat().st_mtime if seed.exists() else None


def free():
    disk = os.statvfs("/")
    return disk.f_bavail * disk.f_frsize


def logs():
    files = [path for path in below("/var/log") if "journal" not in path.parts]
    return sorted(str(path) for path in files if not path.is_symlink())


def temporary():
    dumps = ("/var/crash/*", "/var/lib/systemd/coredump/*", "/core", "/core.*")
    found = present("/var/tmp/*", *dumps)  # noqa: S108
    return [path for path in found if not Path(path).name.startswith("systemd-private-")]


def held():
    wants = (line.split(" ") for line in sure(*HOLDS).splitlines())
    return [name for want, name in wants if want == "hold"]


def residues():
    states = (line.split(" ") for line in sure(*STATES).splitlines())
    return [name for state, name in states if state != "installed"]


# For these the contents of thousands of files are read, which in emulation takes long.
SEARCHED = ("private_keys", "proxies", "tokens")
ASKED = {
    "archives": lambda: [str(path) for path in below("/var/cache/apt") if path.name != "lock"],
    "backups": lambda: present(
        "/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/**/*.dpkg-old",
        "/etc/**/*.dpkg-dist", "/etc/**/*~", "/var/backups/*",
    ),
    "booted": booted,
    "cloud_init": lambda: present(
        "/var/lib/cloud/instance*", "/var/lib/cloud/sem/*",
        "/etc/ssh/sshd_config.d/50-cloud-init.conf", "/etc/cloud/ds-identify.cfg",
        "/etc/cloud/cloud-init.disabled", "/etc/network/interfaces.d/50-cloud-init",
    ),
    "free": free,
    "gpu_results": lambda: {
        path: Path(path).stat().st_mtime for path in present("/var/lib/vaultbuild/gpu-check.*")
    },
    "held": held,
    "history": lambda: present(
        "/root/.*_history", "/home/*/.*_history", "/root/.lesshst", "/root/.viminfo",
        "/root/.wget-hsts", "/root/.ansible*", "/root/.cache", "/root/.config",
    ),
    "host_key_made": lambda: Path("/etc/ssh/ssh_host_ed25519_key").stat().st_mtime,
    "host_key_wanted": lambda: say(
        "systemctl", "show", "--value", "-p", "ConditionResult", "ssh-host-key.service"
    ),
    "journals": lambda: present("/var/log/journal/*"),
    "lists": lambda: [str(path) for path in below("/var/lib/apt/lists") if path.name != "lock"],
    "log_bytes": lambda: sum(path.stat().st_size for path in below("/var/log")),
    "logs": logs,
    "machine_id": lambda: read("/etc/machine-id").strip(),
    "machine_id_made": lambda: Path("/etc/machine-id").stat().st_mtime,
    "network": lambda: present(
        "/etc/udev/rules.d/70-persistent-net.rules", "/var/lib/dhcp/*", "/etc/netplan/*",
        "/etc/systemd/network/*.link", "/var/lib/dhcpcd/*", "/var/lib/NetworkManager/*",
        "/etc/NetworkManager/system-connections/*",
    ),
    "private_keys": lambda: containing(PRIVATE_KEY, KEY_HAS, *KEYS_IN),
    "proxies": lambda: containing(PROXY, PROXY_HAS, *PROXIES_IN),
    "residues": residues,
    "root_keys": root_keys,
    "secrets": lambda: present(*SECRETS),
    "seed_made": seed_made,
    "sources": lambda: "\n".join(
        read(path) for path in below("/etc/apt") if "sources" in str(path)
    ),
    "ssh": lambda: present("/root/.ssh/*", "/home/*/.ssh/*"),
    "temporary": temporary,
    "tokens": lambda: containing(TOKEN, TOKEN_HAS, *TOKENS_IN),
    "users": users,
}  # fmt: skip


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


NAMES = sys.argv[1:] or [name for name in ASKED if name not in SEARCHED]
print(json.dumps({name: answer(ASKED[name]) for name in NAMES}))  # noqa: T201 - its result
