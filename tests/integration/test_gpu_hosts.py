"""``vaultbuild verify --gpu`` over a real SSH server, to a machine with GPUs that are stand-ins."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder import gpu, process
from builder.errors import CommandError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
_LONG = 120


@pytest.fixture
def sshd(gpu_machine, tmp_path, require_program, require_root):
    """Start a server on that machine; yield its address. Nobody knows its host key yet."""
    require_root()  # sshd wants a folder of root's
    server, keygen = require_program("sshd"), require_program("ssh-keygen")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host", "user"):
        process.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "tmp").mkdir()
    environment = gpu_machine.environment(TMPDIR=str(tmp_path / "tmp"))
    variables = " ".join(f"{name}={value}" for name, value in environment.items())
    settings = [
        f"Port={port}", "ListenAddress=127.0.0.1", f"HostKey={tmp_path}/host", "PidFile=none",
        f"AuthorizedKeysFile={tmp_path}/user.pub", "StrictModes=no", "UsePAM=no",
        "PermitRootLogin=yes", "PasswordAuthentication=no",
        # Past what the profile of this machine's root says of PATH.
        f'ForceCommand=exec env {variables} sh -c "$SSH_ORIGINAL_COMMAND"',
    ]  # fmt: skip
    words = [word for setting in settings for word in ("-o", setting)]
    argv = [server, "-D", "-e", "-f", "/dev/null", *words]
    with process.start(argv, log=tmp_path / "sshd.log"):
        until(lambda: b"SSH" in banner(port))
        yield f"ssh://root@127.0.0.1:{port}"


def banner(port: int) -> bytes:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as there:
        return there.recv(16)
    return b""


def until(true) -> None:
    """Return when something has come to be so; fail when it does not in a long time."""
    end = time.monotonic() + _LONG
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"it did not come to be so in {_LONG} s", pytrace=False)
        time.sleep(0.05)


@pytest.fixture
def user(program, tmp_path, require_program):
    """Whose ssh has a key for the server, and a list of known hosts: empty, until it is filled."""
    real, known = require_program("ssh"), tmp_path / "known_hosts"
    known.write_text("")
    own = f"-F /dev/null -i {tmp_path}/user -o UserKnownHostsFile={known}"
    own += " -o GlobalKnownHostsFile=/dev/null -o IdentityAgent=none"
    program("ssh", f'#!/bin/sh\nexec {real} {own} "$@"\n')

    def knows(address: str, key: Path) -> None:
        port = address.rpartition(":")[2]
        known.write_text(f"[127.0.0.1]:{port} {key.read_text()}")

    return knows


def test_a_host_is_checked_and_nothing_stays_there(sshd, user, tmp_path, gpu_machine):
    user(sshd, tmp_path / "host.pub")
    expected = {"gpus": {"NVIDIA H100 80GB HBM3": 2}, "driver_version": "580.65.06"}
    answer = gpu.check(gpu.packed(ROOT), expected, level="quick", on=sshd)
    found = {one["id"]: one["outcome"] for one in answer.document["results"]}
    assert found["gpu-list"] == found["cuda-kernel"] == "passed"
    assert [one for one in found if found[one] == "failed"] == ["driver-version"]
    assert answer.document["expected"] == expected
    assert 'name="gpu-list: GPUs"' in answer.junit
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_unknown_host_key_is_not_accepted(sshd, user, tmp_path):
    with pytest.raises(CommandError, match="the host key is not known"):
        gpu.check(b"", {}, level="quick", on=sshd)
    assert (tmp_path / "known_hosts").read_text() == ""


def test_another_host_key_is_not_accepted(sshd, user, tmp_path):
    user(sshd, tmp_path / "user.pub")
    with pytest.raises(CommandError, match="the host key is not the one that is known"):
        gpu.check(b"", {}, level="quick", on=sshd)


def test_a_key_that_is_not_let_in_is_told(sshd, user, tmp_path):
    user(sshd, tmp_path / "host.pub")
    (tmp_path / "user.pub").write_text("")
    with pytest.raises(CommandError, match="no key of yours is accepted"):
        gpu.check(b"", {}, level="quick", on=sshd)


def test_a_host_without_python_is_told(sshd, user, tmp_path, gpu_machine):
    user(sshd, tmp_path / "host.pub")
    gpu_machine.program("python3", "echo sh: python3: not found >&2; exit 127")
    with pytest.raises(CommandError, match="there is no python3"):
        gpu.check(b"", {}, level="quick", on=sshd)


def test_a_host_that_does_not_answer_is_told(user):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(CommandError, match=r"the connection failed: .*refused"):
            gpu.check(b"", {}, level="quick", on=f"ssh://root@127.0.0.1:{port}")


def test_a_run_that_is_stopped_ends_there_too(sshd, user, tmp_path, gpu_machine):
    user(sshd, tmp_path / "host.pub")
    (gpu_machine.bin / "query.xml").unlink()  # now nvidia-smi hangs
    os.mkfifo(gpu_machine.bin / "asleep")
    argv = [sys.executable, "-m", "builder", "--project", ROOT, "verify", "--gpu", "--on", sshd]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        hanging = int((gpu_machine.bin / "asleep").read_text())
        child.send_signal(signal.SIGINT)
        said = child.communicate()[1]
    assert child.returncode == 130
    assert "error: stopped by SIGINT" in said
    until(lambda: not Path("/proc", str(hanging)).exists())
    until(lambda: not list((tmp_path / "tmp").iterdir()))


def test_a_long_run_that_is_stopped_makes_the_gpus_whole_again(sshd, user, tmp_path, gpu_machine):
    user(sshd, tmp_path / "host.pub")
    (gpu_machine.bin / "profiles").unlink()  # now nvidia-smi hangs, with a GPU that was split
    os.mkfifo(gpu_machine.bin / "asleep")
    argv = [sys.executable, "-m", "builder", "--project", ROOT, "verify", "--gpu", "--on", sshd]
    with subprocess.Popen([*argv, "--level", "long"], cwd=ROOT) as child:
        (gpu_machine.bin / "asleep").read_text()
        assert (gpu_machine.bin / "split0").exists()
        child.send_signal(signal.SIGINT)
        child.wait()
    until(lambda: not (gpu_machine.bin / "split0").exists())
    until(lambda: not list((tmp_path / "tmp").iterdir()))


def test_this_host_is_checked_without_ssh(program, tmp_path):
    """Here is none, or one that may be anything: what comes is a document of the program's form."""
    program("ssh", "#!/bin/sh\necho it was asked >&2; exit 255\n")
    answer = gpu.check(gpu.packed(ROOT), {}, level="quick")
    assert answer.document["outcome"] in ("no-gpu", "passed", "failed")
    assert answer.host == socket.gethostname()


@pytest.mark.gpu
def test_gpus_of_this_host_compute():
    """Where there is one: the real driver, and nothing that stands in for it."""
    document = gpu.check(gpu.packed(ROOT), {}, level="medium").document
    if document["outcome"] == "no-gpu":
        pytest.skip("no NVIDIA GPU is here")
    about = {"nvidia-smi", "cuda-devices", "cuda-copy", "cuda-kernel", "bandwidth", "peer-access"}
    failed = [one for one in document["results"] if one["outcome"] == "failed"]
    assert [one for one in failed if one["id"] in about] == []


def test_expectations_that_cannot_be_used_are_told():
    with pytest.raises(CommandError, match="gpu: is not known here"):
        gpu.check(gpu.packed(ROOT), {"gpu": 8}, level="quick")
