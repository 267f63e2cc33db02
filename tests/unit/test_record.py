"""What was recorded is read back the same, and what cannot be read says why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.files import write_json
from builder.record import BuildRecord, DiskRecord, StepRecord, read_record

if TYPE_CHECKING:
    from pathlib import Path

RECORD = BuildRecord(
    key="f" * 64,
    variant="debian-13",
    stage="final",
    created="2026-11-20T19:00:00Z",
    seconds=12.5,
    documents=({"kind": "stage", "stage": "final"}, {"kind": "role", "role": "tuning"}),
    parent="e" * 64,
    disk=DiskRecord("d" * 64, 1 << 30),
    packages={"dpkg": {"bash": "5.2.37-2"}, "python": {}},
    roles=(StepRecord("tuning", 1.25, 3, 7),),
    tools={"packer": "1.6.6"},
    network={"apt": ["bash"]},
    logins=("ssh-ed25519 AAAA", "ssh-ed25519 BBBB"),
)


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", RECORD.to_json())
    assert read_record(tmp_path / "record.json") == (RECORD, None)


def test_the_form_of_a_record() -> None:
    document = json.loads(json.dumps(RECORD.to_json()))
    assert set(document) == {
        "schema", "key", "variant", "stage", "created", "seconds", "documents", "parent", "disk",
        "packages", "roles", "tools", "network", "role", "checkpoint",
        "below_sha256", "resumed_after", "logins", "largest_process_bytes",
    }  # fmt: skip
    assert document["schema"] == 1
    assert document["disk"] == {"sha256": "d" * 64, "bytes": 1 << 30}
    assert document["roles"] == [{"role": "tuning", "seconds": 1.25, "changed": 3, "tasks": 7}]


def test_a_record_from_before_logins_has_none() -> None:
    document = RECORD.to_json()
    del document["logins"]
    assert BuildRecord.from_json(document).logins == ()


def test_what_a_later_version_adds_is_passed_over() -> None:
    assert BuildRecord.from_json({**RECORD.to_json(), "weather": "fine"}) == RECORD


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ('{"schema": 1, "key"', "Expecting"),
        ("[]", "it is not a mapping"),
        ("{}", "its schema is None, this program reads 1"),
        ('{"schema": 2}', "its schema is 2, this program reads 1"),
        ('{"schema": 1}', "it is incomplete"),
        ('{"schema": 1, "documents": [], "disk": {"sha256": ""}}', "it is incomplete"),
        ('{"schema": 1, "documents": [], "disk": null}', "it is incomplete"),
    ],
)
def test_what_is_no_record_says_why(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(text)
    record, why = read_record(file)
    assert record is None
    assert why
    assert why.startswith("record.json cannot be read: ")
    assert reason in why


def test_bytes_that_are_no_text_and_a_missing_file_say_why(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    assert read_record(file) == (None, "record.json cannot be read: No such file or directory")
    file.write_bytes(b"\xff\x00\xff")
    record, why = read_record(file)
    assert record is None
    assert why
