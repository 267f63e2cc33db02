"""Debian, installed by its own installer from an ISO, and built on like any other root disk."""

from __future__ import annotations

import hashlib
import os
import runpy
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from builder import network
from builder.errors import CommandError, HostError
from builder.sources.bootstrap import host_mirrors

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SUITE = "trixie"
NETBOOT = "debian-installer-13-netboot-amd64"
# Some of what the installer fetches first; an archive in the middle of a release may lack them.
SOME = ("e2fsprogs-udeb", "grub-installer", "partman-ext3", "ext4-modules-{kernel}-di")
SOURCE = """\
      iso:
        url: {iso}
        sha256: {sha256}
        installer: preseed
        answers: preseed.cfg
        kernel: /linux
        initrd: /initrd.gz
        cmdline: >-
          priority=critical DEBIAN_FRONTEND=text TERM=dumb console=ttyS0,115200
          --- console=tty0 console=ttyS0,115200
"""
_HOURS = 4 * 3600
PARTS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("installer_parts.py"))))


@dataclass(frozen=True)
class Parts:
    """A folder with ``linux`` and ``initrd.gz``; where the rest is, and what to answer for that."""

    folder: Path
    mirror: str | None = None
    answers: str = ""


@pytest.fixture(scope="module")
def parts(tmp_path_factory, missing, require_program) -> Iterator[Parts]:
    """Debian's network installer: of the host's own archive, or of a folder (docs/contributing)."""
    require_program("apt-get")
    require_program("dpkg-deb")
    if kept := os.environ.get("VAULTBUILD_INSTALLER"):
        with PARTS.archive(Path(kept), host_mirrors(SUITE, ["main"])[0].split()[1]) as mirror:
            yield Parts(Path(kept), mirror, PARTS.ANSWERS)
        return
    try:
        folder = _from_the_archive(tmp_path_factory.mktemp("netboot"))
    except (subprocess.CalledProcessError, CommandError, HostError) as error:
        missing(f"the archive has no whole installer of {SUITE}: {_words(error)}")
    yield Parts(folder)


def _from_the_archive(folder: Path) -> Path:
    apt, tree = _Apt(folder / "apt"), folder / "tree"
    apt("update")
    apt("download", NETBOOT)
    subprocess.run(["dpkg-deb", "-x", *apt.folder.glob("*.deb"), tree], check=True)
    (images,) = tree.glob("usr/lib/debian-installer/images/*/amd64/text/debian-installer/amd64")
    apt("download", *(part.format(kernel=_kernel_of(images / "linux")) for part in SOME))
    return images


class _Apt:
    """apt-get with folders of its own: another suite than the host's, and the installer's parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg",
                     "var/cache/apt/archives/partial"):  # fmt: skip
            (folder / name).mkdir(parents=True)
        (folder / "var/lib/dpkg/status").touch()
        source = host_mirrors(SUITE, ["main", "main/debian-installer"])[0]
        keyring = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
        (folder / "sources.list").write_text(source.replace("deb ", f"deb {keyring} ") + "\n")
        (folder / "apt.conf").write_text(
            f'Dir "{folder}";\nDir::Etc::sourcelist "{folder}/sources.list";\n'
            f'Dir::State::status "{folder}/var/lib/dpkg/status";\nAPT::Sandbox::User "root";\n'
        )

    def __call__(self, *words: str) -> None:
        env = {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C.UTF-8"}
        subprocess.run(
            ["apt-get", "-q", *words], cwd=self.folder, env=env, check=True, capture_output=True,
            text=True,
        )  # fmt: skip


def _kernel_of(image: Path) -> str:
    """The release of a kernel, as the head of its file tells (Documentation/arch/x86/boot.rst)."""
    content = image.read_bytes()
    at = int.from_bytes(content[0x20E:0x210], "little") + 0x200
    return content[at : content.index(b" ", at)].decode()


def _words(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return next((line for line in said.splitlines() if line.startswith("E: ")), said.strip())


@pytest.fixture(scope="module")
def installed(parts, trimmed, finish, workshop, tmp_path_factory):
    """The trimmed project on a disk that the installer made, and what the command said."""
    tree = tmp_path_factory.mktemp("iso")
    iso = tree / "installer.iso"
    for name in ("linux", "initrd.gz"):
        shutil.copyfile(parts.folder / name, tree / name)
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", iso, tree / "linux"]
    subprocess.run([*argv, tree / "initrd.gz"], check=True)
    vaultbuild = trimmed(workshop / "installed", workshop / "tmp")
    pipeline = vaultbuild.project / "stages/pipeline.yml"
    head, _, _ = pipeline.read_text().partition("      bootstrap:")
    sha256 = hashlib.sha256(iso.read_bytes()).hexdigest()
    mirror = f"        mirror: {parts.mirror}\n" if parts.mirror else ""
    pipeline.write_text(head + SOURCE.format(iso=iso, sha256=f'"{sha256}"') + mirror)
    with (vaultbuild.project / "stages/base/preseed.cfg").open("a") as answers:
        answers.write(parts.answers)
    with vaultbuild.start("stage", "base", "--engine", "nspawn") as running:
        ran = finish(running, _HOURS)
    assert ran.status == 0, f"{ran.stdout}\n{ran.stderr}"
    yield vaultbuild, ran
    shutil.rmtree(vaultbuild.project)


def source_of(vaultbuild) -> Path:
    """The folder of what the root stage was built on."""
    (key,) = vaultbuild.images() - set(vaultbuild.keys("base").values())
    return vaultbuild.var / "images" / key


def test_an_installed_disk_is_built_on_and_passes_the_checks(installed):
    vaultbuild, ran = installed
    assert Path(ran.stdout.strip()).is_file()
    assert "base checks" in ran.stderr
    assert vaultbuild.plan("base") == {"base": "reuse"}


def test_all_that_came_came_from_the_archive_through_the_cache(installed):
    vaultbuild, _ = installed
    lock = network.read(source_of(vaultbuild) / network.LOCK)
    assert {each.cache for each in lock.handed} == {"apt", "isos"}
    assert not lock.refused
    assert not lock.tunnels
    assert [each.url for each in lock.handed if each.url.endswith(".udeb")]


def test_the_log_has_the_console(installed):
    vaultbuild, _ = installed
    console = (source_of(vaultbuild) / "logs/console.log").read_text(errors="replace")
    assert "late_command" in console


def test_it_boots_by_itself(installed):
    """In a VM, with the kernel and the boot loader that the installer put there."""
    vaultbuild, _ = installed
    said = vaultbuild("verify", "base", "--engine", "nspawn", "--vm").stderr
    assert "base checks" in said
