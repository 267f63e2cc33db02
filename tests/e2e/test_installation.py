"""Debian, installed by its own installer from an ISO, and built on like any other root disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from builder import network
from builder.errors import CommandError, HostError
from builder.sources.bootstrap import host_mirrors

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SUITE = "trixie"
NETBOOT = "debian-installer-13-netboot-amd64"
# Some of what the installer fetches first; an archive in the middle of a release may lack them.
PARTS = ("e2fsprogs-udeb", "grub-installer", "partman-ext3", "ext4-modules-{kernel}-di")
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


@pytest.fixture(scope="module")
def parts(tmp_path_factory, missing, require_program) -> Path:
    """Debian's network installer, as the host's own archive has it."""
    require_program("apt-get")
    folder = tmp_path_factory.mktemp("netboot")
    try:
        apt = _Apt(folder / "apt")
        apt("update")
        apt("download", NETBOOT)
        tree = folder / "tree"
        subprocess.run(["dpkg-deb", "-x", *apt.folder.glob("*.deb"), tree], check=True)
        (images,) = tree.glob("usr/lib/debian-installer/images/*/amd64/text/debian-installer/amd64")
        apt("download", *(part.format(kernel=_kernel_of(images / "linux")) for part in PARTS))
    except (subprocess.CalledProcessError, CommandError, HostError) as error:
        missing(f"the archive has no whole installer of {SUITE}: {_words(error)}")
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
        shutil.copyfile(parts / name, tree / name)
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", iso, tree / "linux"]
    subprocess.run([*argv, tree / "initrd.gz"], check=True)
    vaultbuild = trimmed(workshop / "installed", workshop / "tmp")
    pipeline = vaultbuild.project / "stages/pipeline.yml"
    head, _, _ = pipeline.read_text().partition("      bootstrap:")
    sha256 = hashlib.sha256(iso.read_bytes()).hexdigest()
    pipeline.write_text(head + SOURCE.format(iso=iso, sha256=f'"{sha256}"'))
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
