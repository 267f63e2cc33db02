"""What the checks ask of a base machine, in one go: in emulation every command costs seconds.

Run in the guest by the ``machine`` fixture; prints JSON. A question that fails is answered by its
error, so that it spoils the checks that need it and no other. Arguments: units to be asked about
beside those that every image has.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

UNITS = (
    "ssh-host-key.service",
    "ssh.service",
    "sshd-keygen.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    *sys.argv[1:],
)
FAILED = ("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--all")
CHECK = ("apt-get", "check", "-qq", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=")
HOLDS = ("dpkg-query", "--show", "--showformat", "${db:Status-Want} ${Package}\n")
VERSIONS = ("dpkg-query", "--show", "--showformat", "${Package} ${Version}\n")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def say(*command):
    return run(*command).stdout.strip()


def sure(*command):
    """For a question whose good answer is nothing, as that of a program that failed is, too."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def complaints(*command):
    done = run(*command)
    return (done.stdout + done.stderr).strip() or ("" if done.returncode == 0 else "it failed")


def read(path):
    return Path(path).read_text(encoding="utf-8")


def names(folder, pattern):
    return sorted(str(path) for path in Path(folder).glob(pattern))


def grub_kernel():
    """The image in the first menu entry; where /boot is a partition, its path lacks the folder."""
    found = re.search(r"^\s*linux(?:efi)?\s+(\S+)", read("/boot/grub/grub.cfg"), re.MULTILINE)
    return os.path.realpath(Path("/boot", Path(found.group(1)).name))


def localtime():
    """The link, as a zone may be a link to another; an error where it leads nowhere."""
    link = Path("/etc/localtime")
    link.stat()
    return str(link.readlink())


def held():
    """Not from apt-mark: apt makes caches, which would be taken for leftovers of the build."""
    wants = (line.split(" ") for line in say(*HOLDS).splitlines())
    return [name for want, name in wants if want == "hold"]


ASKED = {
    "audit": lambda: complaints("dpkg", "--audit"),
    "broken": lambda: complaints(*CHECK),
    "container": lambda: say("systemd-detect-virt", "--container"),
    "enabled": lambda: {unit: say("systemctl", "is-enabled", unit) for unit in UNITS},
    "failed": lambda: [line.split()[0] for line in sure(*FAILED).splitlines()],
    "fstab_swaps": lambda: [
        line for line in read("/etc/fstab").splitlines() if line.split()[2:3] == ["swap"]
    ],
    "grub_kernel": grub_kernel,
    "held": held,
    "host_keys": lambda: names("/etc/ssh", "ssh_host_*"),
    "host_key_mode": lambda: oct(Path("/etc/ssh/ssh_host_ed25519_key").stat().st_mode & 0o777),
    "hostname": lambda: read("/etc/hostname").strip() if Path("/etc/hostname").exists() else "",
    "initrds": lambda: names("/boot", "initrd.img-*"),
    "kernels": lambda: names("/boot", "vmlinuz-*"),
    "locale": lambda: read("/etc/locale.conf").strip(),
    "localtime": localtime,
    "modules": lambda: sorted(path.name for path in Path("/lib/modules").iterdir()),
    "network": lambda: read("/etc/systemd/network/80-wired.network").splitlines(),
    "packages": lambda: dict(line.split(" ") for line in say(*VERSIONS).splitlines()),
    "release": lambda: os.uname().release,
    "resolver": lambda: os.path.realpath("/etc/resolv.conf"),
    "shadow": lambda: [line.split(":")[:2] for line in read("/etc/shadow").splitlines()],
    "sshd": lambda: say("sshd", "-T").lower().splitlines(),
    "swaps": lambda: read("/proc/swaps").splitlines()[1:],
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
