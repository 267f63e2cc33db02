"""What is packed for a container is enough for a program: seen by running one in it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from builder import gpu

pytestmark = pytest.mark.integration

# Found by what the program's own modules import.
sys.path.insert(0, str(Path(__file__).parents[2] / gpu.PROGRAM))

from gpu_check import rootfs  # noqa: E402 - see above
from gpu_check.host import Host  # noqa: E402

SOURCE = "#include <math.h>\n#include <stdio.h>\nint main(int n, char **a)\n"
SOURCE += '{ return printf("GPU %g: %s\\n", floor(sqrt(n)), a[1]) < 0; }\n'


@pytest.fixture
def smi(tmp_path, require_program, monkeypatch):
    """A program of the name, linked with the library of mathematics as nvidia-smi is."""
    (tmp_path / "smi.c").write_text(SOURCE)
    path = tmp_path / "bin/nvidia-smi"
    path.parent.mkdir()
    argv = [require_program("gcc"), "-O0", "-o", path, tmp_path / "smi.c", "-lm"]
    subprocess.run(argv, check=True)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def test_a_program_runs_with_nothing_else(smi, tmp_path, require_root):
    require_root()
    root = tmp_path / "root"
    with tarfile.open(fileobj=io.BytesIO(rootfs.packed(Host(), "nvidia-smi"))) as archive:
        archive.extractall(root, filter="data")
    # As CDI puts it there.
    (root / "usr/bin/nvidia-smi").write_bytes(smi.read_bytes())
    (root / "usr/bin/nvidia-smi").chmod(0o755)
    argv = ["chroot", root, "nvidia-smi", "-L"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert said == "GPU 1: -L\n"
    assert (root / "etc/ld.so.conf").read_text() == "include /etc/ld.so.conf.d/*.conf\n"


def test_of_a_program_that_is_linked_with_nothing_nobody_knows_what_it_needs(smi):
    smi.write_text("#!/bin/sh\n")
    with pytest.raises(OSError, match="ldd does not tell what nvidia-smi needs"):
        rootfs.packed(Host(), "nvidia-smi")
