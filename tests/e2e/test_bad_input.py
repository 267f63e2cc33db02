"""What is wrong gets one clear message, the contract's exit status, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

FAILING = """
- name: Talk to the licence server
  ansible.builtin.command: sh -c 'echo no route to licence-server >&2; exit 7'
"""


def message(stderr: str) -> str:
    """The error as a person sees it: from the line that says so to the end."""
    assert stderr.count("error: ") == 1, stderr
    assert "Traceback" not in stderr
    return stderr[stderr.index("error: ") :]


@pytest.fixture
def path_without(tmp_path):
    """A PATH with all programs of this host but one, and perhaps another one in its place."""

    def make(name: str, instead: str | None = None) -> str:
        folder = tmp_path / "programs"
        folder.mkdir()
        # Once per name: the first folder that has it wins, as on any PATH.
        for place in [*os.environ["PATH"].split(":"), "/usr/sbin", "/sbin"]:
            for program in Path(place).iterdir() if Path(place).is_dir() else ():
                if program.name != name and not (folder / program.name).is_symlink():
                    (folder / program.name).symlink_to(program)
        if instead:
            (folder / name).write_text(instead)
            (folder / name).chmod(0o755)
        return str(folder)

    return make


# --- the guest ------------------------------------------------------------------------------------


def test_a_failing_role_says_what_failed_and_where(copy):
    tasks = copy.project / "ansible/roles/greeting/tasks/main.yml"
    tasks.write_text(tasks.read_text() + FAILING)
    before = copy.images()
    ran = copy("stage", "final", "--engine", "nspawn", status=1)
    said = message(ran.stderr)
    assert 'final: role greeting, task "Talk to the licence server" failed' in said
    assert "no route to licence-server" in said
    assert "ansible/roles/greeting/tasks/main.yml" in said.partition("hint:")[2]
    log = Path(said.partition("log:")[2].strip())
    assert "no route to licence-server" in log.read_text()
    assert ran.stdout == ""
    assert copy.images() == before


def test_a_failed_disk_is_kept_when_asked_for(copy):
    tasks = copy.project / "ansible/roles/greeting/tasks/main.yml"
    tasks.write_text(tasks.read_text() + FAILING)
    ran = copy("stage", "final", "--engine", "nspawn", "--keep-failed", status=1)
    assert "vaultbuild shell final" in ran.stderr
    assert (copy.var / "failed/debian-13-final/disk.qcow2").is_file()


# --- checks ---------------------------------------------------------------------------------------


def test_a_changed_check_verifies_again_and_builds_nothing(copy):
    check = copy.project / "stages/final/checks/test_final.py"
    check.write_text(
        check.read_text()
        + "\n\ndef test_more(host):\n    assert host.file('/etc/greeting').exists\n"
    )
    before = copy.images()
    ran = copy("stage", "final", "--engine", "nspawn")
    assert "final checks" in ran.stderr
    assert copy.images() == before
    names = [
        check["name"]
        for check in copy("show", "final", "--engine", "nspawn", "--json").json["verdict"][
            "results"
        ]
    ]
    assert "final/test_final.py::test_more" in names


def test_a_failing_check_keeps_the_image_from_being_published(copy):
    check = copy.project / "stages/final/checks/test_final.py"
    check.write_text(
        check.read_text() + "\n\ndef test_gpu(host):\n    assert host.file('/dev/nvidia0').exists\n"
    )
    image = copy.disk(copy.keys()["final"])
    said = message(copy("stage", "final", "--engine", "nspawn", status=1).stderr)
    assert re.search(r"final: 1 of \d+ checks failed", said)
    assert "final/test_final.py::test_gpu" in said
    assert "vaultbuild shell final" in said.partition("hint:")[2]
    assert image.is_file()
    said = message(copy("publish", "final", "--engine", "nspawn", status=1).stderr)
    assert "final/test_final.py::test_gpu" in said
    assert not (copy.project / "dist").exists()


def test_junit_names_the_failing_check(copy, tmp_path):
    check = copy.project / "stages/final/checks/test_final.py"
    check.write_text(
        check.read_text() + "\n\ndef test_gpu(host):\n    assert host.file('/dev/nvidia0').exists\n"
    )
    report = tmp_path / "report.xml"
    copy("verify", "final", "--engine", "nspawn", "--junit", report, status=1)
    assert 'failures="1"' in report.read_text()
    assert "test_gpu" in report.read_text()


# --- files of the project -------------------------------------------------------------------------


def test_every_mistake_is_listed_at_once(copy):
    copy.edit("stages/final/stage.yml", "parent: base", "parent: bse")
    copy.edit("stages/base/stage.yml", "ssh_baseline", "ssh_basline")
    before = copy.images()
    for command in ("plan", "stage", "publish", "render"):
        said = message(copy(command, "final", status=2).stderr)
        assert "stages/final/stage.yml:2" in said
        assert 'did you mean "base"' in said
        assert "stages/base/stage.yml:2" in said
        assert 'did you mean "ssh_baseline"' in said
    assert copy.images() == before


def test_an_unknown_stage_is_told_apart_from_a_typo(copy):
    said = message(copy("stage", "finl", status=2).stderr)
    assert "final" in said


def test_a_template_that_is_no_hcl_stops_before_anything_runs(copy):
    template = copy.project / "packer/stage.pkr.hcl.j2"
    template.write_text(template.read_text() + "build {\n")
    said = message(copy("stage", "final", "--engine", "nspawn", status=2).stderr)
    assert "packer/stage.pkr.hcl.j2" in said


# --- the host -------------------------------------------------------------------------------------


def test_a_host_without_packer(copy, path_without):
    said = message(
        copy("stage", "final", "--engine", "nspawn", status=3, PATH=path_without("packer")).stderr
    )
    assert "no packer" in said
    assert "install packer" in said.partition("hint:")[2]


def test_a_packer_that_is_too_old(copy, path_without):
    old = path_without("packer", "#!/bin/sh\necho Packer v1.5.0\n")
    said = message(copy("stage", "final", "--engine", "nspawn", status=3, PATH=old).stderr)
    assert "1.5.0" in said
    assert "1.6" in said
    assert "install packer" in said.partition("hint:")[2]


def test_a_packer_that_is_another_program(copy, path_without):
    other = path_without("packer", "#!/bin/sh\necho usage: packer FILE\nexit 64\n")
    said = message(copy("stage", "final", "--engine", "nspawn", status=3, PATH=other).stderr)
    assert "not HashiCorp's Packer" in said


def test_a_host_without_qemu_img(copy, path_without):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    before = copy.images()
    said = message(
        copy("stage", "final", "--engine", "nspawn", status=3, PATH=path_without("qemu-img")).stderr
    )
    assert "no qemu-img" in said
    assert "apt-get install qemu-utils" in said
    assert copy.images() == before


def test_a_cache_port_that_is_taken(copy):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    pipeline = copy.project / "stages/pipeline.yml"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = pipeline.read_text().partition("\ncaches:")[0]
        pipeline.write_text(f"{text}\ncaches: {{apt: {{port: {port}}}}}\n")
        said = message(copy("stage", "final", "--engine", "nspawn", status=3).stderr)
    assert str(port) in said
    assert str(os.getpid()) in said, "the message names who holds the port"


# --- where packages come from ---------------------------------------------------------------------


def test_a_package_version_that_the_mirror_does_not_have(copy):
    copy.edit("stages/pipeline.yml", "- iproute2", "- iproute2=0.0.1-1")
    before = copy.images()
    said = message(copy("stage", "final", "--engine", "nspawn", status=1).stderr)
    assert "iproute2" in said
    assert "source.bootstrap.packages" in said.partition("hint:")[2]
    assert copy.images() == before


def test_a_package_that_a_role_cannot_have(copy):
    copy.edit("ansible/roles/greeting/tasks/main.yml", "name: hello", "name: hello=0.0.1-1")
    said = message(copy("stage", "final", "--engine", "nspawn", status=1).stderr)
    assert 'task "Install a package" failed' in said
    assert "hello=0.0.1-1" in said
