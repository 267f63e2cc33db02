"""Somebody stops a build, or something kills it, or two people start it at once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter

import pytest

from builder import disks
from builder.store import Store

pytestmark = pytest.mark.e2e

SLEEP = """
- name: Wait for somebody
  ansible.builtin.command: sleep 600
  changed_when: false
"""


@pytest.fixture
def sleeping(copy, eventually):
    """A build in whose guest a role waits: the command that runs, and the project."""
    tasks = copy.project / "ansible/roles/greeting/tasks/main.yml"
    text = tasks.read_text()
    tasks.write_text(text + SLEEP)
    running = copy.start("stage", "final", "--engine", "nspawn")

    def waits() -> bool:
        found = copy.var.glob("logs/*/events.jsonl")
        return (
            any("Wait for somebody" in path.read_text() for path in found)
            or running.poll() is not None
        )

    eventually(waits, "the role runs")
    assert running.poll() is None, running.communicate()
    yield running, copy
    if running.poll() is None:
        running.kill()
    running.communicate()
    tasks.write_text(text)


def after_which_it_builds(copy) -> None:
    """The next run, of the project as it was before it waited, has to work."""
    copy.edit("ansible/roles/greeting/tasks/main.yml", SLEEP, "")
    copy.edit("stages/final/stage.yml", "hello", "good day")
    copy("stage", "final", "--engine", "nspawn")
    assert all(len(name) == 64 for name in copy.images()), "only whole images are in the store"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_good_order(sleeping, signum, leftovers):
    running, copy = sleeping
    before = set(copy.keys().values()) - {copy.keys()["final"]}
    running.send_signal(signum)
    stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 130
    assert stdout == ""
    assert stderr.count("error: ") == 1
    assert "run it again" in stderr
    assert leftovers() == []
    assert all(len(name) == 64 for name in copy.images())
    assert before <= copy.images()
    assert not list(copy.temporary.glob("vaultbuild-*")), "its folder for sockets is gone"


def test_ctrl_c_twice_stops_it_at_once(sleeping, leftovers, eventually):
    running, _copy = sleeping
    running.send_signal(signal.SIGINT)
    # Sent at once, the second could come before the first was taken, and both would be one. Should
    # the line never come, the output ends with the program.
    assert any("stopping in good order" in line for line in running.stderr)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=120)
    assert running.returncode == 130
    # What is killed takes its namespaces along, which is the kernel's work and not waited for.
    eventually(lambda: not leftovers(), "everything that it started is gone", patience=60)


def test_sigkill_leaves_nothing_running(sleeping, leftovers, eventually):
    running, copy = sleeping
    images = {name for name in copy.images() if len(name) == 64}
    running.kill()
    running.wait()
    eventually(lambda: not leftovers(), "everything that it started is gone", patience=60)
    assert {name for name in copy.images() if len(name) == 64} == images
    after_which_it_builds(copy)


def test_packer_killed_is_a_failed_build(sleeping, leftovers, descendants):
    running, copy = sleeping
    packers = [pid for pid, command in descendants().items() if "packer build" in command]
    assert packers
    os.kill(packers[-1], signal.SIGKILL)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 1
    assert stderr.count("error: ") == 1
    assert leftovers() == []
    after_which_it_builds(copy)


def test_killed_while_it_bootstraps(copy, leftovers, eventually):
    copy.edit("stages/pipeline.yml", "- netbase", "- netbase\n          - hello")
    running = copy.start("stage", "base", "--engine", "nspawn")
    eventually(
        lambda: any(copy.var.glob("images/.staging-*/root/usr")), "the root file system grows"
    )
    running.kill()
    running.communicate()
    eventually(lambda: not leftovers(), "everything that it started is gone", patience=60)
    assert list(copy.var.glob("images/.staging-*")), "what was begun is still there"
    assert copy.plan("base")["base"] == "build"
    copy.edit("stages/pipeline.yml", "- netbase\n          - hello", "- netbase")
    copy.edit("stages/final/stage.yml", "hello", "good day")
    copy("stage", "final", "--engine", "nspawn")
    assert all(len(name) == 64 for name in copy.images()), "the next run cleared it away"


def test_two_runs_build_an_image_once(copy, eventually):
    tasks = copy.project / "ansible/roles/greeting/tasks/main.yml"
    # Long enough that the second run has begun, on a busy machine too, before the first is done.
    tasks.write_text(tasks.read_text() + SLEEP.replace("600", "15"))
    before = copy.images()
    first = copy.start("stage", "final", "--engine", "nspawn")
    eventually(lambda: any(copy.var.glob("logs/*final*/container.log")), "the stage has begun")
    second = copy.start("stage", "final", "--engine", "nspawn")
    said = [running.communicate(timeout=300) for running in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert said[0][0] == said[1][0] == f"{copy.disk(copy.keys()['final'])}\n"
    assert len(copy.images() - before) == 1
    assert sum("greeting  " in stderr for _, stderr in said) == 1, "the role ran in one of them"
    assert sum("waiting for process" in stderr for _, stderr in said) == 1


def test_two_containers_at_once_do_not_disturb_each_other(built):
    both = [built.start("verify", "final", "--engine", "nspawn") for _ in range(2)]
    said = [running.communicate(timeout=300)[1] for running in both]
    assert [running.returncode for running in both] == [0, 0], "\n".join(said)


def test_an_edit_during_a_build_belongs_to_the_next_one(copy, eventually):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    meant = copy.keys()["final"]
    running = copy.start("stage", "final", "--engine", "nspawn")
    eventually(lambda: any(copy.var.glob("logs/*final*/container.log")), "the stage has begun")
    copy.edit("stages/final/stage.yml", "good day", "good evening")
    _, stderr = running.communicate(timeout=300)
    # The check expects what the file says when it runs, and is right to.
    assert meant in copy.images(), stderr
    assert copy.plan()["final"] != "reuse"
    copy("stage", "final", "--engine", "nspawn")


KILLS = 24
SEED = 20261120


def test_killed_at_any_moment_it_loses_the_running_role_alone(copy, leftovers, eventually):
    """Some kills come before the guest is up, some between roles, some in the commit."""
    moments = random.Random(SEED)  # noqa: S311 - not for secrets
    copy.edit("stages/final/stage.yml", "hello", "hello all")
    started = time.monotonic()
    copy("stage", "final", "--engine", "nspawn")
    whole = time.monotonic() - started
    text, met = "hello all", Counter()
    for number in range(KILLS):
        if copy.plan()["final"] == "reuse" or number % 4 == 0:
            copy.edit("stages/final/stage.yml", text, f"hello {number}")
            text = f"hello {number}"
        logs = set(copy.var.glob("logs/*"))
        running = copy.start("stage", "final", "--engine", "nspawn")
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(moments.uniform(0.1, whole))
        running.kill()
        running.communicate()
        eventually(lambda: not leftovers(), f"kill {number} (seed {SEED}): all gone", patience=60)
        finished = roles_finished(copy, set(copy.var.glob("logs/*")) - logs)
        met[copy.plan()["final"]] += 1
        assert finished <= roles_reused(copy), f"kill {number} (seed {SEED})"
        assert_whole(copy)
    assert met["build"], "some were killed before a role had ended"
    assert met["resume"], "some were killed between two roles"
    copy("stage", "final", "--engine", "nspawn")
    assert copy.plan() == {"base": "reuse", "final": "reuse"}
    assert all(len(name) == 64 for name in copy.images()), "what was half done is gone"


def roles_finished(copy, logs) -> set[str]:
    """The roles whose checkpoint was there before the kill."""
    files = (log / "events.jsonl" for log in logs)
    lines = (line for file in files if file.exists() for line in file.read_text().splitlines())
    events = (json.loads(line) for line in lines if line.endswith("}"))
    return {event["role"] for event in events if event["event"] == "checkpoint_made"}


def roles_reused(copy) -> set[str]:
    steps = copy("plan", "final", "--engine", "nspawn", "--json").json["steps"]
    return {role["role"] for role in steps[-1]["roles"] if role["action"] == "reuse"}


def assert_whole(copy) -> None:
    """Nothing torn is visible: every entry has a record, and the bytes that it tells of."""
    store = Store(copy.var)
    for kind in ("images", "checkpoints"):
        for folder in (copy.var / kind).glob("[0-9a-f]*"):
            found = store.find(folder.name) if kind == "images" else store.checkpoint(folder.name)
            assert found, f"{folder} is there and is nothing"
            disks.check(found.disk)


# --- the store ------------------------------------------------------------------------------------


def flip_a_bit(path) -> None:
    """Damage a disk where no header is; its links elsewhere stay as they are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


def test_a_damaged_parent_is_found_before_anything_stands_on_it(copy):
    key = copy.keys()["base"]
    flip_a_bit(copy.disk(key))
    copy.edit("stages/final/stage.yml", "hello", "good day")
    ran = copy("stage", "final", "--engine", "nspawn", status=1)
    assert "was damaged after it was built" in ran.stderr
    assert "run the command again" in ran.stderr
    (evidence,) = (copy.var / "quarantine").glob(f"*/{key}")
    assert (evidence / "disk.qcow2").is_file()
    assert key not in copy.images()
    copy("stage", "final", "--engine", "nspawn")
    assert copy.keys()["base"] == key
    assert set(copy.plan().values()) == {"reuse"}


def test_half_an_image_counts_as_none(copy):
    key = copy.keys()["final"]
    disk = copy.disk(key)
    half = disk.read_bytes()[: disk.stat().st_size // 2]
    disk.unlink()
    disk.write_bytes(half)
    ran = copy("plan", "--engine", "nspawn", "--detailed-exitcode", status=4)
    assert f"image {key[:12]} does not count" in ran.stderr
    assert not (copy.var / "quarantine").exists(), "a plan touches nothing"
    ran = copy("stage", "final", "--engine", "nspawn")
    assert f"image {key[:12]} moved to" in ran.stderr
    assert copy.plan() == {"base": "reuse", "final": "reuse"}


def test_force_builds_it_again(copy):
    key = copy.keys()["final"]
    before = copy.disk(key).stat().st_mtime
    time.sleep(0.01)
    ran = copy("stage", "final", "--engine", "nspawn", "--force")
    assert copy.disk(key).stat().st_mtime > before
    assert ", before" not in ran.stderr, "a new image of the same key is checked again"
