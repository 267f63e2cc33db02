"""What doctor finds on hosts that lack something, and the cure it names."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder import doctor, ports, process
from builder.digest import digest_document, digest_file
from builder.doctor import Case, Host
from builder.doctor import store as doctor_store
from builder.errors import HostError, Problem
from builder.pipeline import load_pipeline
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK, Store

TEAM = {name: {"url": "http://builder:s3cret@127.0.0.1:9"} for name in ("apt", "pypi")}
OWN = {"apt": {"url": None}, "pypi": {"url": None}}
MEMINFO = "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 6291456 kB\n"


@pytest.fixture
def pipeline(tmp_path):
    (tmp_path / "project/cache/etc").mkdir(parents=True)
    return SimpleNamespace(
        project=tmp_path / "project",
        source=SimpleNamespace(kind="bootstrap", settings={}),
        stages=(),
        resources=SimpleNamespace(memory_mib=4096, disk_bytes=1 << 20),
        caches=OWN,
        open_pins=(),
    )


def cloud_image():
    return SimpleNamespace(kind="cloud_image", settings={"url": "a.qcow2", "sha256": "0" * 64})


@pytest.fixture
def host(tmp_path):
    """A host with everything that is not a program."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/fuse").touch()
    (tmp_path / "firmware").mkdir()
    (tmp_path / "firmware/OVMF_CODE_4M.fd").touch()
    (tmp_path / "firmware/OVMF_VARS_4M.fd").touch()
    (tmp_path / "meminfo").write_text(MEMINFO)
    return Host(
        devices=tmp_path / "dev",
        firmware=tmp_path / "firmware",
        meminfo=tmp_path / "meminfo",
        root=False,
    )


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Call it with a program and what it prints: then it is on PATH, and little else is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    if setpriv := shutil.which("setpriv", path=os.defpath):
        (folder / "setpriv").symlink_to(setpriv)

    def write(name, output=""):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho '{output}'\n")
        program.chmod(0o755)
        return program

    return write


def found(pipeline, host, **options):
    return {finding.id: finding for finding in doctor.examine(pipeline, host, **options)}


def test_every_finding_that_is_not_ok_has_a_cure(pipeline, host, install):
    findings = doctor.examine(pipeline, host)
    assert all(bool(finding.cure) == (finding.level != "ok") for finding in findings)


def test_each_finding_has_a_name_of_its_own(pipeline, host, install):
    names = [finding.id for finding in doctor.examine(pipeline, host)]
    assert len(names) == len(set(names))


def test_missing_programs_are_named_with_their_packages(pipeline, host, install):
    findings = found(pipeline, host)
    assert findings["qemu"].evidence == "no qemu-system-x86_64"
    assert findings["qemu"].cure == "apt-get install qemu-system-x86"
    assert "socat" in findings["programs"].cure
    assert findings["packer"].level == "fail"


def test_a_qemu_img_that_is_too_old_fails(pipeline, host, install):
    install("qemu-img", "qemu-img version 5.2.0")
    finding = found(pipeline, host)["qemu-img"]
    assert finding.level == "fail"
    assert "5.2.0" in finding.evidence
    assert "6.1" in finding.cure


@pytest.mark.parametrize("version", ["6.1.0", "7.2.22 (Debian 1:7.2)", "10.0.0"])
def test_newer_ones_are_fine(version, pipeline, host, install):
    install("qemu-img", f"qemu-img version {version}")
    assert found(pipeline, host)["qemu-img"].level == "ok"


def test_a_packer_that_is_too_old_fails(pipeline, host, install):
    install("packer", "Packer v1.5.0")
    finding = found(pipeline, host)["packer"]
    assert finding.level == "fail"
    assert "1.5.0" in finding.evidence


def test_a_storage_daemon_without_fuse_is_noticed(pipeline, host, install):
    install("qemu-storage-daemon", "--export [type=]nbd")
    assert "no FUSE export" in found(pipeline, host)["fuse"].evidence


def test_without_the_device_disks_cannot_be_exported(pipeline, host, install):
    install("qemu-storage-daemon", "--export [type=]fuse")
    assert found(pipeline, host)["fuse"].level == "ok"
    (host.devices / "fuse").unlink()
    assert found(pipeline, host)["fuse"].cure == "modprobe fuse"


@pytest.mark.parametrize("half", ["CODE", "VARS"])
def test_missing_firmware_is_noticed(half, pipeline, host, install):
    assert found(pipeline, host)["uefi"].level == "ok"
    (host.firmware / f"OVMF_{half}_4M.fd").unlink()
    finding = found(pipeline, host)["uefi"]
    assert (finding.level, finding.cure) == ("fail", "apt-get install ovmf")


def test_bootstrapping_needs_root(pipeline, host, install):
    assert found(pipeline, host)["user"].level == "fail"
    as_root = dataclasses.replace(host, root=True)
    assert found(pipeline, as_root)["user"].level == "ok"


def test_a_cloud_image_in_a_vm_needs_no_root(pipeline, host, install):
    """Whether or not there is KVM: in emulation it is slow, and no failure."""
    pipeline.source = cloud_image()
    findings = found(pipeline, host, engine="qemu")
    assert findings["user"].level == "warn"
    assert findings["nspawn"].level == "warn", "and no container"
    assert findings["fuse"].level == "warn"
    assert found(pipeline, host, engine="nspawn")["user"].level == "fail"


def test_a_cloud_image_is_enlarged_with_programs_of_its_own(pipeline, host, install):
    assert "cloud-image" not in found(pipeline, host)
    pipeline.source = cloud_image()
    assert "resize2fs" in found(pipeline, host)["cloud-image"].evidence


def test_only_a_vm_needs_the_plugin_of_packer(pipeline, host, install):
    install("packer", "Packer v1.15.4")
    assert found(pipeline, host, engine="qemu")["packer"].level == "fail"
    assert found(pipeline, host, engine="nspawn")["packer"].level == "warn"


def test_a_missing_program_has_one_cure_wherever_it_is_missed(pipeline, host, install):
    findings = found(pipeline, host)
    for id_, program in {"fuse": "qemu-storage-daemon", "qemu-img": "qemu-img"}.items():
        with pytest.raises(HostError) as caught:
            process.require(program)
        assert caught.value.hint == findings[id_].cure


def test_every_program_that_is_looked_for_has_a_package(pipeline, host, install):
    findings = [
        finding for finding in found(pipeline, host).values() if finding.evidence.startswith("no ")
    ]
    assert len(findings) > 5
    wrong = [finding.id for finding in findings if "put it on PATH" in finding.cure]
    assert not wrong


def test_programs_that_read_a_release_are_for_every_source(pipeline, host, install):
    pipeline.source = cloud_image()
    finding = found(pipeline, host)["release"]
    assert finding.level == "fail"
    assert "mtools" in finding.cure


def test_programs_that_make_disks_are_for_bootstrapping(pipeline, host, install):
    assert "disks" in found(pipeline, host)
    pipeline.source = cloud_image()
    assert "disks" not in found(pipeline, host)


@pytest.mark.parametrize(
    ("need", "level"), [(1 << 20, "ok"), (0.7, "warn"), (2, "warn")], ids=["ample", "tight", "none"]
)
def test_free_disk_is_compared_with_the_pipeline_s(need, level, pipeline, host, install):
    free = shutil.disk_usage(pipeline.project).free
    pipeline.resources.disk_bytes = need if need > 10 else int(free * need)
    assert found(pipeline, host)["disk"].level == level


def test_remote_caches_that_do_not_answer_fail(pipeline, host, install):
    pipeline.caches = TEAM
    finding = found(pipeline, host)["cache-pypi"]
    assert finding.level == "fail"
    assert finding.evidence == "http://127.0.0.1:9 does not answer"
    assert "caches.pypi.url" in finding.cure


def test_a_fixed_port_that_is_taken_names_its_holder(pipeline, host, install):
    install("apt-cacher-ng")
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        pipeline.caches = {"apt": {"url": None, "port": port}, "pypi": {"url": None}}
        finding = found(pipeline, host)["cache-apt"]
    assert finding.level == "fail"
    assert f"port {port} is taken by" in finding.evidence
    assert f"(process {os.getpid()})" in finding.evidence


def test_an_installation_needs_a_vm_whatever_the_engine(pipeline, host, install):
    install("packer", "Packer v1.16.0")
    assert found(pipeline, host, engine="nspawn")["packer"].level == "warn"
    assert "installer" not in found(pipeline, host)
    pipeline.source = SimpleNamespace(kind="iso", settings=cloud_image().settings)
    assert found(pipeline, host, engine="nspawn")["packer"].level == "fail"
    assert found(pipeline, host)["installer"].evidence.startswith("no xorriso")


def test_only_the_caches_that_the_pipeline_needs_are_judged(pipeline, host, install):
    def judged() -> set[str]:
        return {id_ for id_ in found(pipeline, host) if id_.startswith("cache-")}

    assert judged() == {"cache-apt", "cache-pypi"}
    pipeline.source = cloud_image()
    assert judged() == {"cache-apt", "cache-pypi", "cache-isos"}
    pipeline.caches = {**OWN, "models": {"url": "http://127.0.0.1:9"}}
    assert judged() == {"cache-apt", "cache-pypi", "cache-isos", "cache-models"}
    assert found(pipeline, host)["cache-models"].level == "fail"


@pytest.mark.parametrize(
    ("listen", "level", "told"),
    [
        ("192.0.2.7", "fail", "no address 192.0.2.7"),
        ("0.0.0.0", "ok", "open to other hosts"),  # noqa: S104
        (None, "ok", "started when needed"),
    ],
)
def test_the_address_to_listen_at_is_one_of_this_host_s(
    listen, level, told, pipeline, host, install
):
    install("apt-cacher-ng")
    pipeline.caches = {"apt": {"url": None, "listen": listen}, "pypi": {"url": None}}
    finding = found(pipeline, host)["cache-apt"]
    assert (finding.level, told in finding.evidence) == (level, True)


def test_what_there_is_to_build_from_offline_is_told(pipeline, host, install):
    assert "the first build needs the network" in found(pipeline, host)["offline"].evidence
    package = pipeline.project / "cache/var/apt/packages/mirror.example/x.deb"
    package.parent.mkdir(parents=True)
    package.write_bytes(b"x")
    assert "apt: 1 file," in found(pipeline, host)["offline"].evidence
    assert "needs the network" not in found(pipeline, host)["offline"].evidence


def test_a_free_disk_is_looked_for_before_the_folder_exists(pipeline, host, install):
    assert str(pipeline.project / "cache") in found(pipeline, host)["disk"].evidence


def test_nothing_is_left_but_the_answer_about_kvm(pipeline, host, install):
    doctor.examine(pipeline, host)
    left = [path for path in (pipeline.project / "cache").rglob("*") if path.is_file()]
    assert left in ([], [pipeline.project / "cache/var/index/kvm.json"])


def test_a_real_loop_device_is_attached_and_let_go(pipeline, require_root, require_program):
    require_root()
    require_program("losetup")
    finding = found(pipeline, Host())["loop"]
    if finding.level == "ok":
        device = finding.evidence.split()[0]
        backing = Path("/sys/block", Path(device).name, "loop/backing_file")
        assert not backing.exists() or "vaultbuild-loop" not in backing.read_text()


# --- the store ------------------------------------------------------------------------------------


@pytest.fixture
def built(pipeline):
    """Call it with stages and the bytes of their disks: images of a run before, on one source."""
    pipeline.variant = "one"
    store = Store(pipeline.project / "cache/var")

    def make(source, **stages):
        first = {"kind": "source", "bytes": source}
        _commit(store, "source", [first], source)
        below = [first]
        for name, size in stages.items():
            documents = [*below, {"kind": "role", "stage": name}]
            _commit(store, name, documents, size)
            store.remember("one", name, documents)
            below = []
        parents = [None, *stages]
        pipeline.stages = tuple(
            SimpleNamespace(
                name=name,
                parent=parent,
                roles=(),
                hosts=(),
                resources=SimpleNamespace(memory_mib=4096),
            )
            for name, parent in zip(stages, parents, strict=False)
        )

    return make


def _commit(store, stage, documents, size):
    with store.staging() as staged:
        disk = staged / DISK
        disk.write_bytes(bytes(size))
        record = BuildRecord(
            key=digest_document(documents[-1]), variant="one", stage=stage, created="now",
            seconds=1.0, documents=tuple(documents), parent=None,
            disk=DiskRecord(digest_file(disk), size),
        )  # fmt: skip
        store.commit(staged, record)


def test_room_is_judged_by_what_stages_took_last_time(pipeline, host, built):
    built(3 << 20, base=2 << 20, final=1 << 20)
    evidence = next(doctor_store.disk(Case(pipeline, host))).evidence
    assert "all took 6 MiB last time (source 3 MiB, base 2 MiB, final 1 MiB)" in evidence
    assert "12 MiB with a release" in evidence


def test_a_stage_that_was_never_built_may_become_as_large_as_the_disk(pipeline, host, built):
    built(1, base=1)
    pipeline.stages = (*pipeline.stages, SimpleNamespace(name="more", parent="base"))
    evidence = next(doctor_store.disk(Case(pipeline, host))).evidence
    assert "a guess by resources.disk: 2 MiB with a release" in evidence


def test_what_was_put_aside_is_told(pipeline, host, built):
    built(1, base=1)
    assert next(doctor_store.health(Case(pipeline, host))).level == "ok"
    (pipeline.project / "cache/var/quarantine/20260101T000000-x/0123").mkdir(parents=True)
    finding = next(doctor_store.health(Case(pipeline, host)))
    assert finding.level == "warn"
    assert "1 images were found damaged" in finding.evidence
    assert finding.cure


def test_an_image_that_cannot_be_read_is_told(pipeline, host, built):
    built(1, base=1)
    record = next((pipeline.project / "cache/var/images").glob("*/record.json"))
    record.write_text("{")
    finding = next(doctor_store.health(Case(pipeline, host)))
    assert (finding.level, finding.evidence[:8]) == ("warn", "1 of its")


# --- versions that go together --------------------------------------------------------------------

SPECS = """\
    argument_specs:
      main:
        options:
          {nvidia_driver_version: {type: str}, nvidia_driver_gpus: {type: list, elements: str}}
    """
ROOT = Path(__file__).parents[2]


@pytest.fixture
def driven(project):
    """Call it with a driver and GPUs for a project with the table of this repository."""

    def make(version, gpus):
        variables = f"{{nvidia_driver_version: {version}, nvidia_driver_gpus: [{gpus}]}}"
        root = project(
            {
                "ansible/roles/nvidia_driver/meta/argument_specs.yml": SPECS,
                "ansible/roles/nvidia_driver/tasks/main.yml": "[]\n",
                "stages/base/stage.yml": f"roles: [nvidia_driver]\nvariables: {variables}\n",
            }
        )
        shutil.copy(ROOT / "stages/compatibility.yml", root / "stages")
        (root / "cache/etc").mkdir(parents=True)
        return load_pipeline(root)

    return make


def test_versions_that_do_not_go_together_fail(driven, host, install):
    findings = found(driven("550.163.01-2", "B200, GB200"), host)
    finding = findings["compat-gpu-driver"]
    assert finding.level == "fail"
    assert "B200 needs driver 570" in finding.evidence
    assert "GB200 needs driver 575" in finding.evidence
    assert findings["compat-driver-end"].level == "warn"
    assert all(each.cure for each in findings.values() if each.level != "ok")


def test_versions_that_do_are_said_to(driven, host, install):
    finding = found(driven("620.10-1", "H100"), host)["compat"]
    assert finding.level == "ok"
    assert "go together" in finding.evidence


def test_a_pin_that_nobody_filled_in(pipeline, host):
    pin = Problem(Path("stages/pipeline.yml"), "is not filled in", line=7, hint="type: make it")
    pipeline.open_pins = (pin,)
    finding = found(pipeline, host)["open-pin"]
    assert (finding.level, finding.cure) == ("fail", "type: make it")
    assert finding.evidence == "stages/pipeline.yml:7 is not filled in"
