"""What is said about programs before one is started; integration/test_process.py starts some."""

import pytest

from builder import process
from builder.errors import CommandError, HostError


def test_the_environment_is_made_of_nothing(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("ANSIBLE_CONFIG", "/elsewhere")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    env = process.environment({"EXTRA": "1"})
    assert "AWS_SECRET_ACCESS_KEY" not in env
    assert "ANSIBLE_CONFIG" not in env
    assert env["https_proxy"] == "http://proxy:3128", "the way to the outside is passed on"
    assert env["LANG"] == "C.UTF-8", "messages are read, so they are not translated"
    assert env["EXTRA"] == "1"


def test_there_is_always_a_path(monkeypatch):
    monkeypatch.delenv("PATH")
    assert process.environment()["PATH"]


@pytest.mark.parametrize("program", ["packer", "qemu-img", "mmdebstrap", "systemd-nspawn", "socat"])
def test_a_missing_program_comes_with_what_installs_it(tmp_path, monkeypatch, program):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=f"no {program}") as caught:
        process.require(program)
    assert "apt-get install" in caught.value.hint
    assert caught.value.exit_status == 3


def test_programs_of_one_package_are_installed_once():
    assert process.how_to_install("mmd", "mcopy", "ssh") == "apt-get install mtools openssh-client"
    assert process.how_to_install("qemu-storage-daemon") == "apt-get install qemu-system-common"


def test_any_other_missing_program_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as caught:
        process.require("frobnicate")
    assert "frobnicate" in caught.value.hint


def test_a_program_is_found_on_path_first(tmp_path, monkeypatch):
    (tmp_path / "packer").write_text("#!/bin/sh\n")
    (tmp_path / "packer").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process.require("packer") == str(tmp_path / "packer")


def test_a_failure_shows_the_last_lines(tmp_path):
    output = "\n".join(f"line {number}" for number in range(100))
    log = tmp_path / "log"
    error = process.failure(["/usr/bin/mkfs.ext4", "-q"], 3, output, log=log)
    assert isinstance(error, CommandError)
    assert error.message.startswith("mkfs.ext4 failed with status 3\n")
    assert "line 99" in error.message
    assert "line 50" not in error.message
    assert error.output == output
    assert (error.status, error.log) == (3, log)


def test_a_failure_by_a_signal_names_it():
    error = process.failure(["qemu-img"], -9, "")
    assert error.message == "qemu-img was killed by signal 9"
