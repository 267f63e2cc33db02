"""A state file is believed only while its process is the very one that wrote it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from builder.caches.state import State, Terms, boot_id, started


@pytest.fixture
def mine():
    return State.of_this_process(Terms(3142, offline=True))


def test_what_is_written_is_read_back(mine, tmp_path):
    mine.write(tmp_path / "apt.json")
    assert State.read(tmp_path / "apt.json") == mine


def test_another_process_with_the_same_id_is_not_meant(mine, tmp_path):
    dataclasses.replace(mine, started=mine.started - 1).write(tmp_path / "apt.json")
    assert State.read(tmp_path / "apt.json") is None


def test_another_boot_is_not_meant(mine, tmp_path):
    dataclasses.replace(mine, boot="another").write(tmp_path / "apt.json")
    assert State.read(tmp_path / "apt.json") is None


def test_an_unknown_schema_is_not_read(mine, tmp_path):
    dataclasses.replace(mine, schema=99).write(tmp_path / "apt.json")
    assert State.read(tmp_path / "apt.json") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"pid": 1}', json.dumps({"pid": 1, "surprise": 2})]
)
def test_a_damaged_file_is_no_state(text, tmp_path):
    (tmp_path / "apt.json").write_text(text)
    assert State.read(tmp_path / "apt.json") is None


def test_a_missing_file_is_no_state(tmp_path):
    assert State.read(tmp_path / "apt.json") is None


def test_an_ended_process_does_not_run_though_nobody_has_waited_for_it():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert started(child.pid) is None
    assert started(child.pid) is None


def test_this_boot_has_a_name():
    assert len(boot_id()) == len("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
