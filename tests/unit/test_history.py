"""How long parts took: what is remembered, what is expected, and a file that is not as it was."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from builder.history import Done, History, Part, Usual, role_part, usual

ROLE = Part("debian-13", "drivers", "nspawn", role_part("cuda"))
OTHER = Part("debian-12", "drivers", "nspawn", role_part("cuda"))
IN_VM = Part("debian-12", "drivers", "qemu", role_part("cuda"))


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "var/history.sqlite"


@pytest.fixture
def history(file) -> History:
    return History(file)


def add(history: History, part: Part, *seconds: float) -> list[str | None]:
    return [history.add([Done(part, took, "2026-11-20T10:00:00Z", "k")]) for took in seconds]


def rows(file: Path) -> list[tuple]:
    with closing(sqlite3.connect(file)) as database:
        return database.execute(
            "SELECT variant, stage, engine, part, seconds, finished, key, status FROM parts"
        ).fetchall()


def aside(file: Path) -> list[Path]:
    return list(file.parent.glob("history.sqlite.*.aside"))


# --- what is expected -----------------------------------------------------------------------------


def test_nothing_is_known_of_what_never_ran(history, file):
    assert history.expected([ROLE]) == {}
    assert not file.parent.exists(), "and asking makes nothing"


def test_the_median_of_the_last_five(history):
    add(history, ROLE, 1000, 1000, 10, 12, 11, 50, 9)
    assert history.expected([ROLE]) == {ROLE: 11}


def test_the_own_variant_before_others(history):
    add(history, OTHER, 100)
    add(history, ROLE, 10)
    add(history, OTHER, 100)
    assert history.expected([ROLE, OTHER]) == {ROLE: 10, OTHER: 100}


def test_another_variant_on_this_engine_before_another_engine(history):
    add(history, OTHER, 10)
    add(history, IN_VM, 200)
    assert history.expected([ROLE]) == {ROLE: 10}


def test_another_engine_is_better_than_nothing(history):
    add(history, IN_VM, 200)
    assert history.expected([ROLE]) == {ROLE: 200}


def test_another_stage_or_role_says_nothing(history):
    add(history, ROLE, 10)
    assert history.expected([Part("debian-13", "final", "nspawn", ROLE.part)]) == {}
    assert history.expected([Part("debian-13", "drivers", "nspawn", "stage")]) == {}


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], None),
        ([("debian-13", "nspawn", 4.0)], Usual(4.0, 1)),
        ([("debian-13", "nspawn", 4.0), ("debian-13", "nspawn", 6.0)], Usual(5.0, 2)),
        ([("debian-12", "nspawn", 4.0)] * 3, Usual(4.0, 0)),
        ([("debian-13", "nspawn", 4.0)] * 9, Usual(4.0, 5)),
    ],
)
def test_runs_of_others_are_not_counted(runs, expected):
    assert usual(ROLE, runs) == expected


# --- what is remembered ---------------------------------------------------------------------------


def test_a_row_says_all_of_a_part(history, file):
    history.add([Done(ROLE, 12.345, "2026-11-20T10:00:00Z", "abc")])
    when = "2026-11-20T10:00:00Z"
    assert rows(file) == [
        ("debian-13", "drivers", "nspawn", "role:cuda", 12.35, when, "abc", "done")
    ]


def test_two_runs_write_at_the_same_time(file):
    code = (
        "import sys; from pathlib import Path; from builder.history import *\n"
        "history, part = History(Path(sys.argv[1])), Part('v', 's', 'e', sys.argv[2])\n"
        "for _ in range(20): assert history.add([Done(part, 1.0, '', '')]) is None"
    )
    argv = [sys.executable, "-c", code, file]
    runs = [subprocess.Popen([*argv, name], cwd=Path(__file__).parents[2]) for name in "ab"]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert len(rows(file)) == 40


def test_old_rows_go(history, file):
    add(history, OTHER, 7)
    add(history, ROLE, *range(60))
    kept = [row[4] for row in rows(file) if row[0] == ROLE.variant]
    assert kept == list(range(10, 60))
    assert len(rows(file)) == 51


# --- a file that is not as it was -----------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_put_aside_with_a_line(content, history, file):
    file.parent.mkdir()
    file.write_bytes(content)
    assert history.expected([ROLE]) == {}, "asking changes nothing"
    assert file.read_bytes() == content
    (told,) = add(history, ROLE, 10)
    (kept,) = aside(file)
    assert kept.name in told
    assert kept.read_bytes() == content
    assert history.expected([ROLE]) == {ROLE: 10}
    assert add(history, ROLE, 12) == [None]


def test_a_file_of_another_program_is_put_aside(history, file):
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE parts (theirs TEXT)")
    assert history.expected([ROLE]) == {}
    (told,) = add(history, ROLE, 10)
    assert "not a history of vaultbuild" in told
    assert len(aside(file)) == 1
    assert history.expected([ROLE]) == {ROLE: 10}


def test_a_table_of_another_shape_is_put_aside(history, file):
    add(history, ROLE, 10)
    with closing(sqlite3.connect(file)) as database:
        database.execute("ALTER TABLE parts DROP COLUMN key")
    (told,) = add(history, ROLE, 11)
    assert told
    assert history.expected([ROLE]) == {ROLE: 11}


def test_damage_in_the_middle_is_put_aside(history, file):
    add(history, ROLE, *range(50))
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    file.write_bytes(bytes(data))
    assert history.expected([ROLE]) == {}
    (told,) = add(history, ROLE, 11)
    assert told
    assert history.expected([ROLE]) == {ROLE: 11}


def test_a_file_of_a_later_version_is_left_alone(history, file):
    add(history, ROLE, 10)
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 2")
    before = file.read_bytes()
    assert add(history, ROLE, 11) == [None]
    assert history.expected([ROLE]) == {}
    assert file.read_bytes() == before
    assert not aside(file)


def test_an_empty_file_is_begun(history, file):
    file.parent.mkdir()
    file.touch()
    assert add(history, ROLE, 10) == [None]
    assert history.expected([ROLE]) == {ROLE: 10}


def test_a_folder_in_its_place_stops_nothing(history, file):
    file.mkdir(parents=True)
    assert add(history, ROLE, 10) == [None]
    assert history.expected([ROLE]) == {}


def test_a_place_that_cannot_be_is_tolerated(tmp_path):
    (tmp_path / "var").write_text("a file where a folder is to be")
    history = History(tmp_path / "var/history.sqlite")
    assert add(history, ROLE, 10) == [None]
    assert history.expected([ROLE]) == {}


def test_reading_leaves_nothing_behind(history, file):
    add(history, ROLE, 10)
    assert history.expected([ROLE]) == {ROLE: 10}
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_a_killed_run_left_in_its_journal_counts(history, file):
    add(history, ROLE, 10)
    code = (
        "import os, sqlite3, sys; database = sqlite3.connect(sys.argv[1])\n"
        "database.execute('UPDATE parts SET seconds = 70'); database.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, file], check=True)
    assert file.with_name(f"{file.name}-wal").stat().st_size
    assert history.expected([ROLE]) == {ROLE: 70}


def test_reading_waits_for_no_writer(history, file):
    add(history, ROLE, 10)
    with closing(sqlite3.connect(file)) as database:
        database.execute("BEGIN EXCLUSIVE")
        assert history.expected([ROLE]) == {ROLE: 10}


# --- imports --------------------------------------------------------------------------------------


def test_a_plan_with_nothing_to_do_does_not_load_the_database():
    code = (
        "import sys, json, builder.cli, builder.project, builder.report, builder.estimate\n"
        "print(json.dumps([name for name in ('sqlite3', 'rich') if name in sys.modules]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(said.stdout) == []
