"""The driver's kernel module is compiled once for a kernel, and carried into the images after it.

DKMS is Debian's; what it compiles is not: a program that takes a moment stands for the compiler.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
FAKE = SimpleNamespace(**runpy.run_path(str(HERE / "fake_packages.py")))
ROLES = HERE.parents[1] / "ansible/roles"
# What runs again on what it made, and must change nothing.
AGAIN = ("nvidia_driver",)
SOURCE = f"usr/src/nvidia-current-{FAKE.DRIVER}"
DKMS = f"""
PACKAGE_NAME=nvidia-current
PACKAGE_VERSION={FAKE.DRIVER}
AUTOINSTALL=yes
MAKE[0]="python3 build.py ${{kernelver}}"
CLEAN=true
""" + "".join(
    f"""
BUILT_MODULE_NAME[{number}]=nvidia{part}
DEST_MODULE_NAME[{number}]=nvidia-current{part}
DEST_MODULE_LOCATION[{number}]=/updates/dkms
STRIP[{number}]=no
"""
    for number, part in enumerate(("", "-uvm", "-modeset"))
)
POSTINST = f"""#!/bin/sh
set -e
/usr/lib/dkms/common.postinst nvidia-current {FAKE.DRIVER} /usr/share/none '' "$2"
"""
HEADERS = """---
- name: Trust the archive
  ansible.builtin.copy:
    content: "deb [trusted=yes] file:/srv/archive ./"
    dest: /etc/apt/sources.list.d/local.list

- name: Install what modules are compiled with
  ansible.builtin.apt:
    name: linux-headers-KERNEL
    update_cache: true
"""
VARIABLES = f"""variables:
  fake_archive_tar: archive.tar
  nvidia_driver_version: {FAKE.DRIVER}-2
  nvidia_driver_packages: []
"""


@pytest.fixture
def driver(copy, tmp_path, require_program):
    """The trimmed project with a stage that installs a driver; and the kernel that boots there."""
    for program in ("dpkg-deb", "gpg", "gpgconf"):
        require_program(program)
    record = json.loads((copy.var / "images" / copy.keys()["base"] / "record.json").read_text())
    (kernel,) = [
        found[1]
        for name in record["packages"]["dpkg"]
        if (found := re.fullmatch(r"linux-image-(\d.*)", name))
    ]
    build = f"usr/lib/modules/{kernel}/build"
    archive, _ = FAKE.make(
        tmp_path / "archive",
        tmp_path / "gnupg",
        {
            (f"linux-headers-{kernel}", "1"): {
                f"{build}/Makefile": "", f"{build}/include/none.h": "", f"{build}/.config": "",
            },
            ("nvidia-kernel-dkms", f"{FAKE.DRIVER}-2"): {
                "Depends": "dkms",
                f"{SOURCE}/dkms.conf": DKMS,
                f"{SOURCE}/build.py": (HERE / "kernel_module.py").read_text(),
                "postinst": POSTINST,
            },
        },
    )  # fmt: skip
    for role in ("apt_lists", "boot_kernel", "nvidia_driver"):
        shutil.copytree(ROLES / role, copy.project / "ansible/roles" / role)
    copy.add_role("headers", tasks=HEADERS.replace("KERNEL", kernel))
    copy.add_stage(
        "driver", "base", ("fake_archive", "headers", "nvidia_driver"), VARIABLES, [archive]
    )
    copy.edit(
        "stages/pipeline.yml", "stages: [base, final]", "stages: [base, final, driver, again]"
    )
    variables = VARIABLES.replace("  fake_archive_tar: archive.tar\n", "")
    copy.add_stage("again", "driver", AGAIN, variables, [])
    return copy, kernel


def test_a_module_is_compiled_once_for_a_kernel_and_a_driver(driver):
    vaultbuild, kernel = driver
    vaultbuild("stage", "driver", "--engine", "nspawn")
    first = installed(vaultbuild, kernel)
    (kept,) = (vaultbuild.var / "modules").iterdir()
    assert kept.name.startswith(f"nvidia-current-{FAKE.DRIVER}-{kernel}-")

    vaultbuild("stage", "driver", "--engine", "nspawn", "--force")
    assert installed(vaultbuild, kernel) == first

    before = kept.read_bytes()
    change_a_byte(kept)
    vaultbuild("stage", "driver", "--engine", "nspawn", "--force")
    assert installed(vaultbuild, kernel) != first
    assert len(kept.read_bytes()) == len(before)
    assert kept.read_bytes() != before


def test_the_role_changes_nothing_the_second_time(driver):
    vaultbuild, _ = driver
    vaultbuild("stage", "again", "--engine", "nspawn")
    record = vaultbuild("show", "again", "--engine", "nspawn", "--json").json
    assert [(role["role"], role["changed"]) for role in record["roles"]] == [(*AGAIN, 0)]


def change_a_byte(archive):
    """Change what a module of an archive holds, and nothing else of it."""
    with tarfile.open(archive) as tar:
        (place,) = [one.offset_data for one in tar if "/nvidia-current.ko" in one.name]
    with archive.open("r+b") as file:
        file.seek(place + 100)
        byte = file.read(1)[0]
        file.seek(place + 100)
        file.write(bytes([byte ^ 1]))


def installed(vaultbuild, kernel):
    """Which run of the compiler the module is from that the kernel would load."""
    asked = f"dkms status; ls /etc/dkms; modinfo -k {kernel} -F srcversion nvidia-current"
    said = vaultbuild.enter("driver", asked).stdout
    assert f"nvidia-current/{FAKE.DRIVER}, {kernel}, x86_64: installed" in said
    assert "no-autoinstall" not in said
    (found,) = set(re.findall(r"BUILT[0-9A-F]{8}", said))
    return found
