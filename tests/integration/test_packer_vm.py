"""The templates of a VM, by both lines of Packer: accepted, started, and gone when it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder import process
from builder.errors import HostError
from builder.template import NEUTRAL, TemplateContext, render

if TYPE_CHECKING:
    from builder.packer import Packer

pytestmark = pytest.mark.integration

TEMPLATES = Path(__file__).parents[2] / "packer"


@pytest.fixture
def machine(packer, tmp_path, require_program):
    """A context for the qemu builder whose files exist; nothing on its disk boots."""
    packer.require_plugins("qemu")
    parent = tmp_path / "parent.qcow2"
    process.run([require_program("qemu-img"), "create", "-q", "-f", "qcow2", parent, "64M"])
    process.run([require_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f",
                 tmp_path / "key"])  # fmt: skip
    require_program("qemu-system-x86_64")
    for name in ("user-data", "meta-data", "some.iso", "kernel", "initrd"):
        (tmp_path / name).write_text(f"{name}\n")
    here = replace(
        NEUTRAL,
        private_key=tmp_path / "key",
        public_key=(tmp_path / "key.pub").read_text(),
        callback=["true"],
        accelerator="tcg",
        memory_mib=256,
        parent_disk=parent,
        backing=str(parent),
        disk_bytes=64 << 20,
        output_folder=tmp_path / "output",
        console_log=tmp_path / "console.log",
        qmp_socket=tmp_path / "qmp.sock",
        seed_files=[tmp_path / "user-data", tmp_path / "meta-data"],
        iso_file=tmp_path / "some.iso",
        kernel_file=tmp_path / "kernel",
        initrd_file=tmp_path / "initrd",
        forwards={3142: "127.0.0.1:41001"},
        ssh_timeout="4s",
    )
    return TemplateContext(line=packer.line, engine="qemu", stage="base", circumstance=here)


def _written(folder: Path, context: TemplateContext) -> Path:
    name = "iso" if context.iso else "stage"
    text = render(TEMPLATES / f"{name}.pkr.hcl.j2", context, search=[TEMPLATES])
    (folder / "stage.pkr.hcl").write_text(text)
    return folder / "stage.pkr.hcl"


def _plainly(packer: Packer, rendered: Path, *words: str) -> tuple[int, str]:
    """Run a command of Packer on a template as a build of ours does; return how it ended."""
    folder, log = rendered.parent, rendered.with_name("packer.log")
    argv, env = [packer.program, *words, rendered.name], packer._environment(folder)
    with process.start(argv, log=log, cwd=folder, env=env, contained=True) as child:
        return child.wait(300), log.read_text()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"network": "open"},
        {"seeded": True, "user": "debian"},
    ],
    ids=["stage", "open", "seeded"],
)
def test_packer_takes_the_templates_of_a_vm(change, packer, machine, tmp_path):
    status, said = _plainly(packer, _written(tmp_path, replace(machine, **change)), "validate")
    assert status == 0, said


@pytest.mark.parametrize("installer", ["preseed", "autoinstall"])
def test_packer_takes_the_templates_of_an_installation(installer, packer, machine, tmp_path):
    context = machine.installing({"installer": installer, "cmdline": "quiet --- console=ttyS0"})
    status, said = _plainly(packer, _written(tmp_path, context), "validate")
    assert status == 0, said


def test_a_vm_that_does_not_boot(packer, machine, alive, tmp_path):
    """The VM starts, on an overlay of the parent, reachable from this host alone; then it ends."""
    # As a build of ours, but that the disk stays, to be looked at.
    status, said = _plainly(packer, _written(tmp_path, machine), "build", "-on-error=abort")
    assert status == 1
    assert "Timeout waiting for SSH" in said
    assert "Overriding default Qemu arguments" in said
    info = json.loads(
        process.run(["qemu-img", "info", "--output=json", tmp_path / "output/disk.qcow2"]).stdout
    )
    assert info["virtual-size"] == 64 << 20
    assert info["full-backing-filename"] == str(tmp_path / "parent.qcow2")
    assert not alive(str(tmp_path / "qmp.sock"))


def test_a_missing_plugin_is_the_hosts_lack(packer, machine, tmp_path):
    if packer.line == "1.6":
        pytest.skip("Packer 1.6 has no plugins")
    without = replace(packer, plugins=tmp_path / "none")
    with pytest.raises(HostError, match="has no qemu plugin"):
        without.build(_written(tmp_path, machine), work=tmp_path, log=tmp_path / "packer.log")
