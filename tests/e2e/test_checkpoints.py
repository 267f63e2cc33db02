"""A stage goes on after the last role that is as it was, and after the last that ended well."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from builder import disks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

GREETING = "ansible/roles/greeting/tasks/main.yml"
SEAL = "ansible/roles/seal/tasks/main.yml"
BROKEN = """
- name: Fail on purpose
  ansible.builtin.command: "false"
  changed_when: false
"""


LITTER = """
- name: Write a lot and remove it again
  ansible.builtin.shell: head -c 128M /dev/urandom > /var/tmp/lot && sync && rm /var/tmp/lot
  changed_when: false
"""
MIB = 1 << 20


def roles(vaultbuild, stage: str = "final") -> dict[str, str]:
    """What the plan says will happen to each role."""
    steps = vaultbuild("plan", stage, "--engine", "nspawn", "--json").json["steps"]
    return {role["role"]: role["action"] for role in steps[-1]["roles"]}


def record(vaultbuild, stage: str = "final") -> dict:
    disk = vaultbuild.disk(vaultbuild.keys(stage)[stage])
    return json.loads(disk.with_name("record.json").read_text())


def checkpoints(vaultbuild) -> dict[str, Path]:
    """The disks of the checkpoints by their roles."""
    found = vaultbuild.var.glob("checkpoints/*/record.json")
    return {json.loads(path.read_text())["role"]: path.with_name("disk.qcow2") for path in found}


def test_a_changed_role_runs_and_those_before_it_do_not(copy):
    tasks = copy.project / SEAL
    tasks.write_text(tasks.read_text() + "# changed\n")
    assert roles(copy) == {"greeting": "reuse", "seal": "run"}
    explained = copy("-v", "plan", "final", "--engine", "nspawn").stdout
    assert f"resume  after greeting: {SEAL} changed" in explained
    said = copy("stage", "final", "--engine", "nspawn").stderr
    assert "going on after greeting" in said
    assert "greeting  " not in said, "no line of a role that ran"
    made = record(copy)
    assert [role["role"] for role in made["roles"]] == ["greeting", "seal"]
    assert made["resumed_after"] == "greeting"
    assert made["checkpoint"] == checkpoints(copy)["greeting"].parent.name
    assert copy.plan() == {"base": "reuse", "final": "reuse"}


def test_a_changed_role_takes_those_after_it_along(copy):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    steps = copy("plan", "final", "--engine", "nspawn", "--json").json["steps"]
    greeting, seal = steps[-1]["roles"]
    assert (greeting["action"], seal["action"]) == ("run", "run")
    assert [
        (why["kind"], why["what"], why["before"], why["after"]) for why in greeting["reasons"]
    ] == [("variable", "greeting_text", "hello", "good day")]
    assert [(why["kind"], why["what"]) for why in seal["reasons"]] == [("earlier-role", "greeting")]


def test_what_a_role_removed_again_is_not_kept(copy):
    def kept() -> int:
        checkpoint = copy.var / "checkpoints" / record(copy)["checkpoint"]
        return (checkpoint / "disk.qcow2").stat().st_blocks * 512

    before = kept()
    tasks = copy.project / GREETING
    tasks.write_text(tasks.read_text() + LITTER)
    copy("stage", "final", "--engine", "nspawn")
    assert kept() - before < 32 * MIB
    # The largest process of that container: a Python, at the least.
    assert record(copy)["largest_process_bytes"] > 8 * MIB


def test_a_failed_run_goes_on_at_the_role_that_failed(copy):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    tasks = copy.project / SEAL
    sound = tasks.read_text()
    tasks.write_text(sound + BROKEN)
    failed = copy("stage", "final", "--engine", "nspawn", status=1)
    assert 'role seal, task "Fail on purpose" failed' in failed.stderr
    assert "kept for the next run: base, final up to greeting" in failed.stderr
    assert roles(copy) == {"greeting": "reuse", "seal": "run"}
    tasks.write_text(sound)
    said = copy("stage", "final", "--engine", "nspawn").stderr
    assert "going on after greeting" in said
    assert record(copy)["resumed_after"] == "greeting"


def test_the_machine_of_a_failed_role_can_be_entered(copy):
    tasks = copy.project / SEAL
    sound = tasks.read_text()
    evidence = BROKEN.replace('command: "false"', "shell: echo it was here > /etc/evidence; false")
    tasks.write_text("---" + evidence)
    copy("stage", "final", "--engine", "nspawn", "--keep-failed", status=1)
    opened = copy.enter("final", "cat /etc/evidence /etc/hostname; exit 7")
    assert "it was here" in opened.stdout
    assert opened.status == 7
    tasks.write_text(sound)
    assert "it was here" not in copy.enter("final", "cat /etc/evidence").stdout
    copy("stage", "final", "--engine", "nspawn")


def test_the_lines_that_changed_are_shown(copy):
    tasks = copy.project / SEAL
    tasks.write_text(tasks.read_text() + "# changed\n")
    shown = copy("-v", "plan", "final", "--engine", "nspawn").stdout
    assert "+# changed" in shown


def test_a_build_is_compared_with_another(copy):
    old = copy.keys()["final"]
    copy.edit("stages/final/stage.yml", "hello", "good day")
    copy("stage", "final", "--engine", "nspawn")
    assert copy.plan() == {"base": "reuse", "final": "reuse"}
    words = ("plan", "final", "--engine", "nspawn", "--against", old[:8])
    assert "variable greeting_text hello → good day" in copy(*words).stdout
    (reason,) = copy(*words, "--json").json["steps"][-1]["reasons"]
    assert (reason["before"], reason["after"], reason["role"]) == ("hello", "good day", "greeting")
    said = copy("plan", "final", "--engine", "nspawn", "--against", "0000", status=1).stderr
    assert "names no build of final" in said
    assert old[:12] in said


def test_watching_builds_again_what_is_saved_and_stops_what_is_pointless(copy, eventually):
    copy.edit("stages/final/stage.yml", "hello", "one")
    wanted = copy.keys()["final"]
    running = copy.start("stage", "final", "--engine", "nspawn", "--watch")
    try:
        eventually(lambda: copy.disk(wanted).exists(), "the first image is there")
        copy.edit("stages/final/stage.yml", "one", "two")
        pointless = copy.keys()["final"]
        eventually(lambda: len(list(copy.var.glob("logs/*-final-*/container.log"))) > 1, "it runs")
        copy.edit("stages/final/stage.yml", "two", "three")
        wanted = copy.keys()["final"]
        eventually(lambda: copy.disk(wanted).exists(), "the last image is there")
    finally:
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=120)
    assert running.returncode == 130, stderr
    assert "stopping what has become pointless" in stderr
    assert not copy.disk(pointless).exists()


def test_a_stage_that_lost_its_last_role_goes_on_from_what_is_left(copy):
    copy.edit("stages/final/stage.yml", "  - seal\n", "")
    assert roles(copy) == {"greeting": "reuse"}
    copy("stage", "final", "--engine", "nspawn")
    assert [role["role"] for role in record(copy)["roles"]] == ["greeting"]


def test_force_begins_with_the_first_role_and_keeps_the_checkpoints(copy):
    before = checkpoints(copy)["greeting"].stat().st_mtime_ns
    said = copy("stage", "final", "--engine", "nspawn", "--force").stderr
    assert "greeting  " in said
    assert record(copy)["checkpoint"] is None
    assert checkpoints(copy)["greeting"].stat().st_mtime_ns == before


def test_an_image_and_its_checkpoints_share_their_bytes(built):
    disk = built.disk(built.keys()["final"])
    (base,) = [path for role, path in checkpoints(built).items() if role == "greeting"]
    assert disks.info(disk).backing == f"../../checkpoints/{base.parent.name}/disk.qcow2"
    assert disk.stat().st_size < base.stat().st_size, "what greeting wrote is there once"


def test_a_checkpoint_is_a_clean_file_system_without_the_build_s_key(built, tmp_path):
    disk = checkpoints(built)["greeting"]
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, raw], check=True)
    partition = f"{raw}?offset={_root_offset(raw)}"
    checked = subprocess.run(
        ["e2fsck", "-fn", partition], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert "recovering journal" not in checked.stdout
    listed = subprocess.run(
        ["debugfs", "-R", "ls -p /root/.ssh", partition], capture_output=True, text=True, check=True
    )
    assert "authorized_keys" not in listed.stdout
    assert "/known_hosts/" not in listed.stdout


def _root_offset(raw: Path) -> int:
    said = subprocess.run(["sfdisk", "--json", raw], capture_output=True, text=True, check=True)
    partitions = json.loads(said.stdout)["partitiontable"]["partitions"]
    return 512 * max(partitions, key=lambda part: part["size"])["start"]
