"""What the checks ask about hardening, in one go; prints JSON.

Argument: the names of the kernel settings, as JSON.
"""

import json
import subprocess
import sys
from pathlib import Path

SETTINGS = json.loads(sys.argv[1])
PATHS = (
    "/etc/cron.d", "/etc/cron.daily", "/etc/cron.hourly", "/etc/cron.monthly", "/etc/cron.weekly",
    "/etc/crontab", "/etc/group", "/etc/gshadow", "/etc/passwd", "/etc/shadow", "/etc/shells",
)  # fmt: skip
VERSIONS = ("dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n")


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def kernel():
    """The kernel that boots, whose modules modprobe must look at; in a container another runs."""
    return max(path.name for path in Path("/lib/modules").iterdir())


def setting(name):
    path = Path("/proc/sys", *name.split("."))
    return path.read_text().strip() if path.exists() else None


def mounts():
    rows = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return {where: options.split(",") for _, where, _, options, *_ in rows}


def modes():
    found = {path: Path(path).stat() for path in PATHS if Path(path).exists()}
    return {path: [oct(one.st_mode & 0o777), one.st_uid] for path, one in found.items()}


def auditd():
    rows = (line.split(" ") for line in say(*VERSIONS).splitlines())
    versions = {name: version for status, name, version in rows if status == "installed"}
    return {
        "enabled": say("systemctl", "is-enabled", "auditd.service"),
        "state": say("systemctl", "show", "--value", "-p", "ActiveState", "auditd.service"),
        "version": versions.get("auditd", ""),
    }


ASKED = {
    "auditd": auditd,
    "container": lambda: say("systemd-detect-virt", "--container"),
    "modes": modes,
    "modprobe": lambda: say("modprobe", "--showconfig", "-S", kernel()).splitlines(),
    "mounts": lambda: {path: mounts().get(path) for path in ("/dev/shm", "/tmp")},  # noqa: S108
    "sysctl": lambda: {name: setting(name) for name in SETTINGS},
    "sysctl_file": lambda: Path("/etc/sysctl.d/40-cis-baseline.conf").read_text(),
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
