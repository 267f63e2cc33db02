"""A build sees what its key says: nothing else is there, and no edit gets in unnoticed."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.digest import StatCache
from builder.inputs import EditedError, StageInputs, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

ROLE = "ansible/roles/tuning"
TASKS = f"{ROLE}/tasks/main.yml"
TEMPLATE = "packer/stage.pkr.hcl.j2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a role, a template, and files that no document names."""
    project = tmp_path / "project"
    for path in (TASKS, f"{ROLE}/files/run", f"{ROLE}/tasks/.main.yml.swp", TEMPLATE, "README.md"):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(f"# {path}\n")
    (project / TASKS).chmod(0o600)
    (project / ROLE / "files/run").chmod(0o711)
    (project / ROLE / "link").symlink_to("tasks/main.yml")
    return project


@pytest.fixture
def inputs(root: Path) -> StageInputs:
    """The inputs of a stage with that role and template."""
    cache = StatCache(root, root / "cache/var/index/files")
    document = {"kind": "role", "role": "tuning", "files": cache.tree(ROLE)}
    sources = {TEMPLATE: cache.entry(TEMPLATE)}
    return StageInputs("final", (document,), ("key",), TEMPLATE, sources)


def test_a_snapshot_holds_what_the_documents_name_and_nothing_else(
    root: Path, inputs: StageInputs, tmp_path: Path
) -> None:
    copy = tmp_path / "work/inputs"
    snapshot(root, inputs, copy)
    found = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if not path.is_dir()}
    assert found == {TASKS, f"{ROLE}/files/run", f"{ROLE}/link", TEMPLATE} == set(inputs.files)
    assert (copy / TASKS).read_text() == f"# {TASKS}\n"
    assert (copy / ROLE / "link").readlink() == Path("tasks/main.yml")


def test_a_snapshot_has_the_same_modes_for_everybody(
    root: Path, inputs: StageInputs, tmp_path: Path
) -> None:
    snapshot(root, inputs, tmp_path / "inputs")
    modes = {
        path: stat.S_IMODE((tmp_path / "inputs" / path).stat().st_mode)
        for path in (TASKS, f"{ROLE}/files/run")
    }
    assert modes == {TASKS: 0o644, f"{ROLE}/files/run": 0o755}


def test_a_snapshot_holds_what_it_is_a_snapshot_of(
    root: Path, inputs: StageInputs, tmp_path: Path
) -> None:
    snapshot(root, inputs, tmp_path / "inputs")
    again = StatCache(tmp_path / "inputs", tmp_path / "index").tree(ROLE)
    assert again == inputs.documents[0]["files"]


def test_a_file_that_a_role_is_given_through_a_link_is_copied_as_a_file(
    root: Path, tmp_path: Path
) -> None:
    (root / "words.lock").symlink_to("README.md")
    value = StatCache(root, tmp_path / "index").entry("words.lock")
    given = StageInputs("final", ({"kind": "role", "files": {"words.lock": value}},), ("key",))
    snapshot(root, given, tmp_path / "inputs")
    assert not (tmp_path / "inputs/words.lock").is_symlink()
    assert (tmp_path / "inputs/words.lock").read_text() == "# README.md\n"


def replace_by_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_a_file(path: Path) -> None:
    path.unlink()
    path.write_text("")


@pytest.mark.parametrize(
    ("path", "edit"),
    [
        (TASKS, lambda path: path.write_text("# edited\n")),
        (TASKS, lambda path: path.chmod(0o755)),
        (TASKS, Path.unlink),
        (TASKS, replace_by_a_link),
        (TASKS, replace_by_a_folder),
        (TEMPLATE, lambda path: path.write_text("# edited\n")),
        (f"{ROLE}/link", Path.unlink),
        (f"{ROLE}/link", replace_by_a_file),
        (f"{ROLE}/link", replace_by_a_link),
    ],
)
def test_an_edit_before_the_snapshot_is_noticed(
    path: str,
    edit: Callable[[Path], object],
    root: Path,
    inputs: StageInputs,
    tmp_path: Path,
) -> None:
    edit(root / path)
    with pytest.raises(EditedError, match=f"{path} changed while this run was under way") as error:
        snapshot(root, inputs, tmp_path / "inputs")
    assert error.value.paths == (path,)
    assert error.value.hint


def test_several_edits_are_counted(root: Path, inputs: StageInputs, tmp_path: Path) -> None:
    (root / TASKS).write_text("# edited\n")
    (root / TEMPLATE).write_text("# edited\n")
    with pytest.raises(EditedError, match="and 1 more changed"):
        snapshot(root, inputs, tmp_path / "inputs")


def test_an_edit_after_the_snapshot_is_not_in_it(
    root: Path, inputs: StageInputs, tmp_path: Path
) -> None:
    snapshot(root, inputs, tmp_path / "inputs")
    (root / TASKS).write_text("# edited\n")
    assert (tmp_path / "inputs" / TASKS).read_text() == f"# {TASKS}\n"
