"""``vaultbuild verify --gpu``, with a program in place of ssh: what is sent, shown and told."""

from __future__ import annotations

import io
import json
import os
import signal
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder import gpu
from builder.cli import main
from builder.errors import CheckError, CommandError, HostError, StoreError

ROOT = Path(__file__).parents[2]
RESULTS = [
    {"id": "ecc", "title": "ECC", "outcome": "passed", "message": "2 x Enabled"},
    {"id": "gpu-list", "title": "GPUs", "outcome": "failed", "message": "1 x L4, expected are 2"},
    {"id": "dcgm-1", "title": "dcgmi diag -r 1", "outcome": "skipped", "message": "no dcgmi"},
]
ROLE = "ansible/roles/first_boot_gpu_check"
PIPELINE_ROLE = {
    f"{ROLE}/meta/argument_specs.yml": """\
        argument_specs:
          main:
            options:
              first_boot_gpu_check_expected: {type: dict}
        """,
    f"{ROLE}/tasks/main.yml": "- name: Nothing\n  ansible.builtin.debug: {msg: nothing}\n",
    f"{ROLE}/files/gpu-check/__main__.py": "print('checks')\n",
    f"{ROLE}/files/gpu-check/gpu_check/cuda.py": "import ctypes\n",
    "stages/final/stage.yml": """\
        parent: base
        roles:
          - role: first_boot_gpu_check
            variables: {first_boot_gpu_check_expected: {cuda_version: "12.4"}}
          - sealing
        """,
}

TABLE = """\
    schema: 1
    updated: "2026-11-26"
    sources: {ids: {what: the PCI ID database, where: "https://pci-ids.ucw.cz"}}
    variables: {gpus: stand_in_gpus}
    architectures:
      hopper: {cuda: "11.8", modules: [proprietary], source: ids}
    gpus:
      H100:
        {pci: ["2330", "2331"], architecture: hopper, capability: "9.0", driver: "535", source: ids}
    """
DECLARING_ROLE = {
    "stages/compatibility.yml": TABLE,
    "ansible/roles/stand_in/meta/argument_specs.yml": """\
        argument_specs:
          main:
            options:
              stand_in_gpus: {type: list, elements: str, default: []}
        """,
    "ansible/roles/stand_in/tasks/main.yml": "- name: Nothing\n  ansible.builtin.meta: noop\n",
}


def document(*results, outcome="passed"):
    results = [{"evidence": "", "seconds": 0.5, **one} for one in results]
    return {"schema": 1, "outcome": outcome, "seconds": 12.0, "results": results}


def answered(*results, status=0, outcome="passed"):
    """What the program on a host writes, which ssh carries."""
    told = json.dumps(document(*results, outcome=outcome))
    return json.dumps({"status": status, "said": "", "json": told, "junit": "<testsuite />"})


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Put an ssh on PATH that says something, and keeps what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(stdout="", stderr="", status=0):
        (folder / "stdout").write_text(stdout)
        (folder / "stderr").write_text(stderr)
        (folder / "ssh").write_text(
            '#!/bin/sh\nhere=$(dirname "$0")\nprintf "%s\\n" "$@" > "$here/argv"\n'
            'cat > "$here/stdin"\ncat "$here/stdout"\n'
            f'cat "$here/stderr" >&2\nexit {status}\n'
        )
        (folder / "ssh").chmod(0o755)
        return folder

    return make


@pytest.fixture
def run(project):
    """Run the command line in this process, on a project with the role; signals are kept."""
    kept = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    folder = project(PIPELINE_ROLE)
    runner = CliRunner()
    yield lambda *words: runner.invoke(main, ["--project", str(folder), "verify", *map(str, words)])
    for number, handler in kept.items():
        signal.signal(number, handler)


def there(ssh, **said):
    ssh(**said)
    return gpu.check(b"", {}, level="quick", on="root@gpu-7")


# --- the program ----------------------------------------------------------------------------------


def test_the_program_is_one_file_that_depends_on_its_files_alone():
    packed = gpu.packed(ROOT)
    assert packed == gpu.packed(ROOT)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = archive.namelist()
        assert {one.date_time for one in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {"__main__.py", "gpu_check/", "gpu_check/cuda.py"} <= set(names)
    assert not [name for name in names if "pycache" in name]


def test_a_project_without_the_program_is_told(tmp_path):
    with pytest.raises(StoreError, match="this project has no ansible/roles/first_boot_gpu_check"):
        gpu.packed(tmp_path)


# --- over SSH -------------------------------------------------------------------------------------


def test_the_host_is_asked_with_what_is_expected(ssh):
    folder = ssh(answered(*RESULTS[:1]))
    answer = gpu.check(b"zip", {"ecc": "Enabled"}, level="medium", on="root@gpu-7")
    argv = (folder / "argv").read_text().split("\n")
    assert argv[argv.index("--") + 1] == "root@gpu-7"
    assert "BatchMode=yes" in argv
    assert "StrictHostKeyChecking" not in " ".join(argv)
    task = json.loads((folder / "stdin").read_text())
    assert task == {"program": "emlw", "expected": {"ecc": "Enabled"}, "level": "medium"}
    assert (answer.host, answer.junit) == ("root@gpu-7", "<testsuite />")
    assert answer.verdict.counts() == {"passed": 1, "failed": 0, "skipped": 0}


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            {"stderr": "No host key is known.\nHost key verification failed.\n", "status": 255},
            "root@gpu-7: the host key is not known",
            "ssh root@gpu-7",
        ),
        (
            {"stderr": "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification"
             " failed.\n", "status": 255},
            "root@gpu-7: the host key is not the one that is known",
            "ssh-keygen -R gpu-7",
        ),
        (
            {"stderr": "root@gpu-7: Permission denied (publickey).\n", "status": 255},
            "no key of yours is accepted",
            "ssh root@gpu-7",
        ),
        (
            {"stderr": "ssh: connect to host gpu-7 port 22: Connection refused\n", "status": 255},
            "the connection failed: ssh: connect to host gpu-7 port 22: Connection refused",
            "ssh root@gpu-7",
        ),
        (
            {"stderr": "Connection to gpu-7 closed by remote host.\n", "status": 255},
            "the connection failed: Connection to gpu-7 closed by remote host.",
            "ssh root@gpu-7",
        ),
        (
            {"stderr": "sh: 1: exec: python3: not found\n", "status": 127},
            "root@gpu-7: there is no python3",
            "apt-get install python3",
        ),
        (
            {"stderr": "Terminated\n", "status": 143},
            "ended before there was a result (status 143): Terminated",
            "run them again",
        ),
        (
            {"stdout": '{"old": "3.6.8"}\n'},
            "root@gpu-7: Python 3.6.8 is too old",
            "3.9 or newer",
        ),
        (
            {"stdout": '{"status": -9, "said": "passed  ECC\\n"}\n'},
            "ended before there was a result (status -9): passed  ECC",
            "run them again",
        ),
        (
            {"stdout": '{"status": 2, "said": "expect.json: gpu: is not known here\\n"}\n'},
            "the expectations cannot be used\n       expect.json: gpu: is not known here",
            "first_boot_gpu_check_expected",
        ),
    ],
)  # fmt: skip
def test_a_host_that_gives_no_results_is_told_in_one_message(ssh, said, message, hint):
    with pytest.raises(CommandError) as error:
        there(ssh, **said)
    assert message in error.value.message
    assert hint in error.value.hint
    assert error.value.exit_status == 1


# --- what came of it ------------------------------------------------------------------------------


def test_failures_are_named(ssh):
    answer = there(ssh, stdout=answered(*RESULTS, status=1, outcome="failed"))
    with pytest.raises(CheckError) as error:
        gpu.require_passed(answer)
    assert error.value.message == (
        "root@gpu-7: 1 of 3 checks of the GPUs failed\n       GPUs\n         1 x L4, expected are 2"
    )


def test_where_all_were_skipped_nobody_looked(ssh):
    answer = there(ssh, stdout=answered(RESULTS[2], status=1, outcome="failed"))
    with pytest.raises(CheckError, match="no check of the GPUs passed"):
        gpu.require_passed(answer)


def test_a_host_without_a_gpu_lacks_something(ssh):
    nothing = {"id": "gpu-present", "title": "A GPU", "outcome": "skipped", "message": "no GPU"}
    answer = there(ssh, stdout=answered(nothing, status=3, outcome="no-gpu"))
    with pytest.raises(HostError, match="root@gpu-7: no GPU") as error:
        gpu.require_gpu(answer)
    assert error.value.exit_status == 3


# --- the command ----------------------------------------------------------------------------------


def test_results_are_shown_as_those_of_images(run, ssh, tmp_path):
    folder = ssh(answered(*RESULTS, status=1, outcome="failed"))
    done = run("--gpu", "--on", "root@gpu-7", "--json", "--junit", tmp_path / "new/gpu.xml")
    assert done.exit_code == 1
    assert "skipped  dcgmi diag -r 1             no dcgmi" in done.stderr
    assert "2 x Enabled" not in done.stderr
    assert "1 passed, 1 failed, 1 skipped (root@gpu-7, 12 s)" in done.stderr
    assert "error: root@gpu-7: 1 of 3 checks of the GPUs failed" in done.stderr
    written = json.loads(done.stdout)
    assert (written["host"], written["outcome"]) == ("root@gpu-7", "failed")
    assert (tmp_path / "new/gpu.xml").read_text() == "<testsuite />"
    assert json.loads((folder / "stdin").read_text())["expected"] == {"cuda_version": "12.4"}


def test_every_check_is_a_line_where_more_is_to_be_told(run, ssh):
    ssh(answered(RESULTS[0]))
    done = run("--gpu", "--on", "gpu-7", "-v")
    assert done.exit_code == 0
    assert "passed   ECC                         2 x Enabled" in done.stderr


def test_a_host_that_greets_everybody_is_understood(ssh):
    assert there(ssh, stdout=f"Welcome!\n{answered(RESULTS[0])}").verdict.passed


def test_a_stage_without_the_role_expects_nothing(run, ssh):
    folder = ssh(answered(RESULTS[0]))
    done = run("base", "--gpu", "--on", "gpu-7")
    assert "base expects nothing of a machine" in done.stderr
    assert json.loads((folder / "stdin").read_text())["expected"] == {}


@pytest.mark.parametrize(
    ("gpus", "more", "pci_ids"),
    [
        ("[h100]", "", {"H100": ["2330", "2331"]}),
        ("[H100]", ', pci_ids: {H100: ["2339"]}', {"H100": ["2339"]}),
        ("[H100, X1]", "", None),
        ("[]", "", None),
    ],
    ids=["of the table", "of the role", "one that nobody knows", "for none in particular"],
)
def test_a_host_is_compared_with_the_gpus_that_were_declared(
    project, run, ssh, gpus, more, pci_ids
):
    project(DECLARING_ROLE | {
        "stages/final/stage.yml": f"""\
            parent: base
            roles:
              - role: stand_in
                variables: {{stand_in_gpus: {gpus}}}
              - role: first_boot_gpu_check
                variables: {{first_boot_gpu_check_expected: {{cuda_version: "12.4"{more}}}}}
              - sealing
            """,
    })  # fmt: skip
    folder = ssh(answered(RESULTS[0]))
    done = run("--gpu", "--on", "gpu-7")
    assert done.exit_code == 0, done.stderr
    expected = json.loads((folder / "stdin").read_text())["expected"]
    assert expected == {"cuda_version": "12.4"} | ({"pci_ids": pci_ids} if pci_ids else {})


def test_a_missing_gpu_has_a_status_of_its_own(run, ssh):
    nothing = {"id": "gpu-present", "title": "A GPU", "outcome": "skipped", "message": "no GPU"}
    ssh(answered(nothing, status=3, outcome="no-gpu"))
    done = run("--gpu", "--on", "gpu-7", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["outcome"] == "no-gpu"
    assert "passed" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "gpu-7"], "--on and --level go with --gpu"),
        (["--level", "medium"], "--on and --level go with --gpu"),
        (["--gpu", "--vm"], "--gpu does not go with --vm or --events"),
        (["--gpu", "--events", "x.jsonl"], "--gpu does not go with --vm or --events"),
        (["--gpu", "--on", "-oProxyCommand=x"], "must be HOST, USER@HOST or ssh://USER@HOST:PORT"),
        (["--gpu", "--on", ""], "must be HOST"),
        (["--gpu", "--level", "endless"], "is not one of 'quick', 'medium', 'long'"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, words, said):
    done = run(*words)
    assert done.exit_code == 2
    assert said in done.stderr
