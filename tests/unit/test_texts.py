"""What files held before: kept once, shown as the lines that changed."""

import hashlib
import os

import pytest

from builder.texts import changed_lines, keep


@pytest.fixture
def kept(tmp_path):
    """Keep a text and return what a document says of it."""

    def keep_text(text: bytes) -> str:
        folder = tmp_path / "snapshot"
        folder.mkdir(exist_ok=True)
        (folder / "file").write_bytes(text)
        value = f"file:{hashlib.sha256(text).hexdigest()}"
        keep(tmp_path / "var", folder, {"file": value})
        return value

    return keep_text


@pytest.fixture
def shown(tmp_path):
    def lines(before: str | None, now: bytes) -> list[str]:
        (tmp_path / "now").write_bytes(now)
        return list(changed_lines(tmp_path / "var", tmp_path / "now", before))

    return lines


def test_a_changed_line_is_shown_as_it_was_and_is(kept, shown):
    before = kept(b"one\ntwo\nthree\n")
    assert shown(before, b"one\n2\nthree\n") == ["@@ -2 +2 @@", "-two", "+2"]


def test_many_lines_are_counted(kept, shown):
    lines = shown(kept(b""), b"line\n" * 50)
    assert len(lines) == 13
    assert lines[-1] == "… and 39 lines more"


@pytest.mark.parametrize("before", [None, "link:elsewhere", f"file:{'0' * 64}"])
def test_where_nothing_is_known_nothing_is_shown(kept, shown, before):
    kept(b"one\n")
    assert shown(before, b"two\n") == []


def test_what_is_no_text_is_not_shown(kept, shown):
    assert shown(kept(b"\xff\x00"), b"two\n") == []


def test_large_files_are_not_kept(kept, shown):
    before = kept(b"x\n" * (64 << 10))
    assert shown(before, b"y\n") == []


def test_what_was_not_used_for_a_season_is_forgotten(kept, shown, tmp_path):
    old, new = kept(b"old\n"), kept(b"new\n")
    for text in (tmp_path / "var/texts").iterdir():
        os.utime(text, (0, 0))
    kept(b"new\n")
    assert shown(old, b"x\n") == []
    assert shown(new, b"x\n") == ["@@ -1 +1 @@", "-new", "+x"]
