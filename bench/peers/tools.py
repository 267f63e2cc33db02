"""The tools that are compared: each makes the same image, thrice.

``cold`` starts with nothing but a warm package proxy, ``again`` with nothing changed, ``changed``
with another greeting in ``/etc/motd``, the last thing that each of them does.
"""

from __future__ import annotations

import base64
import itertools
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from bench import measure
from bench.measure import ROOT, VAULTBUILD, say, seconds
from builder import kvm
from builder.engines.keys import make_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).parent
SUITE = "bookworm"
PACKAGES = (
    "docker.io",
    "linux-image-cloud-amd64",
    "openssh-server",
    "python3",
    "python3-numpy",
    "systemd-sysv",
)
_BASE_CHECK = """def test_ssh_is_there(host):
    assert host.package("openssh-server").is_installed
"""
_numbers = itertools.count(1)


class Peer(Protocol):
    """One tool in one folder.

    ``keeps``: whether it has caches of its own. ``needs`` is by program the Debian package that
    brings it.
    """

    name: ClassVar[str]
    keeps: ClassVar[bool]
    needs: ClassVar[dict[str, str]]

    def cold(self) -> float:
        """Make the image with nothing but a warm proxy; return the seconds."""

    def again(self) -> float:
        """Ask for the same image once more."""

    def changed(self) -> float:
        """Ask for it with another greeting."""


def missing(needs: Mapping[str, str]) -> list[str]:
    """Return the packages of the programs that are not here, after trying to install them."""
    wanted = _absent(needs)
    if wanted:
        say(f"installing {' '.join(wanted)}")
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
        subprocess.run(install, check=False, stdout=subprocess.DEVNULL)
    return _absent(needs)


def _absent(needs: Mapping[str, str]) -> list[str]:
    return [package for name, package in needs.items() if shutil.which(name) is None]


def _greeting() -> str:
    """Return a greeting that no build has had."""
    return f"This is a plain Debian 12, number {next(_numbers)}.\n"


class Mmdebstrap:
    """mmdebstrap into a folder, and an ext4 file system of it; it keeps nothing between runs."""

    name: ClassVar[str] = "mmdebstrap, ext4"
    keeps: ClassVar[bool] = False
    needs: ClassVar[dict[str, str]] = {"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs"}

    def __init__(self, folder: Path, proxy: str, sources: Sequence[str]) -> None:
        self._folder = folder
        self._proxy = proxy
        self._log = folder / "log"
        (folder / "sources.list").write_text("\n".join(sources) + "\n")
        (folder / "motd").write_text(_greeting())

    def cold(self) -> float:
        """Make it."""
        root, disk = self._folder / "root", self._folder / "root.ext4"
        shutil.rmtree(root, ignore_errors=True)
        disk.unlink(missing_ok=True)
        bootstrap: list[str | Path] = [
            "mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory",
            "--include", ",".join(PACKAGES),
            "--customize-hook", f"copy-in {self._folder}/motd /etc",
            SUITE, root, self._folder / "sources.list",
        ]  # fmt: skip
        made = seconds(bootstrap, env={"http_proxy": self._proxy}, log=self._log)
        made += seconds(["mkfs.ext4", "-q", "-d", root, disk, "3G"], log=self._log)
        shutil.rmtree(root)
        return made

    def again(self) -> float:
        """Make it: the tool cannot know that nothing changed."""
        return self.cold()

    def changed(self) -> float:
        """Make it with another greeting."""
        (self._folder / "motd").write_text(_greeting())
        return self.cold()


class Mkosi:
    """mkosi 14 into a folder, with its incremental cache."""

    name: ClassVar[str] = "mkosi 14, folder"
    keeps: ClassVar[bool] = True
    needs: ClassVar[dict[str, str]] = {"mkosi": "mkosi", "debootstrap": "debootstrap"}

    def __init__(self, folder: Path, proxy: str, sources: Sequence[str]) -> None:
        self._folder = folder
        self._proxy = proxy
        self._mirror = sources[0].split()[1]
        shutil.copyfile(HERE / "mkosi/mkosi.default", folder / "mkosi.default")
        self._motd = folder / "mkosi.extra/etc/motd"
        self._motd.parent.mkdir(parents=True, exist_ok=True)
        self._motd.write_text(_greeting())

    def cold(self) -> float:
        """Remove image and caches (thrice --force), and make it."""
        return self._run("--force", "--force", "--force")

    def again(self) -> float:
        """Make it: the cached tree is copied."""
        return self._run("--force")

    def changed(self) -> float:
        """Make it with another greeting."""
        self._motd.write_text(_greeting())
        return self._run("--force")

    def _run(self, *options: str) -> float:
        return seconds(
            ["mkosi", "--incremental", *options, "--mirror", self._mirror, "build"],
            cwd=self._folder, env={"http_proxy": self._proxy}, log=self._folder / "log",
        )  # fmt: skip


class Vmdb2:
    """vmdb2 into a raw disk with one partition, with its tarball of the root file system."""

    name: ClassVar[str] = "vmdb2, raw disk"
    keeps: ClassVar[bool] = True
    needs: ClassVar[dict[str, str]] = {
        "vmdb2": "vmdb2",
        "debootstrap": "debootstrap",
        "parted": "parted",
    }

    def __init__(self, folder: Path, proxy: str, sources: Sequence[str]) -> None:
        self._folder = folder
        self._proxy = proxy
        self._mirror = sources[0].split()[1]
        shutil.copyfile(HERE / "vmdb2/plain.yml", folder / "plain.yml")
        (folder / "motd").write_text(_greeting())

    def cold(self) -> float:
        """Remove the tarball, and make it."""
        (self._folder / "root.tar").unlink(missing_ok=True)
        return self.again()

    def again(self) -> float:
        """Make it: the tarball is unpacked."""
        output = self._folder / "disk.raw"
        output.unlink(missing_ok=True)
        argv: list[str | Path] = [
            "vmdb2", "plain.yml", "--output", output, "--variable", f"mirror={self._mirror}",
            "--rootfs-tarball", self._folder / "root.tar", "--log", self._folder / "vmdb2.log",
        ]  # fmt: skip
        return seconds(argv, cwd=self._folder, env=self._environment(), log=self._folder / "log")

    def changed(self) -> float:
        """Make it with another greeting."""
        (self._folder / "motd").write_text(_greeting())
        return self.again()

    def _environment(self) -> dict[str, str]:
        """Put our kpartx before the real one where that cannot work."""
        path = measure.environment()["PATH"]
        mapper = Path("/dev/mapper/control").exists()
        return {
            "http_proxy": self._proxy,
            "PATH": path if mapper else f"{HERE / 'vmdb2'}:{path}",
        }


class PackerAnsible:
    """Packer's qemu builder and ansible provisioner, from a base with kernel, sshd and Python."""

    name: ClassVar[str] = "packer + ansible, from a base"
    keeps: ClassVar[bool] = False
    needs: ClassVar[dict[str, str]] = {"packer": "packer", "qemu-system-x86_64": "qemu-system-x86"}

    def __init__(self, folder: Path, proxy: str, sources: Sequence[str]) -> None:
        del sources  # the base has its own
        self._folder = folder
        self._port = proxy.rpartition(":")[2]
        shutil.copytree(HERE / "packer", folder, dirs_exist_ok=True)
        roles = HERE / "project/ansible/roles"
        shutil.copyfile(roles / "container_host/files/daemon.json", folder / "daemon.json")
        (folder / "motd").write_text(_greeting())
        (folder / "ssh_key").unlink(missing_ok=True)
        self._keys = make_keys(folder)
        self._base = _bare_base(folder / "base")

    def cold(self) -> float:
        """Make it."""
        key = base64.b64encode(self._keys.public.encode()).decode()
        credential = "type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root="
        fast = kvm.usable()[0]
        given = {
            "base": self._base,
            "output": self._folder / "output",
            "private_key": self._keys.private,
            "credential": credential + key,
            "proxy": f"http://10.0.2.2:{self._port}",
            "accelerator": "kvm" if fast else "tcg",
            "cpu": "host" if fast else "max",
        }
        variables = itertools.chain(*(("-var", f"{name}={given[name]}") for name in given))
        return seconds(
            ["packer", "build", "-force", *variables, "plain.pkr.hcl"],
            cwd=self._folder, env=_ansible_beside_python(), log=self._folder / "log",
        )  # fmt: skip

    def again(self) -> float:
        """Make it: the tool cannot know that nothing changed."""
        return self.cold()

    def changed(self) -> float:
        """Make it with another greeting."""
        (self._folder / "motd").write_text(_greeting())
        return self.cold()


def _ansible_beside_python() -> dict[str, str]:
    path = f"{Path(measure.PYTHON).parent}:{measure.environment()['PATH']}"
    return {"PATH": path, "ANSIBLE_HOST_KEY_CHECKING": "False"}


def _bare_base(folder: Path) -> Path:
    """Have vaultbuild make the base that Packer starts from: no Docker, no NumPy; not measured."""
    project = measure.copy_project(HERE / "project", folder)
    pipeline = project / "stages/pipeline.yml"
    lines = pipeline.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().endswith(("docker.io", "python3-numpy"))]
    pipeline.write_text("".join(kept))
    (project / "stages/base/checks/test_base.py").write_text(_BASE_CHECK)
    say("making the base that packer starts from")
    made = subprocess.run(
        [*VAULTBUILD, "--project", project, "--quiet", "stage", "base"],
        env=measure.environment(), check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return Path(made.stdout.strip())


class Vaultbuild:
    """vaultbuild, checks included: it starts its own caches, which hold the packages."""

    name: ClassVar[str] = "vaultbuild, qcow2, checked"
    keeps: ClassVar[bool] = True
    needs: ClassVar[dict[str, str]] = {"mmdebstrap": "mmdebstrap", "packer": "packer"}

    def __init__(self, project: Path) -> None:
        self.project = project
        self._motd = project / "ansible/roles/greeting/files/motd"

    def cold(self) -> float:
        """Remove all that it keeps but the packages, and make it."""
        for name in ("images", "checkpoints", "latest", "verdicts", "index"):
            shutil.rmtree(self.project / "cache/var" / name, ignore_errors=True)
        return self.again()

    def again(self) -> float:
        """Make it."""
        argv: list[str | Path] = [*VAULTBUILD, "--project", self.project, "stage", "final"]
        log = self.project / "cache/var/bench.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return seconds(argv, log=log)

    def changed(self) -> float:
        """Make it with another greeting."""
        self._motd.write_text(_greeting())
        return self.again()


def own_project(folder: Path) -> Path:
    """Return the project of vaultbuild's own image."""
    return measure.copy_project(ROOT / "bench/peers/project", folder)
