"""A new project: what is decided, and a folder that is there whole or not at all."""

from pathlib import Path

import pytest
import yaml

from builder import new_folder, new_project, reference
from builder.errors import ChoiceError
from builder.reference import File

PIPELINE = """\
---
schema: 1
name: gpu-host  # of the releases
version: "1.0.0"
variant: "debian-13"
# What follows has names too.
variants:
  debian-13: {name: gpu-host, variant: debian-13}
"""
FILES = [File(Path("stages/pipeline.yml"), b"---\n"), File(Path("ansible/run"), b"#!", True)]


def decided(*files, name="images", variant="debian-12"):
    found = [File(Path("stages/pipeline.yml"), PIPELINE.encode()), *files]
    return {
        file.path.as_posix(): file.content.decode()
        for file in new_project.decide(found, name=name, variant=variant)
    }


# --- what it holds --------------------------------------------------------------------------------


def test_two_values_differ_and_nothing_else():
    expected = PIPELINE.replace("name: gpu-host  #", "name: images  #")
    expected = expected.replace('variant: "debian-13"', "variant: debian-12")
    assert decided()["stages/pipeline.yml"] == expected


@pytest.mark.parametrize("name", ["1.5", "2026-11-26", "null", "on", "0x10", "1.5.2", "gpu-host"])
def test_a_name_is_text_for_yaml_too(name):
    assert yaml.safe_load(decided(name=name)["stages/pipeline.yml"])["name"] == name


def test_what_is_kept_is_no_part_of_the_project():
    assert decided()[".gitignore"].split() == ["/cache/var/", "/dist/", "__pycache__/"]


def test_its_readme_names_it():
    assert decided(name="farm")["README.md"].startswith("# farm\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[docs/keys.md](../docs/keys.md)", "docs/keys.md"),
        ("[what is kept](../docs/keys.md#there)", "what is kept (docs/keys.md)"),
        ("[stages](../stages/pipeline.yml)", "[stages](../stages/pipeline.yml)"),
        ("[stages/](../stages)", "[stages/](../stages)"),
        ("[Jinja2](https://example.org/)", "[Jinja2](https://example.org/)"),
    ],
)
def test_a_link_that_would_lead_nowhere_names_the_page(before, after):
    page = File(Path("packer/README.md"), f"See {before}.\n".encode())
    assert decided(page)["packer/README.md"] == f"See {after}.\n"


def test_other_files_are_not_touched():
    other = File(Path("stages/base/key.asc"), b"\xff[a](../b.md)", executable=True)
    found = new_project.decide([other], name="a", variant="b")
    assert [file for file in found if file.path == other.path] == [other]


# --- what it is called ----------------------------------------------------------------------------


def test_it_is_called_as_its_folder():
    assert new_project.chosen_name(None, Path("/srv/images")) == "images"
    assert new_project.chosen_name("farm", Path("/srv/My Images")) == "farm"


@pytest.mark.parametrize("name", ["", "My", "a_b", "-a", "a b", "a/b", "a\n"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ChoiceError, match=r"^--name: (?s:.*) is no name$"):
        new_project.chosen_name(name, Path("/srv/images"))


@pytest.mark.parametrize("folder", ["/srv/My Images", "/"])
def test_a_folder_that_is_no_name_says_what_to_type(folder):
    with pytest.raises(ChoiceError, match="the folder's name") as caught:
        new_project.chosen_name(None, Path(folder))
    assert "--name NAME" in caught.value.hint


def test_an_unknown_variant_is_told_with_those_there_are():
    new_project.require_variant("a", ["b", "a"])
    with pytest.raises(ChoiceError, match='no variant "c"') as caught:
        new_project.require_variant("c", ["b", "a"])
    assert caught.value.hint == "known: a, b"


# --- the folder -----------------------------------------------------------------------------------


def write(folder, files=FILES, check=lambda _: None):
    new_folder.write(folder, files, last="stages", check=check)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WRITTEN = ["ansible", "ansible/run", "stages", "stages/pipeline.yml"]


def test_a_new_folder_is_made_with_those_above_it(tmp_path):
    write(tmp_path / "a/b")
    assert tree(tmp_path / "a/b") == WRITTEN
    assert tree(tmp_path) == ["a", "a/b", *(f"a/b/{path}" for path in WRITTEN)]


def test_it_is_as_open_as_other_folders(tmp_path):
    (tmp_path / "other").mkdir()
    write(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_empty_folder_stays_the_one_it_is(tmp_path, monkeypatch):
    """A shell may stand in it: ``vaultbuild init .`` is typed in a new folder."""
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    write(Path())
    assert tree(tmp_path) == WRITTEN
    assert tmp_path.stat().st_ino == before


def test_programs_may_be_run(tmp_path):
    write(tmp_path / "new")
    assert (tmp_path / "new/ansible/run").stat().st_mode & 0o111
    assert not (tmp_path / "new/stages/pipeline.yml").stat().st_mode & 0o111


@pytest.mark.parametrize("name", ["notes.txt", ".git"])
def test_a_folder_with_something_in_it_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ChoiceError, match=f"is not empty: it has {name}$") as caught:
        write(tmp_path)
    assert tree(tmp_path) == [name]
    assert "empty" in caught.value.hint


def test_of_many_files_a_few_are_named(tmp_path):
    for name in "edcba":
        (tmp_path / name).touch()
    with pytest.raises(ChoiceError, match=r"it has a, b, c and 2 more$"):
        new_folder.require_free(tmp_path)


def test_what_can_be_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "file/below", "link"):
        with pytest.raises(ChoiceError):
            write(tmp_path / name)
    assert tree(tmp_path) == ["file", "link"]


@pytest.mark.parametrize("where", ["", "new", "a/b"])
def test_a_fault_leaves_nothing(tmp_path, where):
    seen = []

    def check(folder):
        seen.append(tree(folder))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / where, check=check)
    assert seen == [WRITTEN], "and what was checked was whole"
    assert tree(tmp_path) == []


def test_a_fault_on_the_way_into_an_empty_folder_leaves_nothing(tmp_path):
    """Somebody else puts something there at that moment."""
    with pytest.raises(OSError, match="not empty"):
        write(tmp_path, check=lambda _: (tmp_path / "stages/mine").mkdir(parents=True))
    assert tree(tmp_path) == ["stages", "stages/mine"]


def test_who_comes_second_is_refused(tmp_path):
    with pytest.raises(ChoiceError, match="not empty"):
        write(tmp_path / "new", check=lambda _: (tmp_path / "new/mine").mkdir(parents=True))
    assert tree(tmp_path) == ["new", "new/mine"]


# --- the reference project ------------------------------------------------------------------------


def test_clutter_is_no_part_of_it(tmp_path):
    """As where it is installed: pip compiles what it installs."""
    parts = ["stages/pipeline.yml", "ansible/roles/a/files/run", "cache/README.md"]
    clutter = [
        "README.md", "builder/cli.py", "cache/var/images/a", "stages/.a.yml.swp",
        "stages/base/checks/__pycache__/a.cpython-311.pyc", "ansible/.ansible/a", "packer/a.pyc",
    ]  # fmt: skip
    for path in parts + clutter:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "ansible/roles/a/files/run").chmod(0o755)
    found = reference.read(tmp_path)
    assert [file.path.as_posix() for file in found] == sorted(parts)
    assert [file.content.decode() for file in found] == sorted(parts)
    assert [file.executable for file in found] == [True, False, False]


def test_in_a_checkout_it_is_the_checkout():
    assert reference.place() == Path(__file__).parents[2]
