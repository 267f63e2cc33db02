"""A new project from a checkout, and the same from what a wheel of it installs."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from builder import process, reference

ROOT = Path(__file__).parents[2]
PARTS = ("ansible", "cache", "packer", "stages")
CLUTTER = (
    "stages/base/notes.txt",
    "stages/base/checks/__pycache__/old.cpython-311.pyc",
    "ansible/roles/unfinished/tasks/main.yml",
    "cache/var/images/disk.qcow2",
)
ADAPTED = {"stages/pipeline.yml", ".gitignore", "README.md"}
pytestmark = pytest.mark.integration


def git(folder, *words):
    safe = ["git", "-c", f"safe.directory={folder}", *words]
    return process.run(safe, cwd=folder).stdout


def tree(folder, *, clutter=False):
    """The files below a folder, with what they hold and whether they are programs."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file() and (clutter or "__pycache__" not in path.parts)
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, require_program):
    """A checkout of this project as it stands here, in which somebody has worked."""
    require_program("git")
    folder = tmp_path_factory.mktemp("checkout")
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    for name in CLUTTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture(scope="module")
def tracked(checkout):
    """The files of the reference project, as git has them."""
    names = [name for name in git(checkout, "ls-files", "-z", *PARTS).split("\0") if name]
    everything = tree(checkout, clutter=True)
    return {name: everything[name] for name in names}


def wheel_of(source, place):
    python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
           "--no-cache-dir", "--wheel-dir", place, source)  # fmt: skip
    (found,) = place.glob("*.whl")
    return found


def python(*words, path="", **named):
    return process.run([sys.executable, *words], env={"PYTHONPATH": str(path)}, **named)


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    # The build folder of another day is there, with a file that is gone since.
    old = checkout / "build/lib/builder" / reference.PACKED / "stages/gone/stage.yml"
    old.parent.mkdir(parents=True)
    old.touch()
    return wheel_of(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with what a wheel of that checkout installs."""
    folder = tmp_path_factory.mktemp("installed")
    python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


@pytest.fixture
def vaultbuild(tmp_path):
    """Call it with where the program is, and words: runs it in an empty folder."""
    (tmp_path / "work").mkdir()

    def run(place, *words, cwd=tmp_path / "work", check=True):
        return python("-m", "builder", *words, path=place, cwd=cwd, check=check)

    return run


def test_a_wheel_has_what_git_has(installed, tracked):
    packed = installed / "builder" / reference.PACKED
    assert tree(packed) == tracked
    # pip compiles what it installs: that must not come along later.
    assert set(tree(packed)) < set(tree(packed, clutter=True))


def test_a_wheel_of_a_source_archive_is_the_same(checkout, wheel, tmp_path):
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    python("-c", build, tmp_path / "archive", cwd=checkout)
    (archive,) = (tmp_path / "archive").glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (source,) = tmp_path.glob("vaultbuild-*")
    again = wheel_of(source, tmp_path / "again")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_both_write_the_same_project(checkout, installed, tracked, vaultbuild, tmp_path):
    places = {"checkout": checkout, "wheel": installed}
    for name, place in places.items():
        said = vaultbuild(place, "-q", "init", tmp_path / name / "farm")
        assert said.stdout == f"{tmp_path / name / 'farm'}\n"
        assert said.stderr == ""
    written = tree(tmp_path / "wheel/farm", clutter=True)
    assert written == tree(tmp_path / "checkout/farm", clutter=True)
    assert set(written) == set(tracked) | ADAPTED
    pages = {name for name in tracked if name.endswith("README.md")}
    same = set(tracked) - ADAPTED - pages
    assert {name: written[name] for name in same} == {name: tracked[name] for name in same}


def test_its_plan_is_that_of_the_reference(checkout, installed, vaultbuild, program, tmp_path):
    program("packer", "#!/bin/sh\necho Packer v1.6.6\n")
    # Where the program reads the same, so are keys: another name is in none.
    said = vaultbuild(installed, "init", "farm", "--name", "other")
    plan = ["plan", "--json", "--engine", "nspawn", "--project"]
    new = json.loads(vaultbuild(installed, *plan, said.stdout.strip()).stdout)
    old = json.loads(vaultbuild(installed, *plan, checkout).stdout)
    assert new["steps"] == old["steps"]
    assert [step["stage"] for step in new["steps"]] == ["base", "drivers", "frameworks", "final"]
    assert {step["action"] for step in new["steps"]} == {"build"}


def test_what_to_type_next_can_be_typed(installed, vaultbuild, tmp_path):
    said = vaultbuild(installed, "init", "my images", "--name", "a", "--variant", "debian-12",
                      "--json")  # fmt: skip
    folder = tmp_path / "work/my images"
    told = json.loads(said.stdout)
    files = len(tree(folder, clutter=True))
    assert told == {
        "schema": 1, "folder": str(folder), "name": "a", "variant": "debian-12", "files": files,
    }  # fmt: skip
    assert "cd 'my images'\n" in said.stderr
    commands = re.findall(r"vaultbuild (\w+)", said.stderr)
    assert commands == ["doctor", "plan", "stage"]
    for command in commands:
        vaultbuild(installed, command, "--help")


def test_links_of_its_pages_lead_somewhere(installed, vaultbuild, tmp_path):
    vaultbuild(installed, "init", "farm")
    links = [
        (page, link)
        for page in (tmp_path / "work/farm").rglob("*.md")
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in link
    ]
    assert len(links) > 30
    assert [(page, link) for page, link in links if not (page.parent / link).exists()] == []


def test_the_folder_one_stands_in(installed, vaultbuild, tmp_path):
    said = vaultbuild(installed, "init", ".", "--name", "here")
    assert said.stdout == f"{tmp_path / 'work'}\n"
    assert "cd " not in said.stderr
    again = vaultbuild(installed, "init", ".", check=False)
    assert again.status == 2
    assert again.stdout == ""
    assert again.stderr.startswith("error: . is not empty: it has .gitignore, README.md, ansible")


def test_half_a_change_of_a_checkout_becomes_no_project(checkout, vaultbuild, tmp_path):
    """A stage names a role that git does not know yet."""
    stage = checkout / "stages/final/stage.yml"
    text = stage.read_text()
    stage.write_text(text.replace("roles:\n", "roles:\n  - unfinished\n", 1))
    meta = checkout / "ansible/roles/unfinished/meta/argument_specs.yml"
    meta.parent.mkdir()
    meta.write_text("argument_specs: {main: {options: {}}}\n")
    try:
        said = vaultbuild(checkout, "init", "farm", check=False)
    finally:
        stage.write_text(text)
    assert said.status == 2
    assert "stages/final/stage.yml" in said.stderr
    assert "unfinished" in said.stderr
    assert f"hint: these files of {checkout} are wrong, or git does not track them" in said.stderr
    assert list((tmp_path / "work").iterdir()) == []
