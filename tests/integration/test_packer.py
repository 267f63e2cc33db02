"""Both lines of Packer, run for real: 1.6 from Debian, and a current one where Go can build it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder import process
from builder.errors import CommandError, HostError, ProjectError
from builder.hcl import quote
from builder.packer import CallbackError, Packer
from builder.template import NEUTRAL, TemplateContext, render

pytestmark = pytest.mark.integration

TEMPLATES = Path(__file__).parents[2] / "packer"
# What HCL, Packer, Go's templates and a shell each might take for their own.
AWKWARD = "${x} %{if} $${y} %%{z} \"q\" 'a' \\ \\n $$ 100% für `id` $(id) ~ *"


@dataclass(frozen=True)
class Server:
    """An SSH server that takes ``key``."""

    port: int
    key: Path


@pytest.fixture(scope="session")
def server(tmp_path_factory, require_program):
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("key", "host"):
        argv = [require_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f"]
        process.run([*argv, folder / name])
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = _free_port()
    argv = [
        require_program("sshd"), "-D", "-e", "-f", "/dev/null", "-p", str(port),
        "-o", "ListenAddress=127.0.0.1", "-o", f"HostKey={folder / 'host'}", "-o", "PidFile=none",
        "-o", f"AuthorizedKeysFile={folder / 'key.pub'}", "-o", "StrictModes=no",
        "-o", "PermitRootLogin=yes", "-o", "UsePAM=no",
    ]  # fmt: skip
    with process.start(argv, log=folder / "log", contained=True):
        _wait(lambda: _answers(port), (folder / "log"))
        yield Server(port, folder / "key")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(true, log: Path) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    pytest.fail(f"waited 30 s in vain:\n{log.read_text() if log.exists() else ''}")


@dataclass(frozen=True)
class Bench:
    """A folder in which a Packer builds with the null builder and a callback of Python code."""

    packer: Packer
    server: Server
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "packer.log"

    def written(self, code: str, *arguments: str) -> Path:
        here = replace(
            NEUTRAL,
            private_key=self.server.key,
            ssh_port=self.server.port,
            callback=[sys.executable, "-c", code, *arguments],
        )
        user = "root" if os.geteuid() == 0 else os.environ["USER"]
        context = TemplateContext(
            line=self.packer.line, engine="nspawn", stage="base", user=user, circumstance=here
        )
        text = render(TEMPLATES / "stage.pkr.hcl.j2", context, search=[TEMPLATES])
        rendered = self.folder / "stage.pkr.hcl"
        rendered.write_text(text)
        return rendered

    def build(self, code: str, *arguments: str, **options) -> None:
        rendered = self.written(code, *arguments)
        self.packer.build(rendered, work=self.folder, log=self.log, **options)


@pytest.fixture
def bench(packer, server, tmp_path):
    return Bench(packer, server, tmp_path)


# --- finding it -----------------------------------------------------------------------------------


def _program(folder: Path, text: str) -> str:
    path = folder / "packer"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_version_and_the_line(packer):
    assert str(packer).startswith(packer.line) == (packer.line == "1.6")
    assert packer.version >= (1, 6, 0)


def test_no_packer(tmp_path):
    with pytest.raises(HostError) as caught:
        Packer.find(str(tmp_path / "packer"))
    assert "docs/install-packer.md" in (caught.value.hint or "") or caught.value.hint


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("echo Packer v1.5.6", "is Packer 1.5.6; 1.6 is the oldest that will do"),
        ("cat >/dev/null; echo usage", "is not HashiCorp's Packer"),
        ("echo oops >&2; exit 1", "is not HashiCorp's Packer"),
    ],
)
def test_a_packer_that_will_not_do(says, message, tmp_path):
    with pytest.raises(HostError, match=message) as caught:
        Packer.find(_program(tmp_path, says))
    assert "docs/install-packer.md" in caught.value.hint


def test_a_line_without_plugins_needs_none(tmp_path):
    Packer.find(_program(tmp_path, "echo Packer v1.6.6")).require_plugins("qemu")


def test_a_plugin_that_is_missing_is_named(tmp_path):
    program = _program(tmp_path, '[ "$1" = version ] && echo Packer v1.11.2')
    found = Packer.find(program)
    found.require_plugins("nspawn")
    with pytest.raises(HostError, match=r"Packer 1\.11\.2 has no qemu plugin") as caught:
        found.require_plugins("qemu")
    assert f"{program} plugins install github.com/hashicorp/qemu" in caught.value.hint


def test_the_plugins_of_the_user_are_found(tmp_path):
    file = "/home/me/plug ins/github.com/hashicorp/qemu/packer-plugin-qemu_v1.0.9_x5.0_linux_amd64"
    says = f'case $1 in version) echo Packer v1.11.2;; plugins) echo "{file}";; esac'
    found = Packer.find(_program(tmp_path, says))
    assert found.plugins == Path("/home/me/plug ins")
    found.require_plugins("qemu")


# --- building -------------------------------------------------------------------------------------

REPORT = """
import json, os, sys
open(sys.argv[1], "w").write(json.dumps({"argv": sys.argv[2:], "env": dict(os.environ)}))
"""


def test_the_callback_is_told_where_the_guest_is(bench):
    seen = bench.folder / "seen.json"
    bench.build(REPORT, str(seen), AWKWARD, "", env={"ONE": AWKWARD})
    told = json.loads(seen.read_text())
    assert told["argv"] == [AWKWARD, "", "127.0.0.1", str(bench.server.port)]
    assert told["env"]["ONE"] == AWKWARD
    assert "Connected to SSH!" in bench.log.read_text()


def test_values_survive_packer(bench):
    seen = bench.folder / "seen.json"
    text = bench.written(REPORT, str(seen)).read_text()
    text = text.replace("command = ", f"environment_vars = [{quote('ONE=' + AWKWARD)}]\ncommand = ")
    # Packer writes these variables into a line of shell, between single quotes of its own.
    (bench.folder / "stage.pkr.hcl").write_text(text)
    bench.packer.build(bench.folder / "stage.pkr.hcl", work=bench.folder, log=bench.log)
    assert json.loads(seen.read_text())["env"]["ONE"] == AWKWARD


def test_packers_own_files_stay_in_the_work_folder(bench, monkeypatch):
    monkeypatch.setenv("HOME", str(bench.folder / "home"))
    (bench.folder / "home").mkdir()
    bench.build(REPORT, str(bench.folder / "seen.json"))
    told = json.loads((bench.folder / "seen.json").read_text())["env"]
    assert told["CHECKPOINT_DISABLE"] == "1"
    assert Path(told["PACKER_CACHE_DIR"]).is_relative_to(bench.folder / "packer-home")
    assert not list((bench.folder / "home").iterdir())
    assert not Path(told["TMPDIR"]).exists()


def test_a_callback_that_fails(bench):
    with pytest.raises(CallbackError, match="Script exited with non-zero exit status: 3") as caught:
        bench.build("import sys; print('the guest is sad', flush=True); sys.exit(3)")
    assert caught.value.log == bench.log
    assert "the guest is sad" in bench.log.read_text()


def test_what_packer_says_is_told_and_logged_as_people_read_it(bench):
    told = []
    with pytest.raises(CallbackError):
        bench.build("import sys; print('one, two'); sys.exit(3)", told=told.append)
    errors = [message.text for message in told if message.kind == "error"]
    assert any("non-zero exit status: 3" in text for text in errors)
    said = [message.text for message in told if message.kind != "error"]
    assert any("one, two" in text for text in said)
    assert set("\n".join(said + errors).splitlines()) <= set(bench.log.read_text().splitlines())
    assert ",ui,error," in bench.log.with_suffix(".csv").read_text()


def test_a_second_log_does_not_hide_the_first(bench):
    bench.build("print('first')")
    with pytest.raises(CallbackError) as caught:
        bench.build("raise SystemExit('second')")
    assert "first" in bench.log.read_text()
    assert "first" not in caught.value.output


def test_a_guest_that_does_not_answer(bench):
    silent = replace(bench, server=Server(_free_port(), bench.server.key))
    text = silent.written("pass").read_text().replace('"10m"', '"2s"')
    (bench.folder / "stage.pkr.hcl").write_text(text)
    with pytest.raises(CommandError, match="Timeout waiting for SSH") as caught:
        bench.packer.build(bench.folder / "stage.pkr.hcl", work=bench.folder, log=bench.log)
    assert not isinstance(caught.value, CallbackError)
    assert "console log" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ssh_port ", "ssh_prot ", r'An argument named "ssh_prot" is not expected here.*\(line \d'),
        ('"shell-local"', '"shell-locl"', r"shell-locl"),
    ],
)
def test_a_template_that_packer_refuses(old, new, message, bench):
    rendered = bench.written("pass")
    rendered.write_text(rendered.read_text().replace(old, new, 1))
    blame = Path("stages/base/own.pkr.hcl.j2")
    with pytest.raises(ProjectError, match=message) as caught:
        bench.packer.build(rendered, work=bench.folder, log=bench.log, blame=blame)
    assert {problem.file for problem in caught.value.problems} == {blame}


# --- stopping -------------------------------------------------------------------------------------

# The callback starts a daemon that has left its session: only a container of processes holds it.
LINGER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]],
                 start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
open(sys.argv[2], "w").close()
if len(sys.argv) > 5: time.sleep(600)
"""


def test_nothing_is_left_of_a_build_that_takes_too_long(bench, alive):
    mark = f"linger-{bench.folder}"
    with pytest.raises(CommandError, match="did not end within"):
        bench.build(LINGER, mark, str(bench.folder / "up"), "stay", timeout=8)
    assert (bench.folder / "up").exists()
    _wait(lambda: not alive(mark), bench.log)


def test_nothing_is_left_of_a_build_that_went_well(bench, alive):
    mark = f"linger-{bench.folder}"
    bench.build(LINGER, mark, str(bench.folder / "up"))
    _wait(lambda: not alive(mark), bench.log)


BUILDER = """
import fcntl, sys
from pathlib import Path
from builder.packer import Packer
packer = Packer(sys.argv[1], (1, 6, 6))
lock = open(sys.argv[2] + "/lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
work = Path(sys.argv[2])
packer.build(work / "stage.pkr.hcl", work=work, log=work / "packer.log", keep_fds=[lock.fileno()])
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_driver_that_is_stopped(signum, bench, alive):
    mark = f"linger-{bench.folder}"
    bench.written(LINGER, mark, str(bench.folder / "up"), "stay")
    # A process of its own: it is the one that dies.
    argv = [sys.executable, "-c", BUILDER, bench.packer.program, str(bench.folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL) as driver:
        _wait((bench.folder / "up").exists, bench.log)
        with (bench.folder / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        driver.send_signal(signum)
        driver.wait(60)
    _wait(lambda: not alive(mark), bench.log)
    with (bench.folder / "lock").open() as lock:
        _wait(lambda: _locked(lock), bench.log)


def _locked(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
