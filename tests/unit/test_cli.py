"""The command line: words, exit statuses, and what goes to which stream."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder import __version__, cli, errors
from builder.cli import Commands, main
from builder.cli_options import Settings
from builder.digest import digest_file
from builder.project import Project
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "init",
    "plan",
    "stage",
    "build",
    "verify",
    "publish",
    "render",
    "show",
    "shell",
    "cache",
    "doctor",
    "lock",
    "compat",
]


@pytest.fixture
def run():
    """Run the command line in this process; signals are left as they were."""
    kept = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    yield lambda *words: CliRunner().invoke(main, [str(word) for word in words])
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def failing():
    """A command line whose one command raises."""

    def make(error: BaseException):
        group = Commands("vaultbuild")

        @group.command()
        def fail() -> None:
            raise error

        return CliRunner().invoke(group, ["fail"], obj=Settings(Path()))

    return make


# --- help -----------------------------------------------------------------------------------------


def test_every_command_of_the_contract_is_there():
    assert set(COMMANDS) <= set(main.commands)


def test_help_lists_the_commands_in_the_order_of_a_day(run):
    text = run("--help").output
    places = [text.index(f"  {name} ") for name in ("plan", "stage", "build", "verify", "publish")]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(run, name):
    for flag in ("-h", "--help"):
        done = run(name, flag)
        assert done.exit_code == 0
        assert "Example" in done.output


def test_version(run):
    assert __version__ in run("--version").output


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["nosuch"], ["plan", "--nosuch"], ["stage"], ["stage", "a", "b"]]
)
def test_a_wrong_word_is_a_mistake_of_usage(run, words):
    done = run(*words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.CommandError("it broke"), 1),
        (errors.CheckError("it broke"), 1),
        (errors.StoreError("it broke"), 1),
        (errors.ProvisionError("it broke", stage="base", role="r", task=None), 1),
        (errors.HostError("it broke"), 3),
        (errors.Interrupted("it broke"), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_has_its_status_and_one_message(failing, error, status):
    error.hint = "mend it"
    done = failing(error)
    assert done.exit_code == status
    assert done.stdout == ""
    assert done.stderr == "error: it broke\n hint: mend it\n"


def test_the_first_signal_is_answered_at_once(run, capfd):
    """With what a second one would do; ``run`` leaves the handlers as they were."""
    with pytest.raises(errors.Interrupted, match="stopped by SIGINT"):
        cli._stop(signal.SIGINT, None)
    assert "a second signal (Ctrl-C) kills" in capfd.readouterr().err


def test_all_problems_of_a_project_are_one_message(failing, tmp_path):
    problems = [
        errors.Problem(tmp_path / "a.yml", "wrong", 3, "stages.0"),
        errors.Problem(tmp_path / "b.yml", "too"),
    ]
    done = failing(errors.ProjectError(problems))
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "error: 2 problems in this project",
        f"  {tmp_path}/a.yml:3: stages.0: wrong",
        f"  {tmp_path}/b.yml: too",
    ]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        ("ENOSPC", "cache prune"),
        ("EDQUOT", "quota"),
        ("EACCES", "chown"),
        ("EPERM", "chown"),
        ("EROFS", "read-only"),
        ("EMFILE", "ulimit -n"),
    ],
)
def test_what_the_kernel_refuses_is_one_message(failing, number, hint):
    code = getattr(errno, number)
    done = failing(OSError(code, os.strerror(code), "/srv/disk.qcow2"))
    assert done.exit_code == 3
    assert done.stdout == ""
    message, said = done.stderr.splitlines()
    assert message == f"error: /srv/disk.qcow2: {os.strerror(code)}"
    assert said.startswith(" hint: ")
    assert hint in said


def test_what_is_refused_without_a_path_is_a_message_too(failing):
    done = failing(OSError(errno.ENOSPC, "No space left on device"))
    assert done.exit_code == 3
    assert done.stderr.startswith("error: [Errno 28] No space left on device\n")


def test_both_paths_of_a_refused_rename_are_named(failing):
    done = failing(PermissionError(errno.EACCES, "Permission denied", "/srv/a", None, "/srv/b"))
    assert "error: /srv/a -> /srv/b: Permission denied" in done.stderr


def test_a_copied_folder_that_finds_no_space_is_no_bug(failing):
    refused = ("/srv/a", "/srv/b", "[Errno 28] No space left on device: '/srv/b'")
    done = failing(shutil.Error([refused]))
    assert done.exit_code == 3
    assert "/srv/b" in done.stderr


@pytest.mark.parametrize(
    "bug",
    [
        ZeroDivisionError("a bug"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/srv/a"),
        OSError("a bug"),
    ],
)
def test_a_bug_keeps_its_traceback(failing, bug):
    assert failing(bug).exception is bug


# --- the project ----------------------------------------------------------------------------------


def test_no_project_says_what_is_missing(run, tmp_path):
    done = run("--project", tmp_path, "plan")
    assert done.exit_code == 2
    assert "stages/pipeline.yml" in done.stderr


def test_the_project_may_stand_before_or_behind_the_command(run, tmp_path):
    before = run("--project", tmp_path, "plan")
    behind = run("plan", "--project", tmp_path)
    assert (before.exit_code, before.stderr) == (behind.exit_code, behind.stderr)


def test_the_project_may_stand_in_the_environment(run, tmp_path, monkeypatch):
    monkeypatch.setenv("VAULTBUILD_PROJECT", str(tmp_path))
    assert str(tmp_path) in run("plan").stderr


@pytest.mark.parametrize(
    "command", ["plan", "stage", "verify", "publish", "show", "render", "shell"]
)
def test_an_unknown_stage_is_named(run, project, command):
    done = run("--project", project(), command, "fnal")
    assert done.exit_code == 2
    assert "fnal" in done.stderr
    assert "final" in done.stderr, "and what was meant"
    assert done.stdout == ""


def test_an_unknown_variant_is_named(run, project):
    done = run("--project", project(), "plan", "--variant", "tow")
    assert done.exit_code == 2
    assert "tow" in done.stderr
    assert "two" in done.stderr


def test_caches_that_do_not_run_are_told(run, project):
    folder = project()
    (folder / "cache/etc").mkdir(parents=True)
    done = run("--project", folder, "cache", "status", "--json")
    assert done.exit_code == 0, done.stderr
    states = {cache["name"]: cache["state"] for cache in json.loads(done.stdout)["caches"]}
    assert states == dict.fromkeys(("apt", "pypi", "wheels", "isos", "models"), "stopped")


@pytest.mark.parametrize("engine", ["qemu", "nspawn"])
def test_doctor_judges_for_an_engine(run, project, engine):
    (project() / "cache/etc").mkdir(parents=True)
    done = run("--project", project(), "doctor", "--engine", engine, "--json")
    levels = {found["id"]: found["level"] for found in json.loads(done.stdout)["findings"]}
    assert levels["nspawn"] in {"ok", "fail" if engine == "nspawn" else "warn"}


# --- verify ---------------------------------------------------------------------------------------


@pytest.fixture
def built(plannable):
    """A project with an image of ``base``, as far as the store can tell."""
    made = Project(plannable, engine="nspawn")
    inputs = made.inputs("base")[-1]
    with made.store.staging() as staged:
        (staged / DISK).write_bytes(b"disk")
        record = BuildRecord(
            key=inputs.key,
            variant="one",
            stage="base",
            created="2026-11-20T10:00:00Z",
            seconds=1.0,
            documents=inputs.documents,
            parent=None,
            disk=DiskRecord(digest_file(staged / DISK), 4),
        )
        made.store.commit(staged, record)
    return made.folder


def test_a_bad_verdict_is_told_to_machines_too(run, built):
    done = run("--project", built, "verify", "base", "--engine", "nspawn", "--json")
    assert done.exit_code == 1
    assert "error: base: no check was found" in done.stderr
    assert json.loads(done.stdout)["results"] == []


# --- completion -----------------------------------------------------------------------------------


def test_stage_names_are_completed(project):
    words = {
        "_VAULTBUILD_COMPLETE": "bash_complete",
        "COMP_WORDS": f"vaultbuild --project {project()} stage b",
        "COMP_CWORD": "4",
    }
    done = CliRunner().invoke(main, [], prog_name="vaultbuild", env=words)
    assert done.output.split(",")[-1].strip() == "base"


# --- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["stage", "final"], ["build"], ["verify"], ["publish"]])
def test_a_stream_that_cannot_be_opened_is_told_before_anything_starts(run, project, command):
    folder = project()
    done = run("--project", folder, *command, "--events", folder / "nosuch/run.jsonl")
    assert done.exit_code == 2
    assert "--events" in done.stderr
    assert "nosuch/run.jsonl cannot be written: No such file or directory" in done.stderr
    assert not (folder / "cache/var").exists()


@pytest.mark.parametrize("command", [["stage", "fnal"], ["verify", "fnal"], ["publish", "fnal"]])
def test_a_stream_ends_with_what_went_wrong(run, project, tmp_path, command):
    file = tmp_path / "run.jsonl"
    done = run("--project", project(), *command, "--events", file)
    begun, ended = map(json.loads, file.read_text().splitlines())
    assert (begun["event"], begun["command"]) == ("run_started", command[0])
    assert (ended["event"], ended["status"]) == ("run_finished", "failed")
    assert ended["exit_status"] == done.exit_code == 2
    assert "fnal" in ended["message"]


# --- where the project is -------------------------------------------------------------------------


def test_a_folder_inside_of_the_project_will_do(run, project, monkeypatch):
    folder = project() / "ansible/roles"
    monkeypatch.chdir(folder)
    done = run("cache", "status")
    assert "is no project" not in done.stderr


def test_watching_goes_with_no_stream_and_no_json(run, project):
    done = run("--project", project(), "stage", "final", "--watch", "--json")
    assert done.exit_code == 2
    assert "--watch does not go with" in done.stderr
