"""Remove what tells one machine from another and what a build leaves behind; print each path removed.

    seal.py [--root DIRECTORY] [PATTERN...]

One program instead of forty tasks: it is one round trip to the guest, it can be tried on any folder, and
its output is the proof of what it did. A second run prints nothing.
"""

import argparse
import glob
import os
import shutil
from pathlib import Path

# Removed with everything below them. A trailing "/*" keeps the folder, whose mode and owner matter.
REMOVED = {
    "host keys": ["/etc/ssh/ssh_host_*", "/etc/ssh/.new_host_key*"],
    "keys of people and builds": ["/root/.ssh", "/home/*/.ssh", "/var/lib/dkms/mok.*"],
    "secrets": [
        "/etc/apt/auth.conf", "/etc/apt/auth.conf.d/*", "/root/.netrc", "/root/.docker", "/root/.aws", "/root/.config/gcloud",
        "/root/.cache", "/root/.gnupg", "/var/lib/systemd/credential.secret", "/etc/credstore/*", "/etc/credstore.encrypted/*",
    ],
    "identity": [
        "/var/lib/systemd/random-seed", "/boot/efi/loader/random-seed", "/var/lib/docker/engine-id", "/etc/docker/key.json",
        "/var/lib/docker/network", "/var/lib/docker/swarm", "/etc/iscsi/initiatorname.iscsi", "/etc/nvme/hostid", "/etc/nvme/hostnqn",
    ],
    "network": [
        "/var/lib/dhcp/*", "/var/lib/dhcpcd/*", "/var/lib/systemd/network/*", "/etc/udev/rules.d/70-persistent-net.rules",
        "/var/lib/NetworkManager/*", "/etc/netplan/50-cloud-init.yaml", "/etc/network/interfaces.d/50-cloud-init",
        "/etc/systemd/network/10-cloud-init-*.network",
    ],
    "cloud-init": [
        "/var/lib/cloud/*", "/etc/ssh/sshd_config.d/50-cloud-init.conf", "/etc/sudoers.d/90-cloud-init-users",
        "/etc/cloud/ds-identify.cfg", "/etc/cloud/cloud-init.disabled", "/etc/cloud/cloud.cfg.d/90-installer-network.cfg",
        "/etc/cloud/cloud.cfg.d/99-installer.cfg",
    ],
    "proxies": [
        "/etc/apt/apt.conf.d/99mmdebstrap", "/etc/apt/apt.conf.d/*proxy*", "/etc/pip.conf", "/root/.config/pip", "/root/.pip",
        "/etc/systemd/system/*.service.d/http-proxy.conf",
    ],
    "package state": [
        "/var/lib/apt/lists/*", "/var/cache/apt/*.bin", "/var/cache/apt/archives/*", "/var/lib/apt/periodic/*",
        "/var/cache/debconf/*-old", "/var/lib/dpkg/*-old", "/var/cache/apt-show-versions", "/var/cache/ldconfig/aux-cache",
        "/var/cache/man/*", "/var/backups/*",
    ],
    "history": [
        "/root/.*_history", "/home/*/.*_history", "/root/.lesshst", "/home/*/.lesshst", "/root/.viminfo", "/home/*/.viminfo",
        "/root/.wget-hsts", "/home/*/.wget-hsts", "/root/.sudo_as_admin_successful", "/home/*/.sudo_as_admin_successful",
        "/var/lib/sudo/*", "/root/.ansible", "/home/*/.ansible",
    ],
    "spools and dumps": [
        "/var/crash/*", "/var/lib/systemd/coredump/*", "/var/spool/cron/crontabs/*", "/var/spool/cron/atjobs/*", "/var/mail/*",
        "/var/spool/mail/*", "/core", "/core.*",
    ],
    "clocks": ["/var/lib/systemd/timers/*", "/var/lib/systemd/timesync/*", "/var/lib/logrotate/*"],
    "backups": [
        "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-", "/etc/.pwd.lock",
        "/etc/*.dpkg-old", "/etc/*.dpkg-dist", "/etc/*.ucf-old", "/etc/*~", "/etc/**/*.dpkg-old", "/etc/**/*.dpkg-dist",
    ],
    "journal": ["/var/log/journal/*"],
}  # fmt: skip
# What runs has its files here: they go when it ends, and must not go before.
KEPT_IN_TMP = ("ansible", ".ansible", "vaultbuild", "systemd-private-", "ssh-", ".X", ".ICE-", ".font-")
MACHINE_ID = "/etc/machine-id"


class Sealer:
    """Removes below a root and says what it removed."""

    def __init__(self, root):
        self.root = root

    def below(self, pattern):
        """Return the existing paths, folders' contents before nothing, that match a pattern."""
        return sorted(glob.glob(f"{self.root}{pattern}", recursive=True, include_hidden=True))

    def tell(self, path):
        """Print a path as the machine itself would call it."""
        print(path.removeprefix(self.root))

    def remove(self, path):
        """Remove a file or a folder with everything in it."""
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
        self.tell(path)

    def patterns(self, patterns):
        """Remove what matches any of the patterns."""
        for pattern in patterns:
            for path in self.below(pattern):
                self.remove(path)

    def logs(self):
        """Remove every log, and keep the folders: daemons do not make theirs again."""
        for folder, _, names in os.walk(f"{self.root}/var/log"):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    self.remove(path)

    def temporary(self):
        """Empty the folders for temporary files, but for what is in use."""
        for path in self.below("/tmp/*") + self.below("/var/tmp/*"):
            if not os.path.basename(path).startswith(KEPT_IN_TMP):
                self.remove(path)

    def machine_id(self):
        """Empty the machine-id: systemd makes one where the file is there and empty."""
        path = Path(f"{self.root}{MACHINE_ID}")
        copy = Path(f"{self.root}/var/lib/dbus/machine-id")
        if copy.is_file() and not copy.is_symlink():
            self.remove(str(copy))
        if not path.is_file() or path.stat().st_size:
            path.write_bytes(b"")
            path.chmod(0o444)
            self.tell(str(path))


def main():
    """Seal the tree."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default="")
    parser.add_argument("patterns", nargs="*")
    arguments = parser.parse_args()
    sealer = Sealer(arguments.root.rstrip("/"))
    for patterns in (*REMOVED.values(), arguments.patterns):
        sealer.patterns(patterns)
    sealer.logs()
    sealer.temporary()
    sealer.machine_id()


if __name__ == "__main__":
    main()
