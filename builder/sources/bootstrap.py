"""A root file system from packages: mmdebstrap, then a disk around it.

The package sources come from the pipeline, or from the host's own apt configuration: whoever can
install packages on the host can build from the same mirror. The cache's address reaches apt through
the environment only: ``--aptopt`` would leave it in the image.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import process
from builder.errors import CommandError, HostError
from builder.sources import rootdisk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Raise it when the bytes that this module and rootdisk put into a disk change.
BOOTSTRAP_VERSION = 1
_LEFT_BY_MMDEBSTRAP = ("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap")
_WAIT_ONLINE = "systemd-networkd-wait-online.service"
_HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
# Any wired interface asks for an address, but no bridge or veth of containers. Nobody waits for
# one: that would stop a machine that has none.
_NETWORK = "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n"
_FSTAB = f"LABEL={rootdisk.ROOT_LABEL}\t/\text4\terrors=remount-ro,x-systemd.growfs\t0\t1\n"


def host_mirrors(suite: str, components: Sequence[str]) -> tuple[str, ...]:
    """Return sources.list lines for ``suite`` on the mirrors that the host itself uses.

    Raises :class:`HostError` when the host has no apt, or no Debian archive in its configuration.
    """
    codename = _host_codename()
    found = process.run([
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages",
    ]).stdout  # fmt: skip
    mirrors = {release: uri for uri, release in map(str.split, found.splitlines())}
    archive = mirrors.get(codename)
    if archive is None:
        raise HostError(
            f"the host's apt configuration names no archive for {codename}",
            hint="set source.bootstrap.mirrors in stages/pipeline.yml",
        )
    lines = [f"deb {archive} {suite} {' '.join(components)}"]
    if security := mirrors.get(f"{codename}-security"):
        lines.append(f"deb {security} {suite}-security {' '.join(components)}")
    return tuple(lines)


def _host_codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise HostError("/etc/os-release has no VERSION_CODENAME", hint="set source.bootstrap.mirrors")


def make_disk(
    settings: Mapping[str, Any],
    disk: Path,
    *,
    size: int,
    identity: str,
    apt_proxy: str | None,
    log: Path,
) -> None:
    """Bootstrap a root file system and write it to a raw disk of ``size`` bytes at ``disk``.

    ``settings`` are those of a validated bootstrap source. Raises :class:`CommandError` when
    packages cannot be had, with mmdebstrap's words in ``log``, and :class:`HostError` without root.
    """
    _require_root()
    root = disk.with_name("root")
    try:
        _run_mmdebstrap(settings, root, apt_proxy, log)
        _settle(root, settings)
        rootdisk.assemble(root, disk, size=size, cmdline=settings["cmdline"], identity=identity)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise HostError(
            "a root file system is bootstrapped from packages as root only",
            hint="run vaultbuild with sudo, or start from a cloud_image with --engine qemu",
        )


def _run_mmdebstrap(
    settings: Mapping[str, Any], root: Path, apt_proxy: str | None, log: Path
) -> None:
    argv = [
        "mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory",
        "--include", ",".join(settings["packages"]),
        # Only while mmdebstrap runs: the file that this leaves is removed afterwards.
        "--dpkgopt=force-unsafe-io",
        settings["suite"], root, "-",
    ]  # fmt: skip
    sources = settings["mirrors"] or host_mirrors(settings["suite"], settings["components"])
    listing = root.with_name("sources.list")
    listing.write_text("\n".join(sources) + "\n")
    argv[-1] = listing
    env = {"http_proxy": apt_proxy} if apt_proxy else {}
    with process.start(argv, log=log, env=env, contained=True) as child:
        status = child.wait()
    if status:
        raise _explain(process.failure(argv, status, log.read_text(errors="replace"), log=log))


def _explain(error: CommandError) -> CommandError:
    from builder.failures import explained  # late: only failures need it, and its catalogue

    if "has no installation candidate" in error.output or "was not found" in error.output:
        error.hint = "a package or version is gone from the mirror: see source.bootstrap.packages"
    elif "Unable to connect" in error.output or "Failed to fetch" in error.output:
        error.hint = "is the mirror reachable? try `apt-get update` on this host"
    return explained(error, error.output, "host")


def _settle(root: Path, settings: Mapping[str, Any]) -> None:
    """Remove what bootstrapping left of the builder, and set what every machine needs."""
    for name in _LEFT_BY_MMDEBSTRAP:
        (root / name).unlink(missing_ok=True)
    (root / "etc/hostname").write_text("localhost\n")
    (root / "etc/hosts").write_text(_HOSTS)
    (root / "etc/fstab").write_text(_FSTAB)
    (root / "etc/machine-id").write_text("")
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.write_text("")
    _enable_network(root)
    for name in ("hostname", "hosts", "fstab", "resolv.conf"):
        (root / "etc" / name).chmod(0o644)
    if settings["hold"]:
        process.run(["chroot", root, "apt-mark", "hold", *settings["hold"]])


def _enable_network(root: Path) -> None:
    """Let systemd-networkd configure wired interfaces: the first boot must answer on one."""
    network = root / "etc/systemd/network/80-wired.network"
    network.parent.mkdir(parents=True, exist_ok=True)
    network.write_text(_NETWORK)
    process.run(["chroot", root, "systemctl", "--quiet", "enable", "systemd-networkd.service"])
    process.run(["chroot", root, "systemctl", "--quiet", "mask", _WAIT_ONLINE])
