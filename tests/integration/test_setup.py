"""What ``make image`` says on a system that cannot give it what it needs.

The set-up itself is tried in a fresh root, not here: it would change this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# All that the script needs before it can say what is missing.
_BASIC = ("awk", "bash", "cat", "dirname", "env", "grep", "id", "python3")
pytestmark = pytest.mark.integration


@pytest.fixture
def system(tmp_path):
    """Run the set-up where PATH holds the basic programs and what is given."""

    def run(programs: dict[str, str]) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in _BASIC:
            (folder / name).symlink_to(shutil.which(name) or name)
        for name, script in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return subprocess.run(
            [folder / "bash", ROOT / "tools/setup.sh", "image"],
            env={"PATH": str(folder), "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


_APT_CACHE = """
case $2 in
    packer) echo "  Candidate: (none)" ;;
    *) echo "  Candidate: 1.0" ;;
esac
"""


def test_no_packer_prints_the_lines_that_install_it(system):
    done = system(
        {
            "sudo": 'shift; exec "$@"',
            "apt-get": 'test "$1" = update',
            "apt-cache": _APT_CACHE,
        }
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert "has no Packer" in done.stderr
    page = (ROOT / "docs/install-packer.md").read_text()
    lines = page.split("```")[1].splitlines()[1:]
    assert [line for line in done.stderr.splitlines() if line.startswith("    ")] == [
        f"    {line}" for line in lines
    ]


def test_no_apt_names_all_that_is_missing(system):
    done = system({})
    assert done.returncode == 3
    assert "no apt" in done.stderr
    assert "packer qemu-system-x86_64" in done.stderr
    assert "docs/install-packer.md" in done.stderr
