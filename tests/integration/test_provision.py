"""Real Ansible on a real SSH server: what a role does, how it fails, and what stays behind.

The guest is this machine with tmpfs over its ``/run``, ``/root`` and ``/var/tmp``, in namespaces
that end with the test. Roles of these tests write nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import textwrap
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from builder import events, process, ssh
from builder.engines import Endpoint
from builder.errors import Interrupted, ProvisionError
from builder.guest import Job, Result, raise_failure, read_result, write_job
from builder.provision import Caches, Use

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SSHD = """\
mount -t tmpfs -o mode=755 tmpfs /run && mount -t tmpfs -o mode=700 tmpfs /root &&
mount -t tmpfs -o mode=1777 tmpfs /var/tmp &&
mkdir -m 755 /run/sshd && mkdir -m 700 /root/.ssh &&
printf '%s\\n' "$2" > /root/.ssh/authorized_keys &&
ssh-keygen -q -t ed25519 -N '' -f /run/hostkey &&
exec "$0" -D -e -f /dev/null -p "$1" -o ListenAddress=127.0.0.1 -o HostKey=/run/hostkey \
  -o PidFile=none -o PermitRootLogin=yes -o PasswordAuthentication=no -o UsePAM=no \
  -o 'Subsystem=sftp internal-sftp'
"""
ROLES = {
    "greeting/meta/argument_specs.yml": """\
        argument_specs:
          main:
            options:
              greeting_text: {type: str, required: true}
              greeting_times: {type: int, default: 1}
        """,
    "greeting/handlers/main.yml": """\
        - name: Note the change
          ansible.builtin.copy: {content: noted, dest: /root/noted, mode: "0644"}
        """,
    "greeting/tasks/main.yml": """\
        - name: Write the greeting
          ansible.builtin.copy:
            content: "{{ [greeting_text] * greeting_times | default(1) }}"
            dest: /root/greeting
            mode: "0644"
          notify: Note the change
        - name: Use a fact
          ansible.builtin.copy:
            content: "{{ ansible_facts.pkg_mgr }}"
            dest: /root/fact
            mode: "0644"
        - name: Write the environment
          ansible.builtin.shell: printenv > /root/environment
          changed_when: false
        - name: Write what the controller knows
          ansible.builtin.copy:
            content: "{{ lookup('env', 'TOKEN') }}"
            dest: /root/token
            mode: "0644"
        - name: Do something else meanwhile
          ansible.builtin.command: sleep 0.1
          async: 30
          poll: 1
          changed_when: false
        """,
    "failing/tasks/main.yml": """\
        - name: Break and mend
          block:
            - name: Break
              ansible.builtin.command: "false"
          rescue:
            - name: Mend
              ansible.builtin.debug: {msg: mended}
        - name: Do not mind
          ansible.builtin.command: "false"
          ignore_errors: true
        - name: Install wheels
          ansible.builtin.shell: echo looking; echo 'no matching wheel' >&2; exit 3
        """,
    "secretive/tasks/main.yml": """\
        - name: Use a password
          ansible.builtin.shell: echo hunter2 >&2; exit 1
          no_log: true
        """,
    "quick/tasks/main.yml": """\
        - name: Look
          ansible.builtin.stat: {path: /root}
        """,
    "severing/tasks/main.yml": """\
        - name: Lose the guest
          ansible.builtin.shell: kill -9 -1
        """,
    "sleeping/tasks/main.yml": """\
        - name: Sleep
          ansible.builtin.command: sleep 600
        """,
}


@dataclass
class Guest:
    """A guest, and the folder of the project that provisions it."""

    endpoint: Endpoint
    admin: Endpoint
    work: Path
    job: Job = field(init=False)

    def __post_init__(self) -> None:
        logs = self.work / "logs"
        self.job = Job(
            "frameworks",
            self.work / "snapshot",
            self.endpoint.private_key,
            logs,
            logs / "events.jsonl",
            logs / "result.json",
            (),
        )

    def command(self, *uses: Use, **changes) -> list[str]:
        """Write the job; return the command that Packer would run."""
        job = replace(self.job, roles=uses, **changes)
        write_job(self.work / "job.json", job)
        place = [self.endpoint.host, str(self.endpoint.port)]
        return [sys.executable, "-m", "builder.guest", str(self.work / "job.json"), *place]

    def provision(self, *uses: Use, **changes) -> Result:
        """Run the program that Packer would run; return what it wrote."""
        done = process.run(self.command(*uses, **changes), cwd=ROOT, check=False)
        result = read_result(self.job.result)
        assert result is not None, done.stderr
        assert done.status == (0 if result.status == "done" else 1), done.stderr
        return result

    def failure(self, *uses: Use, **changes) -> ProvisionError:
        """Provision, and return the error that it must end with."""
        with pytest.raises(ProvisionError) as caught:
            raise_failure(self.provision(*uses, **changes))
        return caught.value

    def look(self, program: str) -> str:
        """Run a Python program in the guest, by a key that provisioning does not know."""
        with ssh.connect(self.admin, log=self.work / "look.log") as link:
            return link.run_python(program)

    def content(self, path: str) -> str:
        return self.look(f"print(open({path!r}).read(), end='')")

    def events(self) -> list[events.Event]:
        return events.read(self.job.events)


@pytest.fixture
def guest(tmp_path, require_program, require_root, missing):
    require_root()
    sshd, keygen = require_program("sshd"), require_program("ssh-keygen")
    if not Path("/usr/bin/python3").exists():
        missing("the test's guest needs /usr/bin/python3")
    for name in ("build", "admin"):
        process.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name])
    for name, text in ROLES.items():
        path = tmp_path / "snapshot/ansible/roles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    port = _free_port()
    keys = "".join((tmp_path / f"{name}.pub").read_text() for name in ("build", "admin"))
    argv = ["sh", "-c", SSHD, str(sshd), str(port), keys.strip()]
    with process.start(argv, log=tmp_path / "sshd.log", contained=True):
        _wait_for(port, tmp_path / "sshd.log")
        build, admin = (
            Endpoint("127.0.0.1", port, "root", tmp_path / name) for name in ("build", "admin")
        )
        yield Guest(build, admin, tmp_path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port: int, log: Path) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"the SSH server did not start:\n{log.read_text()}")


GREETING = Use("greeting", {"greeting_text": "hello", "greeting_times": 2})


# --- what goes right ------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "runs"), [("auto", 2), ("pipelining", 1)])
def test_a_stage_is_provisioned_and_keeps_no_trace(guest, strategy, runs, monkeypatch) -> None:
    # What this user has set must not reach Ansible: neither settings nor secrets.
    monkeypatch.setenv("ANSIBLE_FORKS", "nonsense")
    monkeypatch.setenv("TOKEN", "secret")
    caches = Caches("http://127.0.0.1:9/", "http://127.0.0.1:9/root/pypi/+simple/")

    result = guest.provision(*[GREETING] * runs, caches=caches, strategy=strategy)

    assert result.status == "done", result.failure
    assert result.strategy == {"auto": "mitogen", "pipelining": "pipelining"}[strategy]
    assert result.roles[0]["changed_tasks"] == [
        "Write the greeting",
        "Use a fact",
        "Write what the controller knows",
        "Note the change",
    ]
    assert [role["changed"] for role in result.roles] == [4, 0][:runs], "again changes nothing"
    assert result.packages["dpkg"]["dpkg"]
    assert guest.content("/root/greeting") == '["hello", "hello"]', "numbers stay numbers"
    assert guest.content("/root/noted") == "noted"
    assert guest.content("/root/token") == ""
    assert "APT_CONFIG=/run/vaultbuild/apt.conf\n" in guest.content("/root/environment")
    assert "PIP_TRUSTED_HOST=127.0.0.1\n" in guest.content("/root/environment")
    _assert_no_trace(guest)
    _assert_logs(guest)


def _assert_no_trace(guest: Guest) -> None:
    left = guest.look(
        "import os\nfor top in ('/run', '/root', '/var/tmp'):"
        "\n  for at, folders, files in os.walk(top):"
        "\n    print(*[os.path.join(at, name) for name in folders + files], sep='\\n')"
    )
    for trace in ("vaultbuild", ".ansible", "ansible", ".cache"):
        assert trace not in left
    key = guest.endpoint.private_key.with_suffix(".pub").read_text().split()[1]
    assert key not in guest.content("/root/.ssh/authorized_keys")


def _assert_logs(guest: Guest) -> None:
    told = guest.events()
    assert {(event.stage, event.role) for event in told} == {("frameworks", "greeting")}
    assert (told[0].event, told[-1].event, told[-1].status) == (
        "role_started",
        "role_finished",
        "done",
    )
    ended = [(event.task, event.status) for event in told if event.event == "task_finished"]
    assert ("Write the greeting", "changed") in ended
    assert ("Write the environment", "ok") in ended
    first = next(event for event in told if event.event == "role_finished")
    assert (first.changed, first.tasks) == (4, 7)
    log = (guest.job.logs / "ansible.log").read_text()
    assert "TASK [greeting : Write the greeting]" in log
    assert "\x1b" not in log, "a log is read with any pager"
    run = guest.job.logs / "runs/00-greeting"
    assert json.loads((run / "env/extravars").read_text()) == dict(GREETING.variables)
    assert not (run / "artifacts").exists(), "ansible-runner writes the whole environment there"


def test_a_stage_goes_on_after_the_roles_that_are_done(guest) -> None:
    result = guest.provision(Use("failing", {}), Use("quick", {}), first_role=1)

    assert result.status == "done", result.failure
    assert [role["role"] for role in result.roles] == ["quick"]


def test_a_role_is_used_again_under_a_name_of_its_own(guest) -> None:
    again = Use("greeting:again", {"greeting_text": "again", "greeting_times": 1})

    result = guest.provision(GREETING, again)

    assert result.status == "done", result.failure
    assert [(role["role"], role["changed"] > 0) for role in result.roles] == [
        ("greeting", True), ("greeting:again", True),
    ]  # fmt: skip
    assert guest.content("/root/greeting") == '["again"]'
    assert {event.role for event in guest.events()} == {"greeting", "greeting:again"}


def test_a_failure_names_the_use_and_the_hint_the_role(guest) -> None:
    error = guest.failure(Use("greeting:again", {"greeting_times": "many"}))

    assert error.role == "greeting:again"
    assert "role greeting:again" in error.message
    assert error.hint == "ansible/roles/greeting/meta/argument_specs.yml says what the role takes"


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["auto", "pipelining"])
def test_a_failed_task_says_where_and_why(guest, strategy) -> None:
    error = guest.failure(Use("failing", {}), GREETING, strategy=strategy)

    assert (error.stage, error.role, error.task) == ("frameworks", "failing", "Install wheels")
    assert error.message.splitlines() == [
        'frameworks: role failing, task "Install wheels" failed',
        "       echo looking; echo 'no matching wheel' >&2; exit 3: exit status 3",
        "       no matching wheel",
    ]
    assert error.hint == "the task is at ansible/roles/failing/tasks/main.yml:11"
    assert error.log is not None
    assert "no matching wheel" in error.log.read_text()
    assert guest.events()[-1].status == "failed"
    statuses = [event.status for event in guest.events() if event.event == "task_finished"]
    assert statuses.count("ignored") == 1
    assert "greeting" not in {event.role for event in guest.events()}


def test_a_variable_of_the_wrong_type_is_told_by_its_name(guest) -> None:
    error = guest.failure(Use("greeting", {"greeting_times": "many"}))

    assert "greeting_times" in error.message
    assert "missing required arguments: greeting_text" in error.message
    assert error.hint == "ansible/roles/greeting/meta/argument_specs.yml says what the role takes"


def test_what_a_task_hides_stays_hidden(guest) -> None:
    error = guest.failure(Use("secretive", {}))

    assert error.task == "Use a password"
    assert "no_log" in error.message
    written = [path for path in guest.job.logs.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hunter2" in path.read_bytes()]


def test_a_role_that_does_not_exist_is_named(guest) -> None:
    error = guest.failure(Use("greting", {}))

    assert error.task is None
    assert "the role 'greting' was not found" in error.message


@pytest.mark.parametrize("strategy", ["auto", "pipelining"])
def test_a_guest_that_goes_away_is_not_a_failed_task(guest, strategy) -> None:
    error = guest.failure(Use("severing", {}), strategy=strategy)

    assert error.message.startswith(
        'frameworks: role severing, task "Lose the guest" lost the guest'
    )


def test_a_guest_that_never_came_is_told_with_what_ssh_said(guest) -> None:
    nobody = Guest(replace(guest.endpoint, port=_free_port()), guest.admin, guest.work)

    error = nobody.failure(GREETING)

    assert "does not answer on SSH" in error.message
    assert "Connection refused" in error.message
    assert error.role == ""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_program_leaves_nothing_running(guest, signum) -> None:
    child = process.start(guest.command(Use("sleeping", {})), log=guest.work / "out.log", cwd=ROOT)
    with child:
        _until(lambda: guest.job.events.exists() and '"Sleep"' in guest.job.events.read_text())
        os.kill(child.pid, signum)
        assert child.wait(60) == {signal.SIGTERM: 1, signal.SIGKILL: -9}[signum]
        _until(lambda: not _processes_about(guest.job.logs))

    result = read_result(guest.job.result)
    if signum == signal.SIGKILL:
        assert result is None
        return
    assert result is not None
    with pytest.raises(Interrupted, match="stopped in role sleeping"):
        raise_failure(result)


def _until(true) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("waited for a minute in vain")


def _processes_about(folder: Path) -> list[str]:
    """Return the processes that have the folder's name in their arguments or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                found += [entry.name] * (str(folder).encode() in said)
    return found


def test_a_full_disk_of_the_host_is_a_failure_that_says_so(guest):
    error = guest.failure(Use("quick", {}), events=Path("/dev/full"))
    assert "No space left on device" in error.message
    assert "/dev/full" in error.message or error.hint
