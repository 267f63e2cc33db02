"""An installation under both lines of Packer, in a VM that is acted by a program of the test."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder import disks, process
from builder.caches import Endpoints
from builder.errors import CommandError, HostError, StoreError
from builder.installation import Installation, install
from builder.pipeline import load_pipeline
from builder.project import Project
from builder.reporter import Reporter
from builder.sources import iso

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
ANSWERS = "proxy {apt_proxy}\n"
PIPELINE = """\
    schema: 1
    name: tiny
    version: "1.0.0"
    variant: one
    stages: [base, final]
    resources: {cpus: 3, memory: 512M, disk: 64M}
    variants:
      one:
        source:
          iso:
            url: installer.iso
            sha256: "SHA256"
            installer: INSTALLER
            answers: answers
            kernel: /boot/linux
            initrd: boot/initrd.gz
            cmdline: priority=critical console=ttyS0
    """
# What Packer asks QEMU for its version; else it is the installer: its words, and a disk.
QEMU = """\
#!/usr/bin/env python3
import json, os, shutil, sys, time
words = sys.argv[1:]
if "-version" in words or "--version" in words:
    print("QEMU emulator version 7.2.22 (Debian 1:7.2)")
    sys.exit()
named = dict(zip(words, words[1:]))
with open({seen!r}, "w") as file:
    files = {{name: open(named[name], "rb").read().decode() for name in ("-kernel", "-initrd")}}
    json.dump([words, files], file)
with open(named["-serial"].removeprefix("file:"), "w") as console:
    console.write("one\\nInstalling the system\\n")
disk = next(word for word in words if word.startswith("file=") and "media=" not in word)
{acts}
"""
INSTALLS = "shutil.copyfile({disk!r}, disk.split(',')[0].removeprefix('file='))"
WAITS = "time.sleep(600)"


@dataclass
class Listener(Reporter):
    """Keeps the warnings."""

    warnings: list[str] = field(default_factory=list)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def medium(tmp_path, require_program) -> Path:
    """An ISO with a kernel and a first file system."""
    tree = tmp_path / "tree/boot"
    tree.mkdir(parents=True)
    (tree / "linux").write_text("the kernel")
    (tree / "initrd.gz").write_text("initrd")
    place = tmp_path / "installer.iso"
    argv = [require_program("xorriso"), "-as", "mkisofs", "-quiet", "-R", "-o", place, tree.parent]
    process.run(argv)
    return place


@pytest.fixture
def make_disk(tmp_path, require_program):
    """Call it with files for the disk that an installer leaves."""

    def make(files: dict[str, str]) -> Path:
        for program in ("sfdisk", "mkfs.ext4", "debugfs"):
            require_program(program)
        tree, raw, disk = tmp_path / "root", tmp_path / "disk.raw", tmp_path / "made.qcow2"
        for name, text in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        with raw.open("wb") as file:
            file.truncate(64 * MIB)
        process.run(["sfdisk", "-q", raw], stdin="label: dos\nstart=2048, type=83, bootable\n")
        argv = ["mkfs.ext4", "-q", "-F", "-E", f"offset={MIB}", "-d", tree, raw, "62M"]
        process.run(argv)
        disks.import_raw(raw, disk)
        return disk

    return make


SYSTEM = {"boot/vmlinuz-6.12": "kernel", "etc/os-release": "ID=debian\n"}


@pytest.fixture
def installed(packer, project, medium, program, tmp_path, require_program):
    """Call it with what the VM does: returns the disk, what QEMU was given, and what was told."""
    for name in ("qemu-img", "socat"):
        require_program(name)

    def run(acts: str, *, installer: str = "preseed", timeout: int = 120):
        seen = tmp_path / "seen.json"
        program("qemu-system-x86_64", QEMU.format(seen=str(seen), acts=acts))
        files = {"stages/pipeline.yml": PIPELINE.replace("SHA256", "0" * 64).replace(
            "INSTALLER", installer), "stages/base/answers": ANSWERS}  # fmt: skip
        folder = project(files)
        settings = load_pipeline(folder).source.settings
        settings["timeout"] = timeout
        place = _project(folder, packer, settings)
        staged, logs = tmp_path / "staged", tmp_path / "logs"
        staged.mkdir()
        logs.mkdir()
        (folder / "packer/iso.pkr.hcl.j2").symlink_to(ROOT / "packer/iso.pkr.hcl.j2")
        (folder / "packer/parts").symlink_to(ROOT / "packer/parts")
        listener = Listener()
        task = Installation(place, medium, folder, staged, logs, "k" * 64, (), listener)
        endpoints = Endpoints({"apt": "http://127.0.0.1:41001", "pypi": "http://127.0.0.1:41002"})
        install(task, staged / "disk.qcow2", endpoints)
        assert [path.name for path in staged.iterdir()] == ["disk.qcow2"], "and nothing else"
        words, files = json.loads(seen.read_text())
        return staged / "disk.qcow2", words, files, listener.warnings

    return run


def _project(folder, packer, settings):
    """The real project, as far as an installation asks it; the Packer is the test's."""
    real = Project(folder, engine="nspawn")
    pipeline = real.pipeline
    pipeline.source.settings.update(settings)
    context = real.template_context

    def template_context(stage):
        return context(stage)

    return SimpleNamespace(
        pipeline=pipeline,
        packer=packer,
        folder=folder,
        vm=SimpleNamespace(accelerator="tcg"),
        template_context=template_context,
    )


def test_an_installer_makes_the_disk(installed, make_disk):
    made = make_disk(SYSTEM)
    disk, words, files, warnings = installed(INSTALLS.format(disk=str(made)))
    assert disks.info(disk).virtual_bytes == 64 * MIB
    assert files["-kernel"] == "the kernel"
    assert files["-initrd"].startswith("initrd")
    assert "proxy http://10.0.2.100:3142\n" in files["-initrd"]
    named = dict(itertools.pairwise(words))
    assert named["-append"] == "priority=critical console=ttyS0"
    assert "-no-reboot" in words
    assert named["-m"] == "512M"
    assert named["-smp"].startswith("3") or "cpus=3" in named["-smp"]
    assert warnings == []


def test_an_installer_reaches_the_packages_and_nothing_else(installed, make_disk):
    _, words, _, _ = installed(INSTALLS.format(disk=str(make_disk(SYSTEM))))
    (network,) = (word for word in words if word.startswith("user,"))
    assert "restrict=on" in network
    assert "hostfwd" not in network
    leads = [word for word in network.split(",") if word.startswith("guestfwd=")]
    (lead,) = leads
    assert lead.startswith("guestfwd=tcp:10.0.2.100:3142-cmd:")
    assert lead.endswith(" - TCP:127.0.0.1:41001")


def test_autoinstall_is_told_on_a_disk(installed, make_disk):
    act = INSTALLS.format(disk=str(make_disk(SYSTEM)))
    _, words, files, _ = installed(act, installer="autoinstall")
    assert files["-initrd"] == "initrd", "its first file system is as it was"
    media = [word for word in words if "media=cdrom" in word or word.endswith(".iso")]
    assert len(media) == 2, f"the ISO, and the answers: {words}"


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"etc/os-release": "ID=debian\n"}, "left no kernel in /boot, but nothing"),
        ({"boot/grub": "half\n"}, "left no kernel in /boot, but grub"),
    ],
)
def test_half_a_system_is_none(files, problem, installed, make_disk):
    with pytest.raises(CommandError, match=problem) as caught:
        installed(INSTALLS.format(disk=str(make_disk(files))))
    assert "       Installing the system" in caught.value.message
    assert caught.value.log.name == "console.log"


def test_an_installer_that_is_off_at_once_left_nothing(installed):
    with pytest.raises(CommandError, match="left no ext4 root file system on the disk"):
        installed("")


def test_an_installer_that_waits_at_a_question(installed, alive, tmp_path):
    with pytest.raises(CommandError, match="did not come to its end within") as caught:
        installed(WAITS, timeout=8)
    assert caught.value.message.endswith("       one\n       Installing the system")
    assert "source.iso.timeout" in caught.value.hint
    assert not alive(str(tmp_path / "staged/packer")), "the VM is gone"


def test_a_proxy_that_stays_is_told(installed, make_disk):
    left = {**SYSTEM, "etc/apt/apt.conf": 'Acquire::http::Proxy "http://10.0.2.100:3142";\n'}
    _, _, _, warnings = installed(INSTALLS.format(disk=str(make_disk(left))))
    (warning,) = warnings
    assert "/etc/apt/apt.conf" in warning


def test_what_packer_refuses_is_not_the_installers_fault(installed):
    with pytest.raises(CommandError) as caught:
        installed("sys.exit(1)")
    assert "did not come to its end" not in caught.value.message


def test_a_file_that_the_iso_does_not_have(medium, tmp_path):
    with pytest.raises(StoreError, match="the ISO has no file /casper/vmlinuz") as caught:
        iso.extract(medium, "casper/vmlinuz", tmp_path / "kernel")
    assert "source.iso.kernel" in caught.value.hint


def test_a_host_without_xorriso(medium, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError):
        iso.extract(medium, "/boot/linux", tmp_path / "kernel")
