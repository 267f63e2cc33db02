"""Writing in one step, committing a folder, holding a lock."""

import fcntl
import os

import pytest

from builder import files


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "deep/er/file"
    files.write_text(path, "one")
    files.write_text(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_its_mode_is_chosen(tmp_path):
    files.write_text(tmp_path / "secret", "", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    files.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "\udc80")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_json_is_the_same_for_the_same_document(tmp_path):
    files.write_json(tmp_path / "a", {"b": 1, "a": "ü"})
    files.write_json(tmp_path / "b", {"a": "ü", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "ü" in (tmp_path / "a").read_text()


def test_a_folder_is_committed_whole(tmp_path):
    staged, place = tmp_path / "staged", tmp_path / "images/key"
    (staged / "logs").mkdir(parents=True)
    (staged / "logs/a.log").write_text("log")
    (staged / "link").symlink_to("nowhere")
    assert files.commit(staged, place)
    assert (place / "logs/a.log").read_text() == "log"
    assert not staged.exists()


def test_the_second_commit_leaves_the_first_alone(tmp_path):
    place = tmp_path / "place"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert files.commit(tmp_path / "first", place)
    assert not files.commit(tmp_path / "second", place)
    assert (place / "file").read_text() == "first"
    assert (tmp_path / "second/file").read_text() == "second"


def test_a_commit_over_a_file_fails(tmp_path):
    (tmp_path / "staged").mkdir()
    (tmp_path / "place").write_text("in the way")
    with pytest.raises(NotADirectoryError):
        files.commit(tmp_path / "staged", tmp_path / "place")
    assert (tmp_path / "staged").is_dir()


def test_a_lock_is_held_inside_its_block_alone(tmp_path):
    path = tmp_path / "locks/key.lock"
    with files.lock(path):
        assert not _free(path)
    assert _free(path)
    assert path.exists(), "removing it would let two holders in"


def test_a_lock_is_free_after_an_error(tmp_path):
    path = tmp_path / "lock"
    with pytest.raises(ValueError, match="broken"), files.lock(path):
        raise ValueError("broken")
    assert _free(path)


def test_a_holder_says_who_it_is(tmp_path):
    with files.lock(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == f"process {os.getpid()}\n"


def test_nobody_waits_for_a_free_lock(tmp_path):
    told = []
    with files.lock(tmp_path / "lock", waiting=told.append):
        pass
    assert told == []


def test_a_lock_that_is_held_is_not_waited_for(tmp_path):
    path = tmp_path / "lock"
    for shared in (False, True):
        with files.lock(path, shared=shared), files.try_lock(path) as held:
            assert not held
            assert files.is_locked(path)
    with files.try_lock(path) as held:
        assert held
        assert not _free(path)
    assert _free(path)
    assert path.read_text() == f"process {os.getpid()}\n", "trying leaves no trace"


def test_asking_for_a_lock_makes_no_file(tmp_path):
    assert not files.is_locked(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


def _free(path) -> bool:
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
