"""What somebody at a desk is told: how long, what happened, why it failed, what it all takes."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.e2e

SEAL = "ansible/roles/seal/tasks/main.yml"
FULL = """
- name: Unpack what does not fit
  ansible.builtin.shell: |
    echo "dpkg: error: cannot copy extracted data: No space left on device" >&2
    exit 2
  changed_when: true
"""


def final(vaultbuild) -> dict:
    return vaultbuild("plan", "final", "--engine", "nspawn", "--json").json["steps"][-1]


def test_a_plan_says_how_long_it_will_take(copy):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    copy("stage", "final", "--engine", "nspawn")
    assert final(copy)["estimate"] == 0, "there is nothing to do"
    copy.edit("stages/final/stage.yml", "good day", "good evening")
    step = final(copy)
    assert step["estimate"] > 0
    assert all(role["estimate"] > 0 for role in step["roles"])
    assert "~" in copy("plan", "final", "--engine", "nspawn").stdout


def test_a_run_tells_a_machine_what_happens(copy, tmp_path):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    stream = tmp_path / "events.jsonl"
    copy("stage", "final", "--engine", "nspawn", "--events", stream)
    events = [json.loads(line) for line in stream.read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names[0] == "run_started"
    assert (names[-1], events[-1]["status"]) == ("run_finished", "done")
    assert {
        "plan", "stage_started", "role_started", "task_started", "task_finished", "role_finished",
        "checkpoint_made", "packer_message", "stage_finished", "check_finished", "verdict",
    } <= set(names)  # fmt: skip
    roles = [event["role"] for event in events if event["event"] == "role_finished"]
    assert roles == ["greeting", "seal"]


def test_a_failure_names_its_likely_cause(copy):
    tasks = copy.project / SEAL
    tasks.write_text(tasks.read_text() + FULL)
    said = copy("stage", "final", "--engine", "nspawn", status=1).stderr
    assert 'final: role seal, task "Unpack what does not fit" failed' in said
    assert "cannot copy extracted data" in said
    assert "cause:" in said
    assert "disk" in said.partition("hint:")[2]


def test_the_store_can_be_made_smaller(copy):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    copy("stage", "final", "--engine", "nspawn")
    before = copy.images()
    told = copy("cache", "status", "--json").json["store"]
    assert sum(stage["images"]["count"] for stage in told["stages"]) == len(before)
    dry = copy("cache", "prune", "--keep", "1", "--dry-run").stdout
    assert copy.images() == before
    copy("cache", "prune", "--keep", "1")
    gone = before - copy.images()
    assert len(gone) == 1
    assert gone.pop()[:12] in dry
    assert copy.plan() == {"base": "reuse", "final": "reuse"}, "what runs need is still there"
