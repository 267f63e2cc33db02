"""The roles that install what other tests leave out run a second time, and change nothing.

Docker, containerd and podman are Debian's, the Python environment is of a wheel of the reference's
lock. The driver, CUDA's libraries and the headers of the kernel are packages made for the test, of
the same names; what DKMS compiles is a program's that takes a moment.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAKE = SimpleNamespace(**runpy.run_path(str(HERE / "fake_packages.py")))
# What runs again on what it made, and must change nothing.
AGAIN = (
    "kernel_pin", "container_runtime", "podman", "cuda_runtime", "nvidia", "nvidia_persistenced",
    "python_frameworks",
)  # fmt: skip
NEEDED = ("apt_lists", "boot_kernel")
CUDA, PERSISTENCED = "12.4.127~12.4.1-2", f"{FAKE.DRIVER}-1"
SERIES = "550-server"
SOURCE = f"usr/src/nvidia-{FAKE.DRIVER}"
DKMS = f"""
PACKAGE_NAME=nvidia
PACKAGE_VERSION={FAKE.DRIVER}
AUTOINSTALL=yes
MAKE[0]="python3 build.py ${{kernelver}}"
CLEAN=true
""" + "".join(
    f"BUILT_MODULE_NAME[{number}]=nvidia{part}\nDEST_MODULE_LOCATION[{number}]=/updates/dkms\n"
    f"STRIP[{number}]=no\n"
    for number, part in enumerate(("", "-uvm", "-modeset"))
)
POSTINST = f"""#!/bin/sh
set -e
/usr/lib/dkms/common.postinst nvidia {FAKE.DRIVER} /usr/share/none '' "$2"
"""
# The kernel is Debian's own, and so is the version of its headers; these ones are to be taken.
TRUST = """---
- name: Trust the archive
  ansible.builtin.copy:
    content: "deb [trusted=yes] file:/srv/archive ./"
    dest: /etc/apt/sources.list.d/local.list

- name: Take from it what it has
  ansible.builtin.copy:
    content: "Package: *\\nPin: release o=Test\\nPin-Priority: 1001\\n"
    dest: /etc/apt/preferences.d/local
"""
VARIABLES = f"""variables:
  kernel_pin_release: KERNEL
  kernel_pin_version: VERSION
  cuda_runtime_version: {CUDA}
  cuda_runtime_packages: [libcudart12, libnvrtc12]
  nvidia_driver_version: {FAKE.DRIVER}-2
  nvidia_driver_series: {SERIES}
  nvidia_driver_packages: [libnvidia-compute-{SERIES}]
  nvidia_persistenced_version: {PERSISTENCED}
  python_frameworks_requirements: small.lock
"""


def packages(kernel: str, version: str) -> dict[tuple[str, str], dict[str, str | bytes]]:
    """Name and version of what the archive has: its files."""
    build = f"usr/lib/modules/{kernel}/build"
    driver = f"{FAKE.DRIVER}-2"
    return {
        (f"linux-headers-{kernel}", version): {
            f"{build}/Makefile": "", f"{build}/include/none.h": "", f"{build}/.config": "",
        },
        ("libcudart12", CUDA): {f"{FAKE.LIBRARIES}/libcudart.so.12.4.127": "runtime"},
        ("libnvrtc12", CUDA): {f"{FAKE.LIBRARIES}/libnvrtc.so.12.4.127": "compiler"},
        (f"libnvidia-compute-{SERIES}", driver): {"usr/share/doc/libnvidia-compute/none": ""},
        (f"nvidia-kernel-source-{SERIES}", driver): {
            f"{SOURCE}/dkms.conf": DKMS,
            f"{SOURCE}/build.py": (HERE / "kernel_module.py").read_text(),
        },
        (f"nvidia-dkms-{SERIES}", driver): {
            "Depends": f"dkms, nvidia-kernel-source-{SERIES}",
            "usr/share/doc/nvidia-dkms/none": "",
            "postinst": POSTINST,
        },
        ("nvidia-persistenced", PERSISTENCED): {
            "usr/bin/nvidia-persistenced": FAKE.FAILS,
            f"{FAKE.UNITS}/nvidia-persistenced.service": FAKE.service(
                "/usr/bin/nvidia-persistenced"
            ),
        },
    }  # fmt: skip


@pytest.fixture
def boots(copy) -> tuple[str, str]:
    """The kernel that boots in the trimmed project: its release and its version."""
    record = json.loads((copy.var / "images" / copy.keys()["base"] / "record.json").read_text())
    (kernel,) = [
        (found[1], version)
        for name, version in record["packages"]["dpkg"].items()
        if (found := re.fullmatch(r"linux-image-(\d.*)", name))
    ]
    return kernel


@pytest.fixture
def twice(copy, boots, tmp_path, require_program):
    """The trimmed project with a stage of these roles, and one that runs all of them again."""
    for program in ("dpkg-deb", "gpg", "gpgconf"):
        require_program(program)
    for role in (*AGAIN, *NEEDED):
        shutil.copytree(ROOT / "ansible/roles" / role, copy.project / "ansible/roles" / role)
    copy.add_role("trusted", tasks=TRUST)
    archive, _ = FAKE.make(tmp_path / "archive", tmp_path / "gnupg", packages(*boots))
    lock = tmp_path / "small.lock"
    lock.write_text(smallest((ROOT / "stages/frameworks/requirements.lock").read_text()))
    kernel, version = boots
    variables = VARIABLES.replace("KERNEL", kernel).replace("VERSION", version)
    first = f"{variables}  fake_archive_tar: archive.tar\n"
    copy.add_stage("once", "base", ("fake_archive", "trusted", *AGAIN), first, [archive, lock])
    copy.add_stage("again", "once", AGAIN, variables, [lock])
    copy.edit("stages/pipeline.yml", "stages: [base, final]", "stages: [base, final, once, again]")
    return copy


def smallest(lock: str) -> str:
    """The part of a lock that is about its first package, which needs no other."""
    lines = lock.splitlines(keepends=True)
    starts = [at for at, line in enumerate(lines) if "==" in line]
    return "".join(lines[: starts[1]])


def test_roles_change_nothing_the_second_time(twice):
    twice("stage", "again", "--engine", "nspawn")
    before = twice("show", "once", "--engine", "nspawn", "--json").json["roles"]
    assert {role["role"] for role in before if role["changed"]} >= set(AGAIN)
    after = twice("show", "again", "--engine", "nspawn", "--json").json["roles"]
    assert [(role["role"], role["changed"]) for role in after] == [(role, 0) for role in AGAIN]
