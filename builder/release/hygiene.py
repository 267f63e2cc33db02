"""What a disk that ships must not hold, looked for on the disk and not on a machine made from it.

A machine that booted has an identity, logs and a random seed by right. Whether the image had them
is told by its files alone, before the first boot. The points are those of docs/image-checks.md.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.release.esp import copy_esps
from builder.release.inspection import UNREADABLE, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from builder.partitions import RootFileSystem
    from builder.verify import CheckResult

# What is looked at: configuration, homes and what machines write, not what packages bring.
FOLDERS = (
    "/etc", "/root", "/home", "/tmp", "/boot/efi/loader", "/boot/grub",  # noqa: S108 - they are read
    "/var/backups", "/var/cache/apt", "/var/cache/debconf", "/var/crash", "/var/log", "/var/mail",
    "/var/spool", "/var/tmp",  # noqa: S108 - it is read
    "/var/lib/apt", "/var/lib/cloud", "/var/lib/dbus", "/var/lib/dhcp", "/var/lib/dhcpcd",
    "/var/lib/NetworkManager", "/var/lib/samba/private", "/var/lib/sss", "/var/lib/shim-signed",
    "/var/lib/systemd",
)  # fmt: skip
# What roles bring, which may be gigabytes: of these, files that may have a key or a token.
SMALL = ("/opt", "/srv", "/usr/local", "/var/lib/dkms")
# Where the files of the EFI system partition are copied to, and nothing of the root file system.
ESP = "/efi"
READ = "hygiene::the disk can be read"
_MOST_TOLD = 5
_LARGE = 1 << 20
# What keys, tokens, proxies and credentials are, and where they are looked for. The check in the
# machine has the same: stages/final/checks/leftovers.py, which is sent there alone.
PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
TOKEN = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{30,}|gh[oprsu]_[A-Za-z0-9]{30,}|glpat-[\w-]{20,}"
    r"|pypi-[\w-]{40,}|xox[abp]-[\w-]{20,})"
)
PROXY = re.compile(
    r"(?i)acquire::\w+::proxy|\b(?:https?|ftp|all)_proxy\b *="
    r"|(?:\b|_)(?:index[-_]url|trusted[-_]host)\b|^\s*proxy\s*=\s*\S+://",
    re.MULTILINE,
)
PROXIES_IN = ("/etc", "/root", "/home")
# Not /opt: packages of Python have tokens in their examples.
TOKENS_IN = (*PROXIES_IN, "/srv", "/usr/local")
KEYS_IN = (*TOKENS_IN, "/opt", "/var/lib/dkms")
SECRETS = (
    "/root/.netrc", "/root/.pypirc", "/root/.docker", "/root/.aws", "/root/.azure",
    "/root/.config/gcloud", "/root/.git-credentials", "/root/.kube", "/root/.gnupg",
    "/root/.vault-token", "/root/**/huggingface/token", "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d/*", "/etc/credstore/*", "/etc/credstore.encrypted/*",
    "/var/lib/dkms/mok.*", "/var/lib/shim-signed/mok/*",
)  # fmt: skip
_UNSIGNED = re.compile(r"trusted *[=:] *yes|://[^/\s]*@|\b(?:file|copy|cdrom):", re.IGNORECASE)
_NOBODY = re.compile(r"localhost|ip6-\w+|localhost\.localdomain")
# How variables are called that name a machine.
_HOSTNAME = re.compile(r"(?:^|_)hostname$")
_SWAP = re.compile(r"^[^#\s]\S*\s+\S+\s+swap\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tree:
    """A copy of a part of an image's files, and the names that its machines were given."""

    root: Path
    given: frozenset[str] = frozenset()

    def found(self, *patterns: str) -> list[str]:
        """Return what matches any of the patterns, as the image calls it."""
        paths = (path for pattern in patterns for path in self.root.glob(pattern.lstrip("/")))
        return sorted(self._name(path) for path in paths if self._inside(path.parent))

    def files(self, *folders: str) -> Iterator[Path]:
        """Yield the files below folders; links are not followed."""
        for folder in (self.root / name.lstrip("/") for name in folders):
            for path in sorted(folder.rglob("*") if self._inside(folder) else ()):
                if path.is_file() and not path.is_symlink():
                    yield path

    def text(self, name: str) -> str:
        """Return the text of a file; nothing where there is none."""
        path = self.root / name.lstrip("/")
        plain = path.is_file() and not path.is_symlink()
        return path.read_text(encoding="utf-8", errors="replace") if plain else ""

    def having(self, pattern: re.Pattern[str], *folders: str) -> list[str]:
        """Return the small files below folders in which a pattern is."""
        small = (path for path in self.files(*folders) if path.stat().st_size < _LARGE)
        names = (self._name(path) for path in small)
        return [name for name in names if pattern.search(self.text(name))]

    def names(self, *folders: str) -> list[str]:
        """Return the files below folders, as the image calls them."""
        return [self._name(path) for path in self.files(*folders)]

    def _inside(self, folder: Path) -> bool:
        """Whether no link leads to a folder: it would lead to one of this host."""
        return folder.resolve() == self.root.resolve() / folder.relative_to(self.root)

    def _name(self, path: Path) -> str:
        return f"/{path.relative_to(self.root)}"


def _machine_id(tree: Tree) -> list[str]:
    held = tree.text("/etc/machine-id").strip()
    copies = tree.names("/var/lib/dbus")
    return [
        *([f"/etc/machine-id has {held}"] if held not in {"", "uninitialized"} else []),
        *copies,
    ]


def _passwords(tree: Tree) -> list[str]:
    fields = (line.split(":") for line in tree.text("/etc/shadow").splitlines())
    return [f"{name} has a password" for name, word, *_ in fields if word[:1] not in {"!", "*"}]


def _names(tree: Tree) -> list[str]:
    told = tree.text("/etc/hostname").split()
    lines = (line.partition("#")[0].split() for line in tree.text("/etc/hosts").splitlines())
    told += [name for line in lines for name in line[1:]]
    return [name for name in told if not _NOBODY.fullmatch(name) and name not in tree.given]


def _proxies(tree: Tree) -> list[str]:
    sources = [name for name in tree.names("/etc/apt") if "sources" in name]
    odd = [name for name in sources if _UNSIGNED.search(tree.text(name))]
    return [*tree.having(PROXY, *PROXIES_IN), *odd]


def _packages(tree: Tree) -> list[str]:
    held = tree.names("/var/lib/apt/lists", "/var/cache/apt")
    return [name for name in held if not name.endswith("/lock")]


def _swap(tree: Tree) -> list[str]:
    return _SWAP.findall(tree.text("/etc/fstab"))


def _absent(*patterns: str) -> Callable[[Tree], list[str]]:
    return lambda tree: tree.found(*patterns)


POINTS: dict[str, Callable[[Tree], list[str]]] = {
    "hygiene::no SSH host key": _absent("/etc/ssh/ssh_host_*"),
    "hygiene::no machine-id": _machine_id,
    "hygiene::nobody's keys": _absent("/root/.ssh/*", "/home/*/.ssh/*"),
    "hygiene::no private key": lambda tree: tree.having(PRIVATE_KEY, *KEYS_IN, ESP),
    "hygiene::no token": lambda tree: tree.having(TOKEN, *TOKENS_IN, ESP),
    "hygiene::no password": _passwords,
    "hygiene::no file of credentials": _absent(
        *SECRETS, "/var/lib/systemd/credential.secret", f"{ESP}/**/*.cred",
    ),
    "hygiene::no memory of cloud-init": _absent(
        "/var/lib/cloud/*", "/etc/ssh/sshd_config.d/50-cloud-init.conf",
        "/etc/cloud/ds-identify.cfg", "/etc/cloud/cloud-init.disabled",
        "/etc/netplan/50-cloud-init.yaml", "/etc/network/interfaces.d/50-cloud-init",
        "/etc/systemd/network/10-cloud-init-*.network",
    ),
    "hygiene::no memory of a network": _absent(
        "/etc/udev/rules.d/70-persistent-net.rules", "/var/lib/dhcp/*", "/var/lib/dhcpcd/*",
        "/var/lib/NetworkManager/*", "/etc/NetworkManager/system-connections/*",
        "/var/lib/systemd/network/*",
    ),
    "hygiene::no name of a machine": _names,
    "hygiene::no proxy and no odd source": _proxies,
    "hygiene::no lists and no packages": _packages,
    "hygiene::no log": lambda tree: tree.names("/var/log"),
    "hygiene::no history": _absent(
        "/root/.*_history", "/home/*/.*_history", "/root/.lesshst", "/home/*/.lesshst",
        "/root/.viminfo", "/home/*/.viminfo", "/root/.wget-hsts", "/root/.cache", "/home/*/.cache",
        "/root/.ansible*",
    ),
    "hygiene::nothing temporary, no dump": _absent(
        "/tmp/*", "/var/tmp/*", "/var/crash/*", "/var/lib/systemd/coredump/*",  # noqa: S108 - as above
    ),
    "hygiene::nothing in spools": _absent(
        "/var/mail/*", "/var/spool/cron/crontabs/*", "/var/spool/cron/atjobs/*",
    ),
    "hygiene::no backup": _absent(
        "/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/**/*.dpkg-old",
        "/etc/**/*.dpkg-dist", "/etc/**/*~", "/var/backups/*", "/var/cache/debconf/*-old",
    ),
    "hygiene::no random seed": _absent(
        "/var/lib/systemd/random-seed", "/boot/efi/loader/random-seed", f"{ESP}/loader/random-seed",
    ),
    "hygiene::no membership": _absent(
        "/etc/krb5.keytab", "/var/lib/sss/db/*", "/var/lib/sss/secrets/*",
        "/var/lib/samba/private/*", "/etc/puppet/ssl", "/etc/puppetlabs/puppet/ssl",
        "/etc/sysconfig/rhn/systemid",
    ),
    "hygiene::no swap": _swap,
    "hygiene::no memory of devices": _absent(
        "/etc/blkid.tab*", "/etc/lvm/devices/system.devices", "/etc/lvm/archive/*",
        "/etc/lvm/backup/*", "/etc/iscsi/initiatorname.iscsi", "/etc/nvme/host*",
    ),
}  # fmt: skip


def hostnames(uses: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Return the names that a pipeline gives its machines: of variables that are called so."""
    values = (each for use in uses.values() for each in use.items())
    return frozenset(str(value) for name, value in values if value and _HOSTNAME.search(name))


def hygiene_results(
    root: RootFileSystem | None, work: Path, given: frozenset[str] = frozenset()
) -> Iterator[CheckResult]:
    """Answer every point for a disk; ``work`` is where its files are copied to.

    ``given`` are names that its machines may have. Of a disk that cannot be read nothing is known,
    which is a failure.
    """
    if root is None:
        yield result(READ, UNREADABLE)
        return
    folder = work / "files"
    try:
        root.copy(FOLDERS, folder)
        root.copy_small(SMALL, folder, below=_LARGE)
        # A partition may be the largest and not be the root.
        rootless = "" if (folder / "etc").is_dir() else "its root file system has no /etc\n"
        yield result(READ, rootless + copy_esps(root.raw, folder / ESP.lstrip("/")))
        yield from results_of(Tree(folder, given))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def results_of(tree: Tree) -> Iterator[CheckResult]:
    """Answer every point for a copy of an image's files."""
    for name, ask in POINTS.items():
        yield result(name, _told(ask(tree)))


def _told(wrong: Iterable[str]) -> str:
    found = list(dict.fromkeys(wrong))
    more = f"; and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
    return "; ".join(found[:_MOST_TOLD]) + more
