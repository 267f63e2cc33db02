"""From a cloud image to a release, all of it in virtual machines, as without root.

The cloud image is our own: the trimmed base with cloud-init in it, served on the loopback.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from builder import disks

pytestmark = pytest.mark.e2e

CHECK = """

def test_cloud_init_was_told(host):
    assert host.file("/etc/told").content_string.strip() == "by cloud-init"
"""

FAILING = """
- name: Fail on purpose
  ansible.builtin.command: "false"
  changed_when: false
"""


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def served(built, duplicate, workshop):
    """A cloud image and where it is served: its URL and its checksum."""
    folder = workshop / "served"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    project = duplicate(built, workshop / "cloud")
    project.edit("stages/base/stage.yml", "ssh_baseline", "ssh_baseline, cloud_init, seal")
    disk = project("stage", "base", "--engine", "nspawn").stdout.strip()
    image = folder / "cloud.qcow2"
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", disk, image], check=True)
    shutil.rmtree(project.project)
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/cloud.qcow2"
        yield url, hashlib.sha256(image.read_bytes()).hexdigest()
        server.shutdown()
        thread.join()
    shutil.rmtree(folder)


def from_cloud(vaultbuild, url: str, sha256: str) -> None:
    """Let a copy of the trimmed project start from a cloud image, in one stage."""
    image = {
        "url": url,
        "sha256": sha256,
        "seed": {
            "user_data": {"write_files": [{"path": "/etc/told", "content": "by cloud-init\n"}]}
        },
    }
    variant = {"description": "a cloud image of our own", "source": {"cloud_image": image}}
    pipeline = vaultbuild.project / "stages/pipeline.yml"
    kept = [line for line in pipeline.read_text().splitlines() if line.startswith("caches:")]
    head = 'schema: 1\nname: trimmed\nversion: "1.0.0"\nvariant: cloud\nstages: [final]'
    size = "resources: {cpus: 2, memory: 1G, disk: 3G}"
    variants = f"variants: {json.dumps({'cloud': variant})}"
    pipeline.write_text("\n".join([head, size, *kept, variants]) + "\n")
    vaultbuild.edit("stages/final/stage.yml", "parent: base\n", "")
    shutil.rmtree(vaultbuild.project / "stages/base")


# --- a cloud image --------------------------------------------------------------------------------


def test_a_cloud_image_is_fetched_once_and_built_on(copy, served):
    url, sha256 = served
    from_cloud(copy, url, sha256)
    copy("stage", "final", "--engine", "nspawn")
    (fetched,) = (copy.var / "isos" / sha256).glob("*.qcow2")
    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == sha256
    assert copy.plan() == {"final": "reuse"}


def test_a_wrong_checksum_keeps_nothing(copy, served):
    url, sha256 = served
    from_cloud(copy, url, "0" * 64)
    before = copy.images()
    said = copy("stage", "final", "--engine", "nspawn", status=1).stderr
    assert said.count("error: ") == 1
    assert sha256 in said
    assert "0" * 64 in said
    assert "source.cloud_image.sha256" in said
    assert copy.images() == before
    assert not [path for path in (copy.var / "isos").rglob("*") if path.is_file()]


def test_an_image_that_is_not_there(copy, served):
    url, sha256 = served
    from_cloud(copy, f"{url}.gone", sha256)
    said = copy("stage", "final", "--engine", "nspawn", status=1).stderr
    assert said.count("error: ") == 1
    assert "404" in said
    assert "source.cloud_image.url" in said


def test_a_disk_that_is_too_small(copy, served):
    url, sha256 = served
    from_cloud(copy, url, sha256)
    copy.edit("stages/pipeline.yml", "disk: 3G", "disk: 2G")
    before = copy.images()
    said = copy("stage", "final", "--engine", "nspawn", status=1).stderr
    assert said.count("error: ") == 1
    assert "resources.disk" in said
    assert copy.images() == before


# --- a release ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(built, duplicate, served, workshop):
    """The project that was built in VMs and published, with what the command said."""
    project = duplicate(built, workshop / "released")
    from_cloud(project, *served)
    check = project.project / "stages/final/checks/test_final.py"
    check.write_text(check.read_text() + CHECK)
    yield project, project("build", "--engine", "qemu")
    shutil.rmtree(project.project)


@pytest.fixture
def release(released) -> Path:
    """The folder of the release."""
    _, ran = released
    return Path(ran.stdout.strip()).parent


def test_its_path_is_all_that_stdout_has(released, release):
    project, ran = released
    name = f"trimmed-cloud-1.0.0-{project.keys('final', engine='qemu')['final'][:8]}"
    assert ran.stdout == f"{project.project}/dist/{name}/{name}.qcow2\n"
    assert sorted(path.name for path in release.iterdir()) == [
        "SHA256SUMS",
        "manifest.json",
        "network.json",
        f"{name}.qcow2",
    ]


def test_the_disk_is_clean_and_stands_alone(release):
    (disk,) = release.glob("*.qcow2")
    subprocess.run(["qemu-img", "check", "-q", disk], check=True)
    said = subprocess.run(
        ["qemu-img", "info", "--output=json", disk], check=True, capture_output=True
    )
    found = json.loads(said.stdout)
    assert "backing-filename" not in found
    assert found["format-specific"]["data"]["compression-type"] == "zstd"


def test_its_checksums_are_right(release):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release, check=True)


def test_its_manifest_tells_what_is_inside(released, release):
    project, _ = released
    manifest = json.loads((release / "manifest.json").read_text())
    (disk,) = release.glob("*.qcow2")
    assert manifest["schema"] == 1
    assert (manifest["name"], manifest["version"]) == ("trimmed", "1.0.0")
    assert manifest["variant"] == "cloud"
    assert manifest["image"]["file"] == disk.name
    assert manifest["image"]["bytes"] == disk.stat().st_size
    assert manifest["image"]["virtual_bytes"] == 3 << 30
    assert manifest["image"]["sha256"] == hashlib.sha256(disk.read_bytes()).hexdigest()
    assert [image["stage"] for image in manifest["lineage"]] == ["source", "final"]
    assert manifest["lineage"][-1]["key"] == project.keys("final", engine="qemu")["final"]
    assert manifest["packages"]["dpkg"]["hello"]
    assert {"packer", "ansible-core", "vaultbuild"} <= set(manifest["tools"])


def test_it_was_booted_by_both_firmwares_and_checked(release):
    manifest = json.loads((release / "manifest.json").read_text())
    assert {boot["firmware"] for boot in manifest["boots"]} == {"bios", "uefi"}
    for verdict in manifest["verdicts"]:
        assert verdict["failed"] == 0
        assert verdict["passed"] >= 3
    names = {check["name"] for check in manifest["verdicts"][-1]["results"]}
    asked = {check["name"]: check["engine"] for check in manifest["verdicts"][-1]["results"]}
    assert set(asked.values()) == {"none", "qemu"}, "of the file, and in VMs"
    assert asked["final/test_final.py::test_cloud_init_was_told"] == "qemu"
    assert "clones::have host keys of their own" in names
    assert "final/test_final.py::test_cloud_init_was_told" in names


def test_roles_in_a_vm_leave_checkpoints(released):
    project, _ = released
    disk = project.disk(project.keys("final", engine="qemu")["final"])
    record = json.loads(disk.with_name("record.json").read_text())
    assert disks.info(disk).backing == f"../../checkpoints/{record['checkpoint']}/disk.qcow2"
    below = project.var / "checkpoints" / record["checkpoint"]
    assert json.loads((below / "record.json").read_text())["role"] == "greeting"


def test_a_second_build_does_nothing_and_keeps_the_file(released, release, journal):
    project, ran = released
    before = {path.name: path.stat() for path in release.iterdir()}
    again = project("build", "--engine", "qemu", PATH=journal.path)
    assert journal.read() == []
    assert again.stdout == ran.stdout
    assert {path.name: path.stat() for path in release.iterdir()} == before


def test_a_foreign_folder_in_its_place_is_left_alone(released, release, tmp_path):
    project, _ = released
    foreign = tmp_path / "dist" / release.name
    foreign.mkdir(parents=True)
    (foreign / "notes.txt").write_text("mine")
    said = project("publish", "--engine", "qemu", "--output", tmp_path / "dist", status=1).stderr
    assert f"{foreign} exists and is not this release" in said
    assert [path.name for path in foreign.iterdir()] == ["notes.txt"]


def test_a_release_that_lost_a_byte_is_in_the_way(released, release, tmp_path):
    project, _ = released
    spoiled = shutil.copytree(release, tmp_path / "dist" / release.name)
    (disk,) = spoiled.glob("*.qcow2")
    with disk.open("r+b") as file:
        file.truncate(disk.stat().st_size - 1)
    said = project("publish", "--engine", "qemu", "--output", tmp_path / "dist", status=1).stderr
    assert "is not this release" in said


def test_a_failed_role_in_a_vm_is_kept_and_gone_on_from(released):
    """The last test of this project: it changes it."""
    project, _ = released
    tasks = project.project / "ansible/roles/seal/tasks/main.yml"
    sound = tasks.read_text()
    tasks.write_text(sound + FAILING)
    said = project("stage", "final", "--engine", "qemu", "--keep-failed", status=1).stderr
    assert "going on after greeting" in said
    assert "greeting  " not in said
    kept = project.var / "failed/cloud-final/disk.qcow2"
    disks.check(kept)
    assert disks.info(kept).backing.startswith("../../checkpoints/")
    steps = project("plan", "--engine", "qemu", "--json").json["steps"]
    assert [role["action"] for role in steps[-1]["roles"]] == ["reuse", "run"]
