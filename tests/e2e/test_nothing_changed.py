"""A build from nothing, and then: what runs when nothing, or little, was changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def test_a_build_from_nothing_prints_the_image_alone(cold):
    vaultbuild, ran = cold
    key = vaultbuild.keys()["final"]
    assert ran.stdout == f"{vaultbuild.disk(key)}\n"
    assert vaultbuild.disk(key).is_file()


def test_its_record_tells_how_it_came_to_be(built):
    record = built("show", "final", "--engine", "nspawn", "--json").json
    assert record["packages"]["dpkg"]["hello"]
    assert [role["role"] for role in record["roles"]] == ["greeting", "seal"]
    assert record["tools"]["engine"] == "nspawn"
    assert record["verdict"]["results"]
    assert {result["outcome"] for result in record["verdict"]["results"]} == {"passed"}


def test_a_second_run_starts_nothing(built, journal):
    first = built("stage", "final", "--engine", "nspawn")
    ran = built("stage", "final", "--engine", "nspawn", PATH=journal.path)
    assert journal.read() == []
    assert ran.stdout == first.stdout


def test_plan_starts_nothing_and_writes_no_image(copy, journal):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    before = copy.images()
    copy("plan", "--engine", "nspawn", PATH=journal.path)
    assert journal.read() == []
    assert copy.images() == before


def test_a_touched_file_changes_nothing(copy):
    for path in (copy.project / "ansible").rglob("*.yml"):
        os.utime(path, (1, 1))
    assert set(copy.plan().values()) == {"reuse"}
    assert copy("plan", "--engine", "nspawn", "--detailed-exitcode").status == 0


def test_an_edited_task_builds_the_last_stage_alone(copy, journal):
    before = copy.keys()
    copy.edit("ansible/roles/seal/tasks/main.yml", "Ask which units", "Ask which of the units")
    told = copy("plan", "--engine", "nspawn", "--detailed-exitcode", status=4).stdout
    assert "ansible/roles/seal/tasks/main.yml" in told
    plan = copy("plan", "--engine", "nspawn", "--json").json
    base, final = plan["steps"]
    assert base["action"] == "reuse"
    assert final["action"] in {"build", "resume"}
    assert [reason["what"] for reason in final["reasons"]] == ["ansible/roles/seal/tasks/main.yml"]
    copy("stage", "final", "--engine", "nspawn", PATH=journal.path)
    started = "\n".join(journal.read())
    assert "packer build" in started, "the journal sees what is started"
    assert "builder.engines.supervisor" in started
    after = copy.keys()
    assert after["base"] == before["base"]
    assert after["final"] != before["final"]
    assert copy("plan", "--engine", "nspawn", "--detailed-exitcode").status == 0


def test_plan_json_keeps_the_contract(copy):
    copy.edit("stages/final/stage.yml", "hello", "good day")
    plan = copy("plan", "--engine", "nspawn", "--json").json
    assert set(plan) >= {"schema", "variant", "steps"}
    assert plan["schema"] == 1
    assert plan["variant"] == "debian-13"
    for step in plan["steps"]:
        assert set(step) >= {"stage", "action", "key", "reasons", "roles"}
        assert step["action"] in {"reuse", "build", "resume"}
        assert all(set(reason) >= {"kind", "what", "before", "after"} for reason in step["reasons"])
        assert all(set(role) >= {"role", "action"} for role in step["roles"])
    (reason,) = plan["steps"][1]["reasons"]
    assert "hello" in json.dumps(reason["before"])
    assert "good day" in json.dumps(reason["after"])


def test_a_lost_store_gives_the_same_keys(copy):
    before = copy.keys()
    (copy.var / "index").rename(copy.project / "index-of-before")
    (copy.var / "latest").rename(copy.project / "latest-of-before")
    assert copy.keys() == before


def test_a_moved_project_gives_the_same_keys_and_images(copy, tmp_path):
    before = copy.keys()
    moved = Path(copy.project).rename(tmp_path / "elsewhere")
    copy.project, copy.var = moved, moved / "cache/var"
    assert copy.keys() == before
    assert set(copy.plan().values()) == {"reuse"}
    copy.edit("stages/final/stage.yml", "hello", "good day")
    copy("stage", "final", "--engine", "nspawn")
