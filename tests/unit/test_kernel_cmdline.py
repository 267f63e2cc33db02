"""Parameters on the command lines of GRUB's menu: added, replaced, and added once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "ansible/roles/kernel_cmdline/files/cmdline.py"
MENU = """\
set default=0
# linux is what the lines below start with
menuentry "Linux 6.12" {
    linux /boot/vmlinuz-6.12 root=LABEL=root ro console=tty0 console=ttyS0,115200
    initrd /boot/initrd.img-6.12
}
menuentry 'Ubuntu' {
\tlinux\t/vmlinuz-6.8 root=UUID=1 ro  quiet iommu=off
}
"""


@pytest.fixture
def edit(tmp_path):
    """Call it with parameters: edits the menu, returns what it printed and what the menu says."""
    menu = tmp_path / "grub.cfg"
    menu.write_text(MENU)
    menu.chmod(0o600)

    def run(*parameters):
        argv = [sys.executable, "-", str(menu), *parameters]
        done = subprocess.run(
            argv, input=PROGRAM.read_text(), capture_output=True, text=True, check=True
        )
        assert menu.stat().st_mode & 0o777 == 0o600
        assert list(tmp_path.iterdir()) == [menu]
        return done.stdout.splitlines(), menu.read_text().splitlines()

    return run


def test_every_entry_gets_them(edit):
    said, menu = edit("iommu=pt", "nosmt")
    assert menu[3] == (
        "    linux /boot/vmlinuz-6.12 root=LABEL=root ro console=tty0 console=ttyS0,115200"
        " iommu=pt nosmt"
    )
    assert menu[7] == "\tlinux\t/vmlinuz-6.8 root=UUID=1 ro quiet iommu=pt nosmt"
    assert said == [menu[3], menu[7]]


def test_everything_else_stays(edit):
    _, menu = edit("iommu=pt")
    before = MENU.splitlines()
    assert [at for at, line in enumerate(menu) if line != before[at]] == [3, 7]


def test_a_second_run_changes_nothing(edit):
    _, menu = edit("iommu=pt", "nosmt")
    assert edit("iommu=pt", "nosmt") == ([], menu)


def test_a_name_is_replaced_and_not_repeated(edit):
    edit("iommu=pt")
    _, menu = edit("iommu=soft")
    assert menu[3].endswith(" iommu=soft")
    assert menu[3].count("iommu=") == 1


def test_several_of_one_name_stay_together(edit):
    _, menu = edit("console=tty1", "console=hvc0")
    assert menu[3].endswith(" root=LABEL=root ro console=tty1 console=hvc0")
    assert edit("console=tty1", "console=hvc0") == ([], menu)
