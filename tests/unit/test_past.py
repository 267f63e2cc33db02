"""Builds of before: named by the error that misses today's, shown by their keys."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder import network
from builder.cli import main
from builder.digest import digest_document, digest_file
from builder.project import Project
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK
from builder.verify import CheckResult, Verdict, verdict_path

DAYS = ("2026-11-20T10:00:00Z", "2026-11-21T10:00:00Z")


@pytest.fixture
def folder(plannable) -> Path:
    return plannable


@pytest.fixture
def builds(folder):
    """The keys of two builds of ``base`` in variant two, of files as they no longer are."""
    store = Project(folder).store
    source = _commit(store, "source", {"kind": "source"}, parent=None)
    keys = []
    for day in DAYS:
        document = {"kind": "role", "day": day}
        keys.append(_commit(store, "base", document, parent=source, day=day))
        store.remember("two", "base", [document])
    return keys


def _commit(store, stage, document, *, parent, day=DAYS[0]) -> str:
    with store.staging() as staged:
        disk = staged / DISK
        disk.write_bytes(stage.encode())
        network.write(staged / network.LOCK, network.NetworkLock("caches"))
        key = digest_document(document)
        record = BuildRecord(
            key=key, variant="two", stage=stage, created=day, seconds=1.0, documents=(document,),
            parent=parent, disk=DiskRecord(digest_file(disk), len(stage)),
        )  # fmt: skip
        store.commit(staged, record)
    return key


def run(folder, *words):
    return CliRunner().invoke(main, ["--project", str(folder), *words])


@pytest.mark.parametrize("command", ["show", "publish", "verify"])
def test_an_image_that_is_not_built_names_the_last_one_and_how_to_see_it(folder, builds, command):
    done = run(folder, command, "base", "--variant", "two", "--engine", "nspawn")
    assert done.exit_code == 1
    assert "base is not built as it stands now" in done.stderr
    shown = f"vaultbuild show base --key {builds[1][:12]} --variant two --engine nspawn"
    assert f"the last one, of {DAYS[1]}: {shown}" in done.stderr
    assert "vaultbuild stage base --variant two" in done.stderr


def test_a_variant_that_was_never_built_names_none(folder, builds):
    done = run(folder, "show", "base", "--variant", "one")
    assert "base is not built as it stands now" in done.stderr
    assert "the last one" not in done.stderr


def test_what_the_hint_says_to_type_shows_the_old_build(folder, builds):
    for key, day in zip(builds, DAYS, strict=True):
        done = run(folder, "show", "base", "--key", key[:8])
        assert done.exit_code == 0, done.stderr
        assert f"key       {key}" in done.stdout
        assert f"built     {day}" in done.stdout
        assert "checks    not run" in done.stdout


def test_an_old_build_is_shown_to_machines_with_its_last_verdict(folder, builds):
    made = Project(folder)
    disk = made.store.find(builds[0]).record.disk.sha256
    for engine, outcome, when in [("qemu", "passed", 1), ("nspawn", "failed", 2)]:
        result = CheckResult("base/test_a.py::test", outcome, 0.1, "")
        path = verdict_path(made.var, builds[0], "0" * 64, engine)
        path.parent.mkdir(parents=True, exist_ok=True)
        verdict = Verdict(builds[0], disk, "0" * 64, engine, 1.0, (result,))
        path.write_text(json.dumps(verdict.to_json()))
        os.utime(path, (when, when))
    document = json.loads(run(folder, "show", "base", "--key", builds[0], "--json").stdout)
    assert document["created"] == DAYS[0]
    assert document["verdict"]["engine"] == "nspawn"


def test_the_network_lock_of_an_old_build_is_of_all_that_it_stands_on(folder, builds):
    done = run(folder, "show", "base", "--key", builds[0], "--network")
    assert json.loads(done.stdout)["mode"] == "caches", done.stderr
    source = Project(folder).store.find(digest_document({"kind": "source"}))
    (source.folder / network.LOCK).unlink()
    done = run(folder, "show", "base", "--key", builds[0], "--network")
    assert done.exit_code == 1
    assert "base, or what it stands on, has no network lock" in done.stderr


def test_a_key_that_names_none_lists_those_that_are_there(folder, builds):
    done = run(folder, "show", "base", "--key", "zz")
    assert done.exit_code == 1
    assert "zz names no build of base" in done.stderr
    assert all(key[:12] in done.stderr for key in builds)
