"""What counts in a key beside the project's own files: the tools of this host."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from builder.digest import Facts, file_signature
from builder.errors import ProjectError, StoreError
from builder.project import Project
from builder.provision import choose_strategy


@pytest.fixture
def folder(plannable) -> Path:
    return plannable


def tools(folder: Path) -> dict[str, str]:
    _, stage, *_ = Project(folder, engine="nspawn").inputs("base")[-1].documents
    return stage["tools"]


def test_the_tools_that_shape_an_image_are_in_its_key(folder):
    found = tools(folder)
    for name in ("ansible-core", "ansible-runner", "jinja2"):
        assert found[name] == metadata.version(name)
    assert found["packer"] == "1.6.6"


def test_how_tasks_are_carried_out_is_in_the_key(folder):
    """Two strategies need not leave the same bytes."""
    found = tools(folder)
    assert found["strategy"] == choose_strategy().name
    installed = {item.name.lower() for item in metadata.distributions()}
    assert ("mitogen" in found) == ("mitogen" in installed)


def test_what_was_remembered_of_fewer_tools_does_not_count(folder):
    facts = Facts(folder / "cache/var/index/facts.json")
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    facts.remember("libraries", file_signature(Path(libraries)), lambda: {"ansible-core": "2.0.0"})
    facts.save()
    assert tools(folder)["ansible-core"] == metadata.version("ansible-core")


def test_a_variant_with_an_open_pin_has_no_keys_and_the_others_have(folder, project):
    path = folder / "stages/pipeline.yml"
    image = "cloud_image: {url: x, sha256: 'fill in: vaultbuild lock image'}"
    bootstrap = "bootstrap: {suite: trixie, packages: [linux-image-amd64, python3=3.13.5-1]}"
    project({"stages/pipeline.yml": path.read_text().replace(bootstrap, image, 1)})
    with pytest.raises(ProjectError, match="sha256: is not filled in"):
        Project(folder, variant="one", engine="nspawn").inputs("base")
    other = Project(folder, variant="two", engine="nspawn")
    assert other.inputs("base")[-1].key
    # What is kept when the store is tidied is asked of all variants.
    assert other.current() == other.current_of_variant() != {}


# --- what to type ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "added"),
    [
        ({}, ""),
        ({"variant": "one"}, ""),
        ({"variant": "two"}, " --variant two"),
        ({"engine": "qemu"}, " --engine qemu"),
        ({"variant": "two", "engine": "nspawn"}, " --variant two --engine nspawn"),
    ],
)
def test_a_command_names_what_is_not_meant_by_default(folder, chosen, added):
    assert Project(folder, **chosen).command("stage base") == f"vaultbuild stage base{added}"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda project: project.image("final"), "stage final"),
        (lambda project: project.failed_disk("final"), "stage final --keep-failed"),
    ],
)
def test_a_hint_means_the_variant_and_the_engine_that_were_asked_about(folder, ask, words):
    with pytest.raises(StoreError) as caught:
        ask(Project(folder, variant="two", engine="nspawn"))
    assert f"vaultbuild {words} --variant two --engine nspawn" in caught.value.hint
