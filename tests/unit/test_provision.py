"""Plays, environments, complaints, events and jobs, without a guest."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from builder import events, in_guest
from builder.engines import Endpoint
from builder.errors import Cause, Interrupted, ProvisionError
from builder.files import write_json
from builder.guest import (
    Job,
    Result,
    failure_of,
    raise_failure,
    read_job,
    read_result,
    write_job,
)
from builder.outcome import Listener, Place, complaint, everything, last_errors
from builder.provision import (
    Caches,
    Use,
    apt_conf,
    environment,
    inventory,
    role_play,
    strategy_for,
)
from builder.ssh import Link

# --- what a role is given -------------------------------------------------------------------------


def test_the_guest_uses_the_caches_without_a_trace() -> None:
    caches = Caches("http://10.0.2.2:3142", "http://10.0.2.2:3141/root/pypi/+simple/")

    assert 'Acquire::http::Proxy "http://10.0.2.2:3142";' in apt_conf(caches)
    variables = environment(caches)
    assert variables["APT_CONFIG"] == "/run/vaultbuild/apt.conf"
    assert variables["PIP_INDEX_URL"] == "http://10.0.2.2:3141/root/pypi/+simple/"
    assert variables["PIP_TRUSTED_HOST"] == "10.0.2.2"


def test_without_caches_nothing_points_to_one() -> None:
    assert "Proxy" not in apt_conf(Caches())
    assert not {name for name in environment(Caches()) if "INDEX" in name or "TRUSTED" in name}


def test_a_play_is_one_role_with_its_environment() -> None:
    play = role_play("greeting", {"A": "b"}, facts=False)

    assert play["roles"] == [{"role": "greeting"}]
    assert play["environment"] == {"A": "b"}
    assert play["gather_facts"] is False


def test_facts_are_those_that_the_inputs_decide() -> None:
    subset = role_play("greeting", {}, facts=True)["gather_subset"]

    assert "!all" in subset
    assert not {"hardware", "network", "virtual"} & set(subset)


def test_the_guest_is_reached_through_the_open_connection_alone() -> None:
    link = Link(Endpoint("127.0.0.1", 2222, "root", Path("a folder/key")), Path("vb/ssh"))

    host = inventory(link)["all"]["hosts"]["guest"]

    words = host["ansible_ssh_args"]
    assert "ControlPath=vb/ssh" in words
    assert "ControlMaster=no" in words
    assert "'a folder/key'" in words
    assert "-F /dev/null" in words, "this user's own SSH configuration is circumstance"


@pytest.mark.parametrize(
    ("core", "mitogen", "strategy"),
    [
        ("2.19.14", "0.3.54", "mitogen"),
        ("2.19.0", "0.4.0", "mitogen"),
        ("2.19.14", "0.3.53", "pipelining"),
        ("2.20.0", "0.3.54", "pipelining"),
        ("2.19.14", "0.3.55rc1", "pipelining"),
    ],
)
def test_mitogen_only_with_versions_that_were_tried(core, mitogen, strategy) -> None:
    chosen = strategy_for(core, mitogen)

    assert chosen.name == strategy
    assert core in chosen.why
    assert mitogen in chosen.why


def test_without_mitogen_there_is_pipelining() -> None:
    assert strategy_for("2.19.14", None).name == "pipelining"


# --- why a task failed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ({"msg": "no such file"}, ["no such file"]),
        ({"censored": "hidden", "msg": "password"}, ["its output is hidden: the task says no_log"]),
        (
            {"msg": "non-zero return code", "rc": 3, "cmd": ["pip", "install"], "stderr": "bad"},
            ["pip install: exit status 3", "bad"],
        ),
        (
            {"msg": "non-zero return code", "rc": 1, "cmd": "make", "stdout": "one\ntwo"},
            ["make: exit status 1", "one", "two"],
        ),
        (
            {"msg": "All items completed", "results": [{"a": 1}, {"failed": True, "msg": "x"}]},
            ["x"],
        ),
        (
            {"msg": "E: broken\nE: packages", "stderr": "E: broken\nE: packages\n"},
            ["E: broken", "E: packages"],
        ),
        ({"msg": "MODULE FAILURE: see stdout", "module_stdout": "Traceback"}, ["Traceback"]),
        ({}, ["the task gave no reason"]),
    ],
)  # fmt: skip
def test_a_complaint_is_the_lines_that_say_why(result, lines) -> None:
    assert complaint(result) == lines


def test_a_long_complaint_is_its_end() -> None:
    lines = complaint({"msg": "apt failed", "stderr": "\n".join(f"line {n}" for n in range(90))})

    assert lines[-1] == "line 89"
    assert len(lines) == 20


def test_a_failure_without_a_task_is_what_ansible_called_an_error() -> None:
    output = "\nPLAY [x] ***\n[ERROR]: the role 'x' was not found\nOrigin: main.json:1\n"

    assert last_errors(output) == ["[ERROR]: the role 'x' was not found", "Origin: main.json:1"]


def test_a_failure_after_a_mended_one_is_the_last(tmp_path) -> None:
    listener = _listen(
        tmp_path,
        _failed("Break", msg="mended later"),
        _failed("Ignored", msg="never mind", ignore=True),
        _failed("Install", msg="no wheel"),
    )

    error = listener.failure()

    assert (error.stage, error.role, error.task) == ("drivers", "cuda", "Install")
    assert error.message == 'drivers: role cuda, task "Install" failed\n       no wheel'
    assert error.hint == "the task is at ansible/roles/cuda/tasks/main.yml:3"
    statuses = [event.status for event in events.read(tmp_path / "events")]
    assert statuses == ["failed", "ignored", "failed"]


APT = """\
Reading package lists...
Err:1 http://mirror.example/debian trixie/main amd64 foo amd64 1.0
  503  Service Unavailable [IP: 10.0.2.100 3142]
E: Failed to fetch http://mirror.example/foo.deb  503  Service Unavailable [IP: 10.0.2.100 3142]
"""


def test_a_failure_names_its_likely_cause_and_keeps_its_place(tmp_path) -> None:
    told = _failed("Install", msg="apt-get failed")
    # The cause is in what the message has no room for.
    told["res"].update(stdout=APT, stderr="\n".join(f"noise {n}" for n in range(90)))

    error = _listen(tmp_path, told).failure()

    assert "Failed to fetch" not in error.message
    assert error.cause is not None
    assert error.cause.rule == "apt-cache-error"
    assert error.cause.sentence == (
        "The apt cache could not get http://mirror.example/foo.deb from the mirror: "
        "503 Service Unavailable."
    )
    first, second = error.hint.splitlines()
    assert "cache/var/logs/cache-apt.log" in first
    assert second == "the task is at ansible/roles/cuda/tasks/main.yml:3"


def test_the_cause_is_in_the_item_that_failed(tmp_path) -> None:
    told = _failed("Install", msg="One or more items failed")
    fine, broken = (
        {"stdout": "No space left on device"},
        {"failed": True, "msg": "'x' is undefined"},
    )
    told["res"]["results"] = [fine, broken]

    error = _listen(tmp_path, told).failure()

    assert error.cause == Cause("variable-undefined", "Nobody set x.")


def test_a_failure_that_nobody_knows_has_no_cause(tmp_path) -> None:
    assert _listen(tmp_path, _failed("Install", msg="it rained")).failure().cause is None


def test_what_is_hidden_is_not_searched_for_a_cause(tmp_path) -> None:
    told = _failed("Log in", msg="'hunter2' is undefined")
    told["res"]["censored"] = "the output has been hidden"

    error = _listen(tmp_path, told).failure()

    assert error.cause is None
    assert "hunter2" not in f"{error.message}{error.hint}"
    assert everything({"results": [{"failed": True, "censored": "x", "msg": "hunter2"}]}) == ""


def test_a_failure_without_a_task_has_a_cause_too(tmp_path) -> None:
    listener = _listen(tmp_path)
    with listener:
        said = "[ERROR]: couldn't resolve module/action 'a.b.c'. This often indicates a misspelling"
        listener({"event": "verbose", "stdout": said})

    error = listener.failure()

    assert error.cause is not None
    assert error.cause.rule == "module-unknown"


def _listen(folder: Path, *told) -> Listener:
    place = Place("drivers", folder, folder / "ansible.log")
    with events.Writer(folder / "events", "drivers") as writer:
        listener = Listener("cuda", place, writer)
        with listener:
            for data in told:
                data["task_path"] = f"{folder}/ansible/roles/cuda/tasks/main.yml:3"
                listener({"event": "runner_on_failed", "stdout": "fatal", "event_data": data})
    return listener


def _failed(task: str, *, msg: str, ignore: bool = False):
    return {"task": task, "res": {"msg": msg}, "ignore_errors": ignore, "duration": 1.0}


# --- events ---------------------------------------------------------------------------------------


def test_an_event_is_a_line_with_what_there_is_to_say(tmp_path) -> None:
    with events.Writer(tmp_path / "events", "drivers") as writer:
        writer.write("task_finished", "cuda", task="a\u2028b", status="ok", seconds=0.5)

    (line,) = (tmp_path / "events").read_text().splitlines()
    document = json.loads(line)
    assert document.pop("time") > 0
    assert document == {
        "schema": 1, "event": "task_finished", "stage": "drivers", "role": "cuda",
        "task": "a\u2028b", "status": "ok", "seconds": 0.5,
    }  # fmt: skip


def test_a_newer_event_is_understood_as_far_as_it_goes() -> None:
    line = '{"schema": 1, "event": "e", "time": 1, "stage": "s", "role": "r", "new": 7}'

    assert events.parse(line) == events.Event("e", 1, "s", "r")


def test_a_follower_sees_what_came_before_and_after_it_and_at_the_end(tmp_path) -> None:
    path, stop, three = tmp_path / "events", threading.Event(), threading.Event()
    seen: list[str] = []

    def sink(event: events.Event) -> None:
        seen.append(event.role)
        if len(seen) == 3:
            three.set()

    with events.Writer(path, "s") as writer:
        writer.write("role_started", "first")
        follower = threading.Thread(target=events.follow, args=(path, stop, sink))
        follower.start()
        writer.write("role_started", "second")
        writer.write("role_started", "third")
        assert three.wait(60)
        stop.set()
        follower.join()

    assert seen == ["first", "second", "third"]


def test_a_follower_that_is_stopped_has_seen_everything(tmp_path) -> None:
    stop = threading.Event()
    stop.set()
    with events.Writer(tmp_path / "events", "s") as writer:
        writer.write("role_started", "late")
    seen: list[events.Event] = []

    events.follow(tmp_path / "events", stop, seen.append)
    events.follow(tmp_path / "no such file", stop, seen.append)

    assert [event.role for event in seen] == ["late"]


def test_a_line_that_is_not_finished_waits(tmp_path) -> None:
    event = events.Event("e", 1, "s", "r")
    (tmp_path / "events").write_text(f'{event.line()}\n{{"event": "é')

    assert events.read(tmp_path / "events") == [event]


# --- jobs and results -----------------------------------------------------------------------------


def test_a_job_arrives_as_it_was_sent(tmp_path) -> None:
    variables = {"cuda_packages": ["a"], "cuda_count": 3, "cuda_on": True, "cuda_none": None}
    paths = [tmp_path / name for name in ("snapshot", "key", "logs", "events", "result")]
    caches = Caches("http://a:1", None)
    job = Job("drivers", *paths, (Use("cuda", variables),), caches, first_role=1)
    write_job(tmp_path / "job.json", job)

    assert read_job(tmp_path / "job.json") == job


def test_a_result_that_was_never_written_is_none(tmp_path) -> None:
    assert read_result(tmp_path / "result.json") is None


def test_a_failure_is_raised_again_as_it_was() -> None:
    failure = {"role": "cuda", "task": "T", "message": "m", "hint": "h", "log": "some/log"}
    failure["cause"] = {"rule": "apt-lock", "sentence": "s"}

    with pytest.raises(ProvisionError) as caught:
        raise_failure(Result("drivers", "failed", failure=failure))

    error = caught.value
    assert (error.stage, error.role, error.task) == ("drivers", "cuda", "T")
    assert (error.message, error.hint, error.log) == ("m", "h", Path("some/log"))
    assert error.cause == Cause("apt-lock", "s")


@pytest.mark.parametrize("cause", [None, Cause("apt-lock", "s")])
def test_a_failure_is_the_same_on_both_sides_of_the_file(cause, tmp_path) -> None:
    told = ProvisionError("m", stage="s", role="r", task="t", hint="a\nb", cause=cause)
    write_json(tmp_path / "result", asdict(Result("s", "failed", failure=failure_of(told))))
    result = read_result(tmp_path / "result")
    assert result is not None

    with pytest.raises(ProvisionError) as caught:
        raise_failure(result)

    assert vars(caught.value) == vars(told)


def test_an_interrupt_is_no_failure() -> None:
    with pytest.raises(Interrupted):
        raise_failure(Result("drivers", "interrupted", failure={"message": "stopped"}))


def test_a_crash_is_a_failure_and_success_is_none() -> None:
    with pytest.raises(ProvisionError, match="crashed"):
        raise_failure(Result("drivers"))
    raise_failure(Result("drivers", "done"))


# --- inside the guest -----------------------------------------------------------------------------

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12

Package: libc6
Status: hold ok installed
Architecture: i386
Version: 2.41-12
Description: a library
 Version: not this

Package: gone
Status: deinstall ok config-files
Version: 1
"""


def test_entering_and_leaving_cancel_out(tmp_path) -> None:
    for name in ("root/.ssh", "run", "var/tmp", "var/lib/dpkg"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root/.ssh/authorized_keys").write_text("ssh-ed25519 AAAAbuild build\n")
    before = {path for path in tmp_path.rglob("*") if path.is_dir()}

    in_guest.enter(tmp_path, {"apt_conf": "x"})
    assert (tmp_path / "run/vaultbuild/apt.conf").read_text() == "x"
    assert (tmp_path / "var/tmp/vaultbuild").stat().st_mode & 0o7777 == 0o1777
    in_guest.enter(tmp_path, {"apt_conf": "x"})
    (tmp_path / "root/.ansible_async").mkdir()
    in_guest.leave(tmp_path, {"public_key": "ssh-ed25519 AAAAbuild"})

    assert set(tmp_path.rglob("*")) == before


def test_leaving_takes_only_its_own_key(tmp_path) -> None:
    keys = tmp_path / "authorized_keys"
    keys.write_text("ssh-ed25519 AAAAadmin admin\nssh-ed25519 AAAAbuild build\n")

    in_guest.forget_key(keys, "ssh-ed25519 AAAAbuild")

    assert keys.read_text() == "ssh-ed25519 AAAAadmin admin\n"


def test_packages_are_those_that_are_installed() -> None:
    assert in_guest.dpkg_packages(STATUS) == {"libc6": "2.41-12", "libc6:i386": "2.41-12"}


def test_packages_of_python_are_found_without_pip(tmp_path) -> None:
    place = tmp_path / "frameworks/lib/python3.13/site-packages"
    for name, version in (("numpy", "2.3.5"), ("Jinja2", "3.1")):
        metadata = place / f"{name}-{version}.dist-info/METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2\nName: {name}\nVersion: {version}\n\nName: no\n")

    assert in_guest.python_packages(tmp_path) == {"frameworks": {"Jinja2": "3.1", "numpy": "2.3.5"}}
