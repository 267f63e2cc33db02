"""The Ubuntu variants of the reference pipeline, as far as they can be tried without the archives.

What cannot be had here is not built; what can be read, judged, rendered and digested, is.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import shutil
import struct
from pathlib import Path

import jsonschema
import pytest
import yaml

from builder.compat.judgement import Judge
from builder.compat.table import read_table
from builder.digest import Facts, StatCache
from builder.errors import ProjectError
from builder.installation import render
from builder.memo import Tree
from builder.pipeline import load_pipeline
from builder.project import Project

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
VARIANTS = ("ubuntu-24.04", "ubuntu-24.04-iso", "ubuntu-24.04-550")
# As the vendors publish them; the last is of the key that is left to be fetched.
DOCKER = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
TOOLKIT = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
CUDA = "EB693B3035CD5710E231E123A4B469963BF863CC"


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def pipeline(variant):
    return load_pipeline(ROOT, variant)


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    """A copy of the reference pipeline, and a Packer that only tells its version."""
    for name in ("ansible", "packer", "stages"):
        shutil.copytree(ROOT / name, tmp_path / "project" / name)
    (tmp_path / "bin").mkdir()
    packer = tmp_path / "bin/packer"
    packer.write_text("#!/bin/sh\necho Packer v1.6.6\n")
    packer.chmod(0o755)
    monkeypatch.setenv("PATH", str(packer.parent), prepend=":")
    return tmp_path / "project"


# --- what is left open ----------------------------------------------------------------------------


def open_keys(pipeline):
    return {str(problem.key).rpartition(".")[2] for problem in pipeline.open_pins}


@pytest.mark.parametrize(
    ("variant", "keys"),
    [
        ("ubuntu-24.04", {"apt_repository_keyring"}),
        ("ubuntu-24.04-550", {"apt_repository_keyring"}),
        (
            "ubuntu-24.04-iso",
            {"apt_repository_keyring", "kernel_pin_release", "kernel_pin_version"},
        ),
    ],
)
def test_what_is_left_open_is_told(pipeline, keys):
    assert open_keys(pipeline) == keys
    with pytest.raises(ProjectError) as caught:
        pipeline.require_filled()
    assert CUDA in caught.value.message


def test_the_other_variants_are_complete():
    others = set(load_pipeline(ROOT).variants) - set(VARIANTS)
    assert "debian-13" in others
    assert [name for name in others if load_pipeline(ROOT, name).open_pins] == []


def test_the_default_variant_is_none_of_these():
    assert load_pipeline(ROOT).variant not in VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_that_was_filled_in_has_keys(copied, variant):
    with pytest.raises(ProjectError, match="is not filled in"):
        Project(copied, variant=variant, engine="nspawn").inputs("final")
    path = copied / "stages/pipeline.yml"
    text = path.read_text()
    for key, value in {
        "apt_repository_keyring: &nvidia-key": "nvidia.asc",
        "kernel_pin_release:": "6.8.0-137-generic",
        "kernel_pin_version:": "6.8.0-137.137",
    }.items():
        open_pin = rf"({re.escape(key)}) >-\n +fill in: [^\n]*(\n {{16}} *[^\n #][^\n]*)*\n"
        text, count = re.subn(open_pin, rf"\1 {value}\n", text)
        assert count == 1, key
    path.write_text(text)
    shutil.copy(copied / "stages/base/docker.asc", copied / "stages/drivers/nvidia.asc")
    found = Project(copied, variant=variant, engine="nspawn").inputs("final")
    assert [stage.stage for stage in found] == ["base", "drivers", "frameworks", "final"]
    assert "stages/drivers/nvidia.asc" in found[1].files


# --- what is filled in ----------------------------------------------------------------------------


def fingerprint(path):
    """The fingerprint of the primary key of a keyring: of its first packet, as RFC 4880 has it."""
    body = path.read_text().partition("\n\n")[2].partition("\n=")[0]
    packets = base64.b64decode(body)
    assert packets[0] == 0x99, "a public key of old format, with a length of two bytes"
    length = struct.unpack(">H", packets[1:3])[0]
    return hashlib.sha1(packets[: 3 + length], usedforsecurity=False).hexdigest().upper()


def test_keys_are_those_that_the_vendors_publish(pipeline):
    found = {
        use.variables["apt_repository_name"]: use.paths.get("apt_repository_keyring")
        for stage in pipeline.stages
        for use in stage.roles
        if use.role == "apt_repository"
    }
    assert set(found) == {"docker", "nvidia", "nvidia-container-toolkit"}
    assert found["nvidia"] is None
    assert fingerprint(ROOT / found["docker"]) == DOCKER
    assert fingerprint(ROOT / found["nvidia-container-toolkit"]) == TOOLKIT


def test_a_key_that_was_changed_has_another_fingerprint(tmp_path):
    text = (ROOT / "stages/base/docker.asc").read_text()
    changed = tmp_path / "changed.asc"
    changed.write_text(text.replace("ADhWpZ8", "ADhWpZ9", 1))
    assert fingerprint(changed) != DOCKER


def test_every_archive_is_within_reach(pipeline):
    for stage in pipeline.stages:
        for use in stage.roles:
            for uri in use.variables.get("apt_repository_uris", ()):
                assert uri.split("/")[2] in stage.hosts


def test_versions_that_go_together_do(variant, tmp_path):
    remembered = StatCache(ROOT, tmp_path / "files"), Facts(tmp_path / "facts")
    pipeline = Judge(load_pipeline(ROOT, variant), *remembered).settled()
    found = Judge(pipeline, *remembered).wanted([stage.name for stage in pipeline.stages])
    assert [str(each) for each in found if each.level == "fail"] == []
    wanted = {(each.rule, each.level) for each in found if each.rule == "framework-needs"}
    assert wanted == {("framework-needs", "ok")}, "vllm stands beside the torch that it wants"
    pythons = [each for each in found if each.rule == "framework-python"]
    assert {each.message.rpartition(" ")[2] for each in pythons} == {"3.12"}
    assert len(pythons) == 4, "torch, TensorFlow, and vLLM beside its torch"
    cudas = {each.message for each in found if each.rule == "one-cuda"}
    assert {message.rpartition(" ")[2] for message in cudas} == {"12.4", "12.5"}


def test_a_machine_is_compared_with_what_is_pinned(pipeline):
    values, table = pipeline.variables_of("final"), read_table(Tree(ROOT))
    driver = values["nvidia_driver_version"].partition("-")[0]
    assert values["first_boot_gpu_check_expected"] == {
        "driver_version": driver,
        "cuda_version": values["cuda_runtime_version"].rpartition(".")[0],
        "pci_ids": {name: table.gpus[name].pci for name in values["nvidia_driver_gpus"]},
    }
    assert values.get("fabric_manager_version", driver).partition("-")[0] == driver


def test_each_framework_has_an_environment_of_its_own(pipeline):
    uses = [use for use in pipeline.stage("frameworks").roles if use.role == "python_frameworks"]
    locks = {
        use.variables.get("python_frameworks_venv", "default"): use.paths[
            "python_frameworks_requirements"
        ].name
        for use in uses
    }
    venvs = "/opt/vaultbuild/venvs"
    assert locks == {
        "default": "requirements-py312.lock",
        f"{venvs}/torch": "torch-py312.lock",
        f"{venvs}/tensorflow": "tensorflow.lock",
        f"{venvs}/vllm": "vllm.lock",
    }


def test_locks_are_for_the_python_of_ubuntu(pipeline):
    for use in pipeline.stage("frameworks").roles:
        if lock := use.paths.get("python_frameworks_requirements"):
            text = (ROOT / lock).read_text()
            assert "--python-version 3.12 " in text.splitlines()[1]
            pins = re.findall(r"^\S+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
            assert len(pins) == len(re.findall(r"^[a-z0-9]\S*==", text, re.MULTILINE)) > 0


# --- the installer --------------------------------------------------------------------------------


ANSWERS = yaml.safe_load((ROOT / "stages/base/user-data").read_text())
SCHEMA = json.loads((HERE / "autoinstall.schema.json").read_text())


def wrong(answers):
    """Say where answers are wrong, as the installer would before it does anything."""
    found = jsonschema.Draft202012Validator(SCHEMA).iter_errors(answers)
    return sorted("/".join(map(str, error.absolute_path)) for error in found)


def test_answers_are_what_the_installer_takes():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert wrong(ANSWERS) == []


def test_cloud_init_takes_the_answers_for_its_own():
    assert (ROOT / "stages/base/user-data").read_text().startswith("#cloud-config\n")


def without(name):
    def change(answers):
        del answers["autoinstall"][name]

    return change


def given(**sections):
    def change(answers):
        answers["autoinstall"].update({k.replace("_", "-"): v for k, v in sections.items()})

    return change


def action(number, **keys):
    def change(answers):
        answers["autoinstall"]["storage"]["config"][number].update(keys)

    return change


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (without("version"), "autoinstall"),
        (without("user-data"), "autoinstall"),
        (lambda answers: answers.update(answers["autoinstall"]), ""),
        (given(version="1"), "autoinstall/version"),
        (given(version=2), "autoinstall/version"),
        (given(late_commands="update-grub"), "autoinstall/late-commands"),
        (given(late_commands=[{"run": "x"}]), "autoinstall/late-commands/0"),
        (given(late_command=["update-grub"]), "autoinstall"),
        (given(storage={"layout": "direct"}), "autoinstall/storage/layout"),
        (given(storage={"layout": {"name": "plain"}}), "autoinstall/storage/layout/name"),
        (given(storage={"swap": {"size": 0}}), "autoinstall/storage"),
        (given(storage={"layout": {"name": "direct"}, "config": []}), "autoinstall/storage"),
        (action(0, ptable="dos"), "autoinstall/storage/config/0/ptable"),
        (action(0, grub_device="yes"), "autoinstall/storage/config/0/grub_device"),
        (action(1, flag="bios-grub"), "autoinstall/storage/config/1/flag"),
        (action(2, size="half"), "autoinstall/storage/config/2/size"),
        (action(2, size=None), "autoinstall/storage/config/2/size"),
        (action(3, mount="/"), "autoinstall/storage/config/3"),
        (action(4, fstype="ext5"), "autoinstall/storage/config/4/fstype"),
        (action(6, path="root"), "autoinstall/storage/config/6/path"),
        (action(6, type="bind"), "autoinstall/storage/config/6/type"),
        (given(packages="grub-efi-amd64-bin"), "autoinstall/packages"),
        (given(ssh={"install_server": True}), "autoinstall/ssh"),
        (given(ssh={"allow-pw": "no"}), "autoinstall/ssh/allow-pw"),
        (given(identity={"username": "x", "hostname": "x"}), "autoinstall/identity"),
        (given(keyboard={"variant": "x"}), "autoinstall/keyboard"),
        (given(updates="none"), "autoinstall/updates"),
        (given(shutdown="halt"), "autoinstall/shutdown"),
        (given(apt={"fallback": "offline"}), "autoinstall/apt/fallback"),
        (given(network={"ethernets": {}}), "autoinstall/network"),
        (given(kernel={}), "autoinstall/kernel"),
    ],
)
def test_wrong_answers_are_found(change, place):
    answers = copy.deepcopy(ANSWERS)
    change(answers)
    assert place in wrong(answers)


def test_answers_let_nobody_in():
    said = ANSWERS["autoinstall"]
    assert "identity" not in said
    assert said["ssh"] == {"install-server": True, "allow-pw": False}
    assert said["user-data"] == {"users": [], "disable_root": False, "ssh_pwauth": False}


def test_the_installer_is_started_with_its_answers_on_a_disk(copied):
    project = Project(copied, variant="ubuntu-24.04-iso", engine="qemu")
    text = render(project, packer=copied / "packer")
    assert re.search(r'cd_label += "cidata"', text)
    assert '["-append", "autoinstall console=ttyS0,115200"]' in text
    assert '["-no-reboot", ""]' in text


def test_answers_do_what_an_installation_must():
    said = ANSWERS["autoinstall"]
    assert said["storage"]["swap"] == {"size": 0}
    assert said["network"]["ethernets"]["wired"]["match"] == {"name": "e*"}
    assert said["shutdown"] == "poweroff"


@pytest.fixture
def actions():
    """What is done to the disk, in its order, by its name."""
    done = ANSWERS["autoinstall"]["storage"]["config"]
    assert len({each["id"] for each in done}) == len(done)
    return {each["id"]: each for each in done}


def of_kind(actions, kind):
    return [each for each in actions.values() if each["type"] == kind]


def test_what_is_done_to_the_disk_names_what_was_done_before(actions):
    seen = {"disk": "partition", "partition": "format", "format": "mount"}
    order = list(actions)
    for name, each in actions.items():
        if on := each.get("device") or each.get("volume"):
            assert order.index(on) < order.index(name)
            assert seen[actions[on]["type"]] == each["type"]


def test_the_disk_can_be_started_by_both_firmwares(actions):
    (disk,) = of_kind(actions, "disk")
    assert (disk["path"], disk["ptable"]) == ("/dev/vda", "gpt")
    bios, esp, root = of_kind(actions, "partition")
    assert [bios.get("flag"), esp.get("flag"), root.get("flag")] == ["bios_grub", "boot", None]
    assert [each["number"] for each in (bios, esp, root)] == [1, 2, 3]
    assert root["size"] == -1, "the last one takes the rest, and can grow"
    # Under BIOS the installer hands GRUB every device that says so, and a partition is none to it.
    assert [each["id"] for each in actions.values() if each.get("grub_device")] == [disk["id"]]
    mounted = {}
    for mount in of_kind(actions, "mount"):
        files = actions[mount["device"]]
        mounted[mount["path"]] = (files["volume"], files["fstype"])
    assert mounted == {"/": (root["id"], "ext4"), "/boot/efi": (esp["id"], "fat32")}
    assert bios["id"] not in {volume for volume, _ in mounted.values()}


def test_both_boot_loaders_are_installed(actions):
    said = ANSWERS["autoinstall"]
    commands = [each.split(" -- ")[1].split() for each in said["late-commands"]]
    loaders = {command[1]: command[2:] for command in commands if command[0] == "grub-install"}
    assert loaders == {
        "--target=i386-pc": [actions["disk"]["path"]],
        "--target=x86_64-efi": ["--efi-directory=/boot/efi", "--removable", "--no-nvram"],
    }
    # Only before the late commands the medium's packages are there.
    assert said["packages"] == ["grub-efi-amd64-bin"]
    assert not [each for each in said["late-commands"] if "apt" in each]


def test_answers_name_no_cache_that_could_stay():
    assert "proxy" not in ANSWERS["autoinstall"]
    assert not re.search("{(apt_proxy|mirror)", (ROOT / "stages/base/user-data").read_text())


def test_the_installers_answers_are_in_the_snapshot(copied):
    assert load_pipeline(copied, "ubuntu-24.04-iso").source.paths == {
        "answers": Path("stages/base/user-data")
    }
