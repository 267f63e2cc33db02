"""What a digest sees and does not see, and that the stat cache never believes what may be wrong."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

import pytest

from builder.digest import (
    Facts,
    StatCache,
    canonical,
    digest_bytes,
    digest_document,
    digest_file,
    file_signature,
    is_litter,
    short,
)
from builder.errors import ProjectError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG_AGO = 1_000_000_000
NO_GRAIN = -(10**18)  # "every file is old enough": what a cache without the rule would believe


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small folder of all kinds of files, below ``tmp_path/project``."""
    root = tmp_path / "project"
    (root / "role/tasks").mkdir(parents=True)
    (root / "role/tasks/main.yml").write_text("- one\n")
    (root / "role/run.sh").write_text("#!/bin/sh\n")
    (root / "role/run.sh").chmod(0o755)
    (root / "role/link").symlink_to("tasks/main.yml")
    return root


@pytest.fixture
def open_cache(tree: Path, tmp_path: Path) -> Callable[..., StatCache]:
    """Open the stat cache of ``tree``, as one run of the program does."""

    def open_it(**options: int) -> StatCache:
        return StatCache(tree, tmp_path / "var/index/files", **options)

    return open_it


# --- documents ------------------------------------------------------------------------------------


def test_a_document_has_one_canonical_form() -> None:
    one = {"b": [1, {"y": None, "x": "é"}], "a": True}
    other = {"a": True, "b": [1, {"x": "é", "y": None}]}
    assert canonical(one) == canonical(other) == b'{"a":true,"b":[1,{"x":"\\u00e9","y":null}]}'
    assert digest_document(one) == digest_bytes(canonical(other))


@pytest.mark.parametrize(
    ("one", "other"), [({"a": 1}, {"a": True}), ({"a": 1}, {"a": "1"}), ([1, 2], [2, 1]), ({}, [])]
)
def test_different_documents_differ(one: object, other: object) -> None:
    assert digest_document(one) != digest_document(other)


def test_a_number_that_json_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


def test_a_file_and_its_bytes_have_one_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    digest = digest_file(tmp_path / "file")
    assert digest == digest_bytes(b"abc")
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert short(digest) == "ba7816bf8f01"


# --- trees ----------------------------------------------------------------------------------------


def test_a_tree_tells_files_programs_and_links(open_cache: Callable[..., StatCache]) -> None:
    assert open_cache().tree("role") == {
        "role/link": "link:tasks/main.yml",
        "role/run.sh": f"exec:{digest_bytes(b'#!/bin/sh' + bytes([10]))}",
        "role/tasks/main.yml": f"file:{digest_bytes(b'- one' + bytes([10]))}",
    }
    assert list(open_cache().tree("role")) == sorted(open_cache().tree("role"))


def test_a_named_file_is_read_through_a_link(open_cache: Callable[..., StatCache]) -> None:
    cache = open_cache()
    assert cache.entry("role/link") == cache.entry("role/tasks/main.yml")


@pytest.mark.parametrize(
    "name",
    [".main.yml.swp", ".main.yml.swx", "main.yml~", "#main.yml#", ".#main.yml", "x.pyc", ".git",
     "__pycache__", ".mypy_cache"],
)  # fmt: skip
def test_litter_does_not_count(name: str, tree: Path, open_cache: Callable[..., StatCache]) -> None:
    before = open_cache().tree("role")
    (tree / "role" / name).write_text("litter")
    assert is_litter(name)
    assert open_cache().tree("role") == before


@pytest.mark.parametrize("name", [".gitkeep", "swp", "main.swp", "#x", ".hidden", "x.pyc.x", "~x"])
def test_what_somebody_wrote_counts(
    name: str, tree: Path, open_cache: Callable[..., StatCache]
) -> None:
    assert not is_litter(name)
    (tree / "role" / name).write_text("work")
    assert f"role/{name}" in open_cache().tree("role")


def test_neither_time_nor_place_nor_owner_nor_order_count(
    tree: Path, tmp_path: Path, open_cache: Callable[..., StatCache]
) -> None:
    before = open_cache().tree("role")
    os.utime(tree / "role/run.sh", (LONG_AGO, LONG_AGO))
    (tree / "role/tasks/main.yml").chmod(0o600)
    (tree / "role/empty").mkdir()
    assert open_cache().tree("role") == before

    moved = tmp_path / "elsewhere"
    tree.rename(moved)
    assert StatCache(moved, tmp_path / "other").tree("role") == before


def test_a_name_that_is_no_utf8_has_a_digest(
    tree: Path, open_cache: Callable[..., StatCache]
) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tree / "role" / name).write_text("x")
    os.utime(tree / "role" / name, (LONG_AGO, LONG_AGO))
    cache = open_cache(grain_ns=NO_GRAIN)
    found = cache.tree("role")
    assert len(digest_document(found)) == 64
    cache.save()
    assert open_cache().tree("role") == found


def test_a_pipe_is_refused(tree: Path, open_cache: Callable[..., StatCache]) -> None:
    os.mkfifo(tree / "role/pipe")
    with pytest.raises(ProjectError, match=r"role/pipe: is neither a file, a folder nor a link"):
        open_cache().tree("role")


@pytest.mark.parametrize("name", ["role/run.sh", "role/tasks"])
def test_what_cannot_be_read_says_how_to_make_it_readable(
    name: str, tree: Path, open_cache: Callable[..., StatCache]
) -> None:
    (tree / name).chmod(0)
    if os.access(tree / name, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(ProjectError, match=rf"cannot be read \(chmod u\+rX .*{name}\)"):
        open_cache().tree("role")


# --- the stat cache -------------------------------------------------------------------------------


def forge(tmp_path: Path) -> None:
    """Put wrong digests into the cache, so that a test sees whether a file was read again."""
    for name in ("files", "files.folders"):
        file = tmp_path / "var/index" / name
        text = file.read_text().partition("\n")[2]
        text = re.sub(r"(file|exec|link):[^\"]*", "remembered", text)
        head = f"vaultbuild index 2 {digest_bytes(text.encode())}"
        file.write_text(f"{head}\n{text}")


def remember(open_cache: Callable[..., StatCache], tmp_path: Path) -> None:
    cache = open_cache(grain_ns=NO_GRAIN)
    cache.tree("role")
    cache.save()
    forge(tmp_path)


def test_unchanged_files_are_not_read_again(
    open_cache: Callable[..., StatCache], tmp_path: Path
) -> None:
    remember(open_cache, tmp_path)
    assert set(open_cache().tree("role").values()) == {"remembered"}


@pytest.mark.parametrize(
    "edit",
    [
        lambda path: path.write_text("- two\n"),
        lambda path: path.write_text("- longer\n"),
        lambda path: os.utime(path, (LONG_AGO, LONG_AGO)),
        lambda path: path.chmod(0o755),
        lambda path: (path.rename(path.with_name("old")), path.write_text("- one\n")),
    ],
)
def test_a_file_that_may_have_changed_is_read_again(
    edit: Callable[[Path], object],
    tree: Path,
    open_cache: Callable[..., StatCache],
    tmp_path: Path,
) -> None:
    remember(open_cache, tmp_path)
    path = tree / "role/tasks/main.yml"
    edited_at = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == edited_at:  # the clock ticks every few milliseconds
        edit(path)
    found = open_cache().tree("role")
    assert found["role/tasks/main.yml"] != "remembered"
    assert found["role/run.sh"] == "remembered"


def test_an_edit_within_the_same_tick_of_the_clock_is_noticed(
    tree: Path, open_cache: Callable[..., StatCache]
) -> None:
    path = tree / "role/tasks/main.yml"
    for text in (f"- {number:03}\n" for number in range(100)):
        cache = open_cache()
        cache.tree("role")
        cache.save()
        path.write_text(text)  # the same size, and on most file systems the same times
        found = open_cache().tree("role")["role/tasks/main.yml"]
        assert found == f"file:{digest_bytes(text.encode())}"


def test_a_file_as_young_as_the_clock_is_coarse_is_not_remembered(
    tree: Path, open_cache: Callable[..., StatCache]
) -> None:
    # Recent kernels give each edit times of its own, so the test above cannot fail there: this is
    # the rule itself. Old times that somebody set do not make a file old.
    os.utime(tree / "role/run.sh", (LONG_AGO, LONG_AGO))
    for grain, remembered in ((2 * 10**9, 0), (NO_GRAIN, 3)):
        cache = open_cache(grain_ns=grain)
        cache.tree("role")
        cache.save()
        assert len(open_cache()._files) == remembered


def test_a_file_of_the_future_is_never_remembered(
    tree: Path, open_cache: Callable[..., StatCache], tmp_path: Path
) -> None:
    later = time.time() + 3600
    os.utime(tree / "role/run.sh", (later, later))
    cache = open_cache(grain_ns=0)
    cache.tree("role")
    cache.save()
    assert "role/run.sh" not in open_cache()._files


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-10],
        lambda data: data.replace(b"remembered", b"remembereD", 1),
        lambda data: data.replace(b"index 2", b"index 1", 1),
        lambda data: b"\xff" * 100,
    ],
)
def test_a_damaged_cache_is_an_empty_one(
    damage: Callable[[bytes], bytes], open_cache: Callable[..., StatCache], tmp_path: Path
) -> None:
    remember(open_cache, tmp_path)
    for name in ("files", "files.folders"):
        file = tmp_path / "var/index" / name
        file.write_bytes(damage(file.read_bytes()))
    assert "remembered" not in open_cache().tree("role").values()


def test_what_other_variants_use_is_remembered_until_it_is_gone(
    tree: Path, open_cache: Callable[..., StatCache]
) -> None:
    for name in ("a", "b", "c"):
        (tree / name).mkdir()
        (tree / name / "file").write_text(name)
    first = open_cache(grain_ns=NO_GRAIN)
    for name in ("a", "b"):
        first.tree(name)
    first.save()
    (tree / "b/file").unlink()
    second = open_cache(grain_ns=NO_GRAIN)
    second.tree("c")
    second.save()
    assert set(open_cache()._files) == {"a/file", "c/file"}


def test_a_cache_that_cannot_be_written_is_done_without(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    cache = StatCache(tree, tmp_path / "in-the-way/files", grain_ns=NO_GRAIN)
    assert cache.tree("role")
    cache.save()


# --- facts ----------------------------------------------------------------------------------------


def test_a_fact_is_derived_once_for_the_same_inputs(tmp_path: Path) -> None:
    derived: list[str] = []

    def ask(inputs: str) -> list[str]:
        facts = Facts(tmp_path / "facts")
        fact = facts.remember("packer", inputs, lambda: derived.append(inputs) or ["1.6.6", inputs])
        facts.save()
        return fact

    assert ask("a") == ask("a") == ["1.6.6", "a"]
    assert ask("b") == ["1.6.6", "b"]
    assert derived == ["a", "b"]


def test_a_program_that_was_replaced_has_another_signature(tmp_path: Path) -> None:
    (tmp_path / "packer").write_text("one")
    (tmp_path / "link").symlink_to("packer")
    before = file_signature(tmp_path / "link")
    assert before == file_signature(tmp_path / "packer")
    (tmp_path / "new").write_text("one")
    (tmp_path / "new").rename(tmp_path / "packer")
    assert file_signature(tmp_path / "link") != before
