"""Engines without a guest: what they say when none comes up, and what a guest may reach.

Whole boots are in e2e/.
"""

import base64
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from builder import disks, process
from builder.engines import Forward, Machine
from builder.engines.greeting import wait_for_ssh
from builder.engines.keys import make_keys
from builder.engines.nspawn import NspawnEngine
from builder.engines.qemu import OVMF, QemuEngine, caches_network
from builder.errors import CommandError, HostError
from builder.partitions import root_partition
from builder.rawdisk import exported
from builder.vm_options import console_patience, credential

pytestmark = pytest.mark.integration

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path, require_program) -> Machine:
    """A machine with an empty disk."""
    require_program("qemu-img")
    return make_machine(tmp_path)


@pytest.fixture
def odd_machine(tmp_path, require_program) -> Machine:
    """A machine in a folder with commas, which QEMU's options take for their own."""
    require_program("qemu-img")
    folder = tmp_path / "images, old,,new=1"
    folder.mkdir()
    return make_machine(folder)


def make_machine(folder: Path) -> Machine:
    work, logs = folder / "work", folder / "logs"
    work.mkdir()
    logs.mkdir()
    disk = folder / "disk.qcow2"
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, str(64 * MIB)])
    return Machine(disk, work=work, logs=logs, keys=make_keys(work), cpus=2, memory_mib=256)


# --- keys -----------------------------------------------------------------------------------------


def test_keys_are_a_pair_and_private(tmp_path):
    keys = make_keys(tmp_path)
    assert keys.private.stat().st_mode & 0o077 == 0
    derived = process.run(["ssh-keygen", "-y", "-f", keys.private]).stdout.split()
    assert derived[:2] == keys.public.split()[:2]
    assert "@" not in keys.public, "no user and no host of the build"


# --- waiting for SSH ------------------------------------------------------------------------------


@pytest.fixture
def greeting():
    """A server that greets as it is told to; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        words: list[bytes] = []

        def serve() -> None:
            while words:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(words.pop(0))

        def start(*said: bytes) -> int:
            words.extend(said)
            threading.Thread(target=serve, daemon=True).start()
            return server.getsockname()[1]

        yield start


def test_it_waits_until_ssh_greets(greeting, tmp_path):
    port = greeting(b"", b"HTTP", b"SSH-2.0-OpenSSH\r\n")
    with process.start(["sleep", "600"], log=tmp_path / "log") as child:
        wait_for_ssh(port, child, tmp_path / "console.log", timeout=60)


def test_it_does_not_wait_for_ever(tmp_path):
    trace = "".join(f"[ 2.1] frame {n}\n" for n in range(30))
    panic = "\x1b[0;31m[ 2.0] Kernel panic - not syncing: No working init found.\x1b[0m\r\n"
    (tmp_path / "console.log").write_text(f"[ 1.0] Booting\n{panic}{trace}")
    with (
        process.start(["sleep", "600"], log=tmp_path / "log") as child,
        pytest.raises(CommandError, match="SSH did not answer within") as caught,
    ):
        wait_for_ssh(1, child, tmp_path / "console.log", timeout=0.3)
    assert caught.value.message.splitlines()[-1].strip() == "[ 2.1] frame 29"
    assert caught.value.cause.rule == "kernel-panic"
    assert "No working init found" in caught.value.cause.sentence
    assert caught.value.log == tmp_path / "console.log"


def test_a_guest_that_never_wrote_is_explained_by_what_starts_it(tmp_path):
    log = tmp_path / "log"
    argv = ["sh", "-c", "echo no space left on device; exit 1"]
    with (
        process.start(argv, log=log) as child,
        pytest.raises(CommandError, match="the guest ended before SSH answered") as caught,
    ):
        wait_for_ssh(1, child, tmp_path / "console.log", timeout=60)
    assert "no space left on device" in caught.value.message
    assert caught.value.log == log


# --- qemu -----------------------------------------------------------------------------------------


def test_a_guest_reaches_the_caches_alone(require_program):
    require_program("socat")
    caches = [Forward("apt", "127.0.0.1", 20001, 3142), Forward("pypi", "127.0.0.1", 20002, 3141)]
    words = caches_network(20000, caches).split(",")
    assert "restrict=on" in words
    assert "hostfwd=tcp:127.0.0.1:20000-:22" in words, "and SSH on no other address"
    leads = [word for word in words if word.startswith("guestfwd=")]
    assert [lead.partition("-cmd:")[0] for lead in leads] == [
        "guestfwd=tcp:10.0.2.100:3142",
        "guestfwd=tcp:10.0.2.100:3141",
    ]
    assert [lead.rpartition(" ")[2] for lead in leads] == [
        "TCP:127.0.0.1:20001",
        "TCP:127.0.0.1:20002",
    ]


def test_the_key_is_handed_over_by_the_firmware():
    value = credential("ssh-ed25519 AAA")
    kind, _, encoded = value.partition("=io.systemd.credential.binary:ssh.authorized_keys.root=")
    assert kind == "type=11,value"
    assert base64.b64decode(encoded) == b"ssh-ed25519 AAA\n"


def test_a_slow_guest_still_gets_its_console():
    head = "type=11,value=io.systemd.credential.binary:systemd.unit-dropin.dev-ttyS0.device="
    encoded = console_patience(600).removeprefix(head)
    assert base64.b64decode(encoded) == b"[Unit]\nJobRunningTimeoutSec=600\n"


def test_a_vm_that_does_not_start_says_why(machine, program):
    program("qemu-system-x86_64", "#!/bin/sh\necho 'Could not open disk' >&2\nexit 1\n")
    engine = QemuEngine("tcg")
    with (
        pytest.raises(CommandError, match="the guest ended before SSH answered") as caught,
        engine.boot(machine),
    ):
        pytest.fail("there is no guest")
    assert "Could not open disk" in caught.value.message


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_vm_takes_every_word(odd_machine, firmware, require_program):
    require_program("qemu-system-x86_64")
    if firmware == "uefi" and not OVMF.is_dir():
        pytest.skip("no UEFI firmware")
    log = odd_machine.logs / "qemu.log"
    engine = QemuEngine("tcg")
    argv = engine._command(replace(odd_machine, firmware=firmware), 20000)
    assert "restrict=on" in " ".join(argv)
    with (
        process.start([*argv, "-S"], log=log, contained=True) as child,
        pytest.raises(CommandError, match="did not end within"),
    ):
        child.wait(1)
    assert child.status is not None, "it ended when told to"
    assert odd_machine.console.exists()


def test_packer_is_given_no_comma_that_it_would_trip_over(odd_machine):
    with pytest.raises(HostError, match="a comma in its path") as caught:
        QemuEngine("tcg").serve(odd_machine, "../../images/base/disk.qcow2").__enter__()
    assert "--engine nspawn" in caught.value.hint


# --- nspawn ---------------------------------------------------------------------------------------


def test_the_largest_linux_partition_is_the_root(tmp_path, require_program):
    require_program("sfdisk")
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    layout = "label: gpt\n,8M,U\n,8M,L\n,24M,L\n,8M,S\n"
    process.run(["sfdisk", "--quiet", disk], stdin=layout)
    start, size = root_partition(disk)
    assert (start % MIB, size) == (0, 24 * MIB)
    assert start >= 17 * MIB


def test_an_mbr_will_do(tmp_path, require_program):
    require_program("sfdisk")
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    process.run(["sfdisk", "--quiet", disk], stdin="label: dos\n,24M,83\n")
    assert root_partition(disk)[1] == 24 * MIB


def test_a_disk_without_a_root_says_so(machine, require_program, require_root):
    require_root()
    for name in ("qemu-storage-daemon", "systemd-nspawn", "socat"):
        require_program(name)
    with (
        pytest.raises(CommandError, match="the guest ended before SSH answered") as caught,
        NspawnEngine().boot(machine),
    ):
        pytest.fail("there is no guest")
    assert "sfdisk" in caught.value.message
    disks.check(machine.disk)
    mounts = process.run(["cat", "/proc/mounts"]).stdout
    assert str(machine.work) not in mounts


def test_a_disk_is_exported_wherever_it_lies(odd_machine, require_program, require_root):
    require_root()
    require_program("qemu-storage-daemon")
    process.run(["qemu-io", "-f", "qcow2", "-c", "write -P 65 0 4096", odd_machine.disk])
    sockets = odd_machine.work / "s,ockets"
    sockets.mkdir()
    log = odd_machine.logs / "container.log"
    with exported(odd_machine.disk, odd_machine.work, log, monitor=sockets / "qmp") as raw:
        assert raw.stat().st_size == 64 * MIB
        with raw.open("r+b") as file:
            assert file.read(4096) == b"A" * 4096
            file.seek(0)
            file.write(b"B" * 4096)
        assert (sockets / "qmp").is_socket()
    process.run(["qemu-io", "-f", "qcow2", "-c", "read -P 66 0 4096", odd_machine.disk])
    disks.check(odd_machine.disk)


def test_mounting_needs_root(machine):
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(HostError, match="only root may") as caught:
            NspawnEngine().boot(machine).__enter__()
    finally:
        os.seteuid(was)
    assert "--engine qemu" in caught.value.hint
