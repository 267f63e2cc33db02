"""Remove what tells one machine from another and what a build leaves behind; print each path.

    seal.py [--root DIRECTORY | --offline DIRECTORY] [PATTERN...]

One program instead of forty tasks: it is one round trip to the guest, it can be tried on any
folder, and its output is the proof of what it did. A second run prints nothing.

It runs twice. In the guest it is the last role; then, ``--offline``, vaultbuild runs it on the disk
of the machine that was powered off, for powering off writes again. There nobody uses any file, and
the tree is entered (chroot): its links must not lead to files of the host.
"""
# ruff: noqa: INP001, T201 - a program that is sent to the guest, not a module

from __future__ import annotations

import argparse
import os
import shutil
from glob import glob
from pathlib import Path

# Removed with everything below them. A trailing "/*" keeps the folder, whose mode and owner matter.
REMOVED = {
    "host keys": ["/etc/ssh/ssh_host_*", "/etc/ssh/.new_host_key*"],
    "keys of people and builds": ["/root/.ssh", "/home/*/.ssh", "/var/lib/dkms/mok.*"],
    "secrets": [
        "/etc/apt/auth.conf", "/etc/apt/auth.conf.d/*", "/etc/credstore/*",
        "/etc/credstore.encrypted/*", "/var/lib/systemd/credential.secret", "/root/.netrc",
        "/root/.pypirc", "/root/.docker", "/root/.aws", "/root/.gnupg",
    ],
    "identity": [
        "/var/lib/systemd/random-seed", "/boot/efi/loader/random-seed", "/etc/docker/key.json",
        "/var/lib/docker/engine-id", "/var/lib/docker/network", "/var/lib/docker/swarm",
        "/etc/iscsi/initiatorname.iscsi", "/etc/nvme/hostid", "/etc/nvme/hostnqn",
    ],
    "network": [
        "/var/lib/dhcp/*", "/var/lib/dhcpcd/*", "/var/lib/NetworkManager/*",
        "/var/lib/systemd/network/*", "/etc/udev/rules.d/70-persistent-net.rules",
        "/etc/netplan/50-cloud-init.yaml", "/etc/network/interfaces.d/50-cloud-init",
        "/etc/systemd/network/10-cloud-init-*.network",
    ],
    "cloud-init": [
        "/var/lib/cloud/*", "/etc/ssh/sshd_config.d/50-cloud-init.conf",
        "/etc/sudoers.d/90-cloud-init-users", "/etc/cloud/ds-identify.cfg",
        "/etc/cloud/cloud-init.disabled", "/etc/cloud/cloud.cfg.d/90-installer-network.cfg",
        "/etc/cloud/cloud.cfg.d/99-installer.cfg",
    ],
    "proxies": [
        "/etc/apt/apt.conf.d/99mmdebstrap", "/etc/apt/apt.conf.d/*proxy*", "/etc/pip.conf",
        "/root/.pip", "/etc/systemd/system/*.service.d/http-proxy.conf",
    ],
    "package state": [
        "/var/lib/apt/lists/*", "/var/lib/apt/periodic/*", "/var/cache/apt/*.bin",
        "/var/cache/apt/archives/*", "/var/cache/debconf/*-old", "/var/lib/dpkg/*-old",
        "/var/cache/ldconfig/aux-cache", "/var/cache/man/*", "/var/backups/*",
    ],
    "history": [
        "/root/.*_history", "/home/*/.*_history", "/root/.lesshst", "/home/*/.lesshst",
        "/root/.viminfo", "/home/*/.viminfo", "/root/.wget-hsts", "/home/*/.wget-hsts",
        "/root/.cache", "/home/*/.cache", "/root/.config", "/root/.ansible", "/home/*/.ansible",
        "/var/lib/sudo/*",
    ],
    "spools and dumps": [
        "/var/crash/*", "/var/lib/systemd/coredump/*", "/var/spool/cron/crontabs/*",
        "/var/spool/cron/atjobs/*", "/var/mail/*", "/core", "/core.*",
    ],
    "clocks": ["/var/lib/systemd/timers/*", "/var/lib/systemd/timesync/*", "/var/lib/logrotate/*"],
    "backups": [
        "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-",
        "/etc/subgid-", "/etc/.pwd.lock", "/etc/**/*.dpkg-old", "/etc/**/*.dpkg-dist",
        "/etc/**/*.ucf-old", "/etc/**/*~",
    ],
    "journal": ["/var/log/journal/*"],
    "results of a first boot": ["/var/lib/vaultbuild/gpu-check.*"],
}  # fmt: skip
TEMPORARY = ("/tmp/*", "/var/tmp/*")  # noqa: S108 - these are emptied, not written to
# What runs has its files there: they go when it ends, and must not go before.
IN_USE = (
    "ansible", ".ansible", "vaultbuild", "systemd-private-", "ssh-", ".X", ".ICE-", ".font-",
)  # fmt: skip


class Sealer:
    """Removes below a root, and says what it removed."""

    def __init__(self, root: str, in_use: tuple[str, ...] = IN_USE) -> None:
        self._root = root
        self._in_use = in_use

    def remove(self, *patterns: str) -> None:
        """Remove what matches any of the patterns."""
        for pattern in patterns:
            for path in self._matching(pattern):
                self._remove(path)

    def empty_temporary_folders(self) -> None:
        """Remove temporary files that nobody uses."""
        for pattern in TEMPORARY:
            for path in self._matching(pattern):
                if not self._in_use or not path.name.startswith(self._in_use):
                    self._remove(path)

    def remove_logs(self) -> None:
        """Remove every log and keep the folders: daemons do not make theirs again."""
        for folder, _, names in os.walk(f"{self._root}/var/log"):
            for name in names:
                if not Path(folder, name).is_symlink():
                    self._remove(Path(folder, name))

    def empty_machine_id(self) -> None:
        """Leave an empty machine-id: systemd makes one at the next boot where it finds that."""
        copy = Path(f"{self._root}/var/lib/dbus/machine-id")
        if copy.is_file() and not copy.is_symlink():
            self._remove(copy)
        path = Path(f"{self._root}/etc/machine-id")
        if not path.is_file() or path.stat().st_size:
            path.write_bytes(b"")
            path.chmod(0o444)
            self._tell(path)

    def _matching(self, pattern: str) -> list[Path]:
        found = glob(f"{self._root}{pattern}", recursive=True, include_hidden=True)  # noqa: PTH207
        return [Path(path) for path in sorted(found)]

    def _remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        self._tell(path)

    def _tell(self, path: Path) -> None:
        """Print a path as the machine itself would call it."""
        print(str(path).removeprefix(self._root))


def main() -> None:
    """Seal the tree."""
    parser = argparse.ArgumentParser()
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--root", default="")
    place.add_argument("--offline", metavar="DIRECTORY")
    parser.add_argument("patterns", nargs="*")
    arguments = parser.parse_args()
    sealer = Sealer(arguments.root.rstrip("/"))
    if arguments.offline:
        os.chroot(arguments.offline)
        os.chdir("/")
        sealer = Sealer("", in_use=())
    for patterns in REMOVED.values():
        sealer.remove(*patterns)
    sealer.remove(*arguments.patterns)
    sealer.remove_logs()
    sealer.empty_temporary_folders()
    sealer.empty_machine_id()


if __name__ == "__main__":
    main()
