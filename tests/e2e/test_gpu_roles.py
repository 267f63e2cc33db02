"""The roles for GPU hosts that the reference pipeline does not use, on a machine without a GPU.

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
DRIVER = """
- name: Install what stands for the driver
  ansible.builtin.apt:
    name: libcuda1
"""
AUDITD = "1:4.0.2-2+deb13u1"
# In the order of a pipeline: base, drivers, final.
LISTED = f"""
  - role: rdma
    variables: {{rdma_version: 56.1-1, rdma_extra_packages: [perftest]}}
  - role: cis_baseline
    variables: {{cis_baseline_auditd_version: "{AUDITD}"}}
  - role: apt_repository
    variables:
      apt_repository_name: nvidia
      apt_repository_uris: ["file:/srv/archive"]
      apt_repository_suites: [./]
      apt_repository_keyring: nvidia.asc
      apt_repository_pins: [{{packages: nvidia-kernel-*, priority: -1}}]
  - stands_for_driver
  - role: nccl
    variables:
      nccl_version: {FAKE.NCCL}
      nccl_cuda_major: 12
      nccl_settings: {{NCCL_DEBUG: WARN}}
  - role: cudnn
    variables: {{cudnn_version: {FAKE.CUDNN}, cudnn_cuda_major: 12}}
  - role: dcgm
    variables:
      dcgm_version: "{FAKE.DCGM}"
      dcgm_cuda_major: 12
      dcgm_exporter_version: {FAKE.EXPORTER}
  - role: fabric_manager
    variables:
      fabric_manager_platform: nvswitch
      fabric_manager_version: {FAKE.FABRIC}
      fabric_manager_suffix: "-550"
  - role: nvidia_container_toolkit
    variables:
      nvidia_container_toolkit_version: {FAKE.TOOLKIT}
      nvidia_container_toolkit_runtimes: [podman]
  - role: node_exporter
    variables: {{node_exporter_version: 1.9.0-1+b4}}
  - role: secure_boot
    variables:
      secure_boot_certificate: modules.der
      secure_boot_key: KEY
      secure_boot_folders: [kernel/fs/isofs]
  - role: mig
    variables:
      mig_configs: {{whole: [{{devices: all, mig-enabled: false}}]}}
      mig_selected: whole
  - role: kernel_cmdline
    variables: {{kernel_cmdline_parameters: [iommu=pt, audit=1]}}
"""
WRONG = """---
parent: gpu
roles:
  - role: fabric_manager
    variables:
      fabric_manager_platform: nvswitch
      fabric_manager_version: 550.90.07-1
      fabric_manager_suffix: "-550"
"""
USED = (
    "apt_lists", "apt_repository", "cis_baseline", "cudnn", "dcgm", "fabric_manager",
    "boot_kernel", "kernel_cmdline", "mig", "nccl", "node_exporter", "nvidia_container_toolkit",
    "rdma", "secure_boot",
)  # fmt: skip


@pytest.fixture
def gpu(copy, tmp_path, require_program):
    """The trimmed project with a stage of all these roles, and one that runs them again."""
    for program in ("dpkg-deb", "gpg", "gpgconf", "openssl"):
        require_program(program)
    for role in USED:
        shutil.copytree(ROLES / role, copy.project / "ansible/roles" / role)
    stands = copy.project / "ansible/roles/stands_for_driver/tasks"
    stands.mkdir(parents=True)
    (stands / "main.yml").write_text(f"---{DRIVER}")
    (stands.parent / "meta").mkdir()
    (stands.parent / "meta/argument_specs.yml").write_text(
        "argument_specs: {main: {short_description: Stands for the driver, options: {}}}\n"
    )
    archive, key = FAKE.make(tmp_path / "archive", tmp_path / "gnupg")
    certificate, secret = tmp_path / "modules.der", tmp_path / "modules.key"
    command = ["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=Test modules", "-keyout", secret, "-outform", "der"]
    subprocess.run([*command, "-out", certificate], check=True, capture_output=True)
    first = "\n  - role: fake_archive\n    variables: {fake_archive_tar: archive.tar}"
    stages = {"gpu": ("base", first + LISTED), "again": ("gpu", LISTED)}
    for name, (parent, roles) in stages.items():
        folder = copy.project / "stages" / name
        folder.mkdir()
        text = f"---\nparent: {parent}\nroles:{roles}".replace("KEY", str(secret))
        (folder / "stage.yml").write_text(text)
        shutil.copy(key, folder)
        shutil.copy(certificate, folder)
    shutil.copy(archive, copy.project / "stages/gpu")
    (copy.project / "stages/wrong").mkdir()
    (copy.project / "stages/wrong/stage.yml").write_text(WRONG)
    copy.edit(
        "stages/pipeline.yml", "stages: [base, final]", "stages: [base, gpu, again, wrong, final]"
    )
    return copy


def test_roles_install_hold_and_enable_and_change_nothing_the_second_time(gpu, tmp_path):
    """Each role's own checks say whether it did what it is for; they run with the stage."""
    gpu("stage", "again", "--engine", "nspawn")
    record = gpu("show", "again", "--engine", "nspawn", "--json").json
    assert {role["role"]: role["changed"] for role in record["roles"] if role["changed"]} == {}
    outcomes: dict[str, set[str]] = {}
    for check in record["verdict"]["results"]:
        outcomes.setdefault(check["name"].partition("/")[0], set()).add(check["outcome"])
    assert {name for name in USED if "passed" in outcomes.get(name, ())} == {*USED} - {
        "apt_lists",
        "boot_kernel",
    }

    # The key that signed modules is in nothing that the builds left: no image, log, key or record.
    line = (tmp_path / "modules.key").read_bytes().splitlines()[5]
    left = [path for path in gpu.var.rglob("*") if path.is_file()]
    assert [path for path in left if line in path.read_bytes()] == []

    said = gpu("stage", "wrong", "--engine", "nspawn", status=1).stderr
    assert "fabric_manager_version is 550.90.07-1, the driver in the image is 550.163.01" in said
