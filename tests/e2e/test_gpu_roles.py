"""The roles for GPU hosts that tests of stages do not run, on a machine without a GPU.

What Debian has comes from Debian. What NVIDIA's archive has comes from an archive on the machine's
own disk, of packages with the same names, versions, files and units.
"""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.e2e

FAKE = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fake_packages.py"))))
ROLES = Path(__file__).parents[2] / "ansible/roles"
# In the order of a pipeline: what base has, then drivers, then final.
USED = (
    "rdma", "cis_baseline", "apt_repository", "stands_for_driver", "nccl", "cudnn", "dcgm",
    "fabric_manager", "nvidia_container_toolkit", "node_exporter", "secure_boot", "mig",
    "kernel_cmdline",
)  # fmt: skip
# Of the reference's own stages; their checks are those stages', which are not here.
PLAIN = (
    "nouveau_blacklist", "tuning", "monitoring", "model_cache", "first_boot_gpu_check",
    "machine_docs",
)  # fmt: skip
NEEDED = ("apt_lists", "boot_kernel")
VARIABLES = f"""
  rdma_version: 56.1-1
  rdma_extra_packages: [perftest]
  cis_baseline_auditd_version: 1:4.0.2-2+deb13u1
  apt_repository_name: nvidia
  apt_repository_uris: ["file:/srv/archive"]
  apt_repository_suites: [./]
  apt_repository_keyring: nvidia.asc
  apt_repository_pins: [{{packages: nvidia-kernel-*, priority: -1}}]
  nccl_version: {FAKE.NCCL}
  nccl_cuda_major: 12
  nccl_settings: {{NCCL_DEBUG: WARN}}
  cudnn_version: {FAKE.CUDNN}
  cudnn_cuda_major: 12
  dcgm_version: {FAKE.DCGM}
  dcgm_cuda_major: 12
  dcgm_exporter_version: {FAKE.EXPORTER}
  fabric_manager_platform: nvswitch
  fabric_manager_version: {FAKE.FABRIC}
  fabric_manager_suffix: "-550"
  nvidia_container_toolkit_version: {FAKE.TOOLKIT}
  nvidia_container_toolkit_runtimes: [podman]
  node_exporter_version: 1.9.0-1+b4
  secure_boot_certificate: modules.der
  secure_boot_key: KEY
  # Debian signed it: its signature has to give way.
  secure_boot_folders: [kernel/fs/isofs]
  mig_configs: {{whole: [{{devices: all, mig-enabled: false}}]}}
  mig_selected: whole
  kernel_cmdline_parameters: [iommu=pt, audit=1]
"""
WRONG = """---
parent: gpu
roles: [fabric_manager]
variables:
  fabric_manager_platform: nvswitch
  fabric_manager_version: 550.90.07-1
  fabric_manager_suffix: "-550"
"""
DRIVER = """---
- name: Install what stands for the driver
  ansible.builtin.apt:
    name: libcuda1
"""


@pytest.fixture
def secret(tmp_path, require_program):
    """A key that signs modules; its certificate is beside it."""
    command = [require_program("openssl"), "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=Test modules", "-keyout", tmp_path / "modules.key"]
    command += ["-outform", "der", "-out", tmp_path / "modules.der"]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path / "modules.key"


@pytest.fixture
def gpu(copy, tmp_path, secret, require_program):
    """The trimmed project, with a stage of these roles, and one that runs all of them as one."""
    for program in ("dpkg-deb", "gpg", "gpgconf"):
        require_program(program)
    for role in {*USED, *PLAIN, *NEEDED} - {"stands_for_driver"}:
        shutil.copytree(ROLES / role, copy.project / "ansible/roles" / role)
    copy.add_role("stands_for_driver", tasks=DRIVER)
    # One start of Ansible for all of them, where nobody asks which role did what.
    copy.add_role("everything", meta=f"dependencies: [{', '.join(USED + PLAIN)}]\n")
    archive, key = FAKE.make(tmp_path / "archive", tmp_path / "gnupg")
    variables = f"variables:{VARIABLES}".replace("KEY", str(secret))
    given = (key, secret.with_suffix(".der"))
    first = f"{variables}  fake_archive_tar: archive.tar\n"
    copy.add_stage("gpu", "base", ("fake_archive", *USED, *PLAIN), first, (*given, archive))
    copy.add_stage("again", "gpu", ("everything",), variables, given)
    (copy.project / "stages/wrong").mkdir()
    (copy.project / "stages/wrong/stage.yml").write_text(WRONG)
    stages = "stages: [base, final, gpu, again, wrong]"
    copy.edit("stages/pipeline.yml", "stages: [base, final]", stages)
    return copy


def test_roles_install_hold_and_enable_and_change_nothing_the_second_time(gpu, secret):
    """Each role's own checks say whether it did what it is for; they run with the stage."""
    gpu("stage", "again", "--engine", "nspawn")
    record = gpu("show", "again", "--engine", "nspawn", "--json").json
    assert [(role["role"], role["changed"]) for role in record["roles"]] == [("everything", 0)]
    results = record["verdict"]["results"]
    passed = {one["name"].partition("/")[0] for one in results if one["outcome"] == "passed"}
    assert {*USED} - passed == {"stands_for_driver"}

    # The key that signed modules is in nothing that the builds left: no image, log, key or record.
    line = secret.read_bytes().splitlines()[5]
    left = [path for path in gpu.var.rglob("*") if path.is_file()]
    assert [path for path in left if line in path.read_bytes()] == []

    said = gpu("stage", "wrong", "--engine", "nspawn", status=1).stderr
    assert "fabric_manager_version is 550.90.07-1, the driver in the image is 550.163.01" in said
