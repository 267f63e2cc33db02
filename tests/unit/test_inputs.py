"""Which changes give another key and which do not; and that a build sees what its key says."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from builder.digest import Facts, StatCache, digest_document
from builder.errors import ProjectError
from builder.inputs import StageInputs, Template, Toolset, lineage_inputs, remembered_templates
from builder.pipeline import (
    SEALING_VERSION,
    Pipeline,
    Resources,
    Role,
    RoleUse,
    Source,
    Stage,
    load_pipeline,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Write = Callable[..., Path]

TOOLS = Toolset(
    engine="nspawn",
    versions={"packer": "1.6.6", "ansible-core": "2.19.3", "provisioning": "1"},
    source_program="1",
    template=lambda stage: Template(f"rendered for {stage.name}"),
)
FILES = {
    "stages/final/stage.yml": """\
        parent: base
        roles:
          - role: greeting
            variables: {greeting_text: hi, greeting_count: 2, greeting_lock: words.lock}
          - sealing
        """,
    "stages/final/words.lock": "hello==1\n",
    "ansible/ansible.cfg": "[defaults]\n",
    "ansible/roles/greeting/meta/argument_specs.yml": """\
        argument_specs:
          main:
            options:
              greeting_text: {type: str}
              greeting_count: {type: int}
              greeting_lock: {type: path}
        """,
    "ansible/roles/sealing/meta/main.yml": """\
        dependencies: [sweeping]
        """,
    "ansible/roles/sweeping/meta/argument_specs.yml": """\
        argument_specs: {main: {options: {}}}
        """,
    "ansible/roles/sweeping/tasks/main.yml": "[]\n",
    "ansible/roles/unused/tasks/main.yml": "[]\n",
}


@pytest.fixture
def written(project: Write) -> Path:
    """A project with a path variable, a role that depends on another, and one that nobody uses."""
    return project(FILES)


def inputs_of(
    root: Path,
    stage: str = "final",
    *,
    tools: Toolset = TOOLS,
    pipeline: Pipeline | None = None,
    variant: str | None = None,
) -> tuple[StageInputs, ...]:
    cache = StatCache(root, root / "cache/var/index/files")
    pipeline = pipeline or load_pipeline(root, variant)
    return lineage_inputs(pipeline, stage, tools=tools, cache=cache)


def key_of(root: Path, stage: str = "final", **options: Any) -> str:
    return inputs_of(root, stage, **options)[-1].key


# --- the chain ------------------------------------------------------------------------------------


def test_each_document_holds_the_key_before_it(written: Path) -> None:
    base, final = inputs_of(written)
    assert [document["kind"] for document in base.documents] == ["source", "stage", "role"]
    assert [document["kind"] for document in final.documents] == ["stage", "role", "role"]
    documents, keys = [*base.documents, *final.documents], [*base.keys, *final.keys]
    assert keys == [digest_document(document) for document in documents]
    assert [document.get("parent") for document in documents] == [None, *keys[:-1]]
    assert final.key == final.roles[-1][1] == keys[-1]
    assert [role for role, _ in final.roles] == ["greeting", "sealing"]


def test_a_stage_that_ends_with_sealing_depends_on_how_that_is_done(project: Write) -> None:
    renamed = {path.replace("sealing", "seal"): text for path, text in FILES.items()}
    renamed["ansible/roles/seal/meta/argument_specs.yml"] = (
        "argument_specs: {main: {options: {}}}\n"
    )
    renamed["ansible/roles/seal/tasks/main.yml"] = "[]\n"
    stage = "stages/final/stage.yml"
    base, final = inputs_of(project({**renamed, stage: FILES[stage].replace("sealing", "seal")}))
    assert "sealing" not in base.documents[1]["tools"]
    # With the role that seals: the checkpoints before it are of use to a stage without it, too.
    _, greeting, seal = final.documents
    assert "tools" not in greeting
    assert seal["tools"] == {"sealing": str(SEALING_VERSION)}


def test_a_document_can_be_read_back_from_json(written: Path) -> None:
    for stage in inputs_of(written):
        again = json.loads(json.dumps(stage.documents))
        assert [digest_document(document) for document in again] == list(stage.keys)


def test_a_role_s_document_has_its_files_those_it_needs_and_those_it_is_given(
    written: Path,
) -> None:
    _, final = inputs_of(written)
    _, greeting, sealing = final.documents
    assert set(greeting["files"]) == {
        "ansible/roles/greeting/defaults/main.yml",
        "ansible/roles/greeting/meta/argument_specs.yml",
        "ansible/roles/greeting/tasks/main.yml",
        "stages/final/words.lock",
    }
    assert "ansible/roles/sweeping/tasks/main.yml" in sealing["files"]
    assert greeting["variables"] == {
        "greeting_text": "hi",
        "greeting_count": 2,
        "greeting_lock": "stages/final/words.lock",
    }
    assert sealing["variables"] == {}


def test_a_stage_without_roles_has_the_key_of_its_own_document(project: Write) -> None:
    root = project({"stages/final/stage.yml": "parent: base\nroles: []\n"})
    _, final = inputs_of(root)
    assert [document["kind"] for document in final.documents] == ["stage"]
    assert final.roles == ()


def test_the_template_s_texts_are_in_the_snapshot_but_not_in_the_key(written: Path) -> None:
    before = inputs_of(written)[-1]
    (written / "packer/partial.pkr.hcl.j2").write_text("# of no consequence")
    (written / "packer/README.md").write_text("no text of a template")
    after = inputs_of(written)[-1]
    assert set(after.files) - set(before.files) == {"packer/partial.pkr.hcl.j2"}
    assert "packer/stage.pkr.hcl.j2" in before.files
    assert after.key == before.key


# --- what a key does not see ----------------------------------------------------------------------


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def touch_everything(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (1, 1))


def reorder_yaml(root: Path) -> None:
    rewrite(
        root / "stages/final/stage.yml",
        "{greeting_text: hi, greeting_count: 2, greeting_lock: words.lock}",
        "{greeting_lock: words.lock, greeting_count: 2, greeting_text: hi}",
    )


def add_what_nobody_declared(root: Path) -> None:
    (root / "ansible/roles/unused/tasks/main.yml").write_text("- debug: {}\n")
    (root / "stages/final/notes.txt").write_text("remember the milk")
    (root / "ansible/site.yml").write_text("[]")


def add_a_check(root: Path) -> None:
    (root / "stages/final/checks").mkdir()
    (root / "stages/final/checks/test_final.py").write_text("def test_it(host): ...\n")


def add_a_check_to_a_role(root: Path) -> None:
    (root / "ansible/roles/sealing/checks").mkdir()
    (root / "ansible/roles/sealing/checks/test_sealing.py").write_text("def test_it(host): pass\n")


def add_litter(root: Path) -> None:
    (root / "ansible/roles/sealing/tasks/.main.yml.swp").write_text("x")
    (root / "ansible/roles/sealing/__pycache__").mkdir()
    (root / "ansible/roles/sealing/__pycache__/x.cpython-311.pyc").write_text("x")


def more_processors(root: Path) -> None:
    with (root / "stages/pipeline.yml").open("a") as file:
        file.write("resources: {cpus: 7, memory: 3G}\n")


def other_ports_and_proxies(root: Path) -> None:
    with (root / "stages/pipeline.yml").open("a") as file:
        file.write("caches: {apt: {url: 'http://proxy.example:3142'}}\n")


def other_group_permissions(root: Path) -> None:
    (root / "ansible/roles/sealing/tasks/main.yml").chmod(0o660)


def comment_a_stage_file(root: Path) -> None:
    with (root / "stages/final/stage.yml").open("a") as file:
        file.write("# why\n")


@pytest.mark.parametrize(
    "edit",
    [
        touch_everything,
        reorder_yaml,
        add_what_nobody_declared,
        add_a_check,
        add_a_check_to_a_role,
        add_litter,
        more_processors,
        other_ports_and_proxies,
        other_group_permissions,
        comment_a_stage_file,
    ],
)
def test_circumstance_gives_the_same_key(edit: Callable[[Path], None], written: Path) -> None:
    before = key_of(written)
    edit(written)
    assert key_of(written) == before


def test_another_folder_gives_the_same_key(written: Path, tmp_path: Path) -> None:
    before = key_of(written)
    shutil.copytree(written, tmp_path / "copies/of the/project", symlinks=True)
    assert key_of(tmp_path / "copies/of the/project") == before


def test_a_mirror_of_the_same_bytes_gives_the_same_key(project: Write) -> None:
    root = project()
    before = key_of(root, variant="two")
    rewrite(root / "stages/pipeline.yml", "images.example", "mirror.example")
    assert key_of(root, variant="two") == before
    rewrite(root / "stages/pipeline.yml", "e3b0c44298fc1c14", "ffffffffffffffff")
    assert key_of(root, variant="two") != before


# --- what a key sees ------------------------------------------------------------------------------


def make_executable(root: Path) -> None:
    (root / "ansible/roles/sealing/tasks/main.yml").chmod(0o755)


def rename_a_file(root: Path) -> None:
    tasks = root / "ansible/roles/sealing/tasks"
    (tasks / "main.yml").rename(tasks / "main.yaml")


def edit_a_role(root: Path) -> None:
    rewrite(root / "ansible/roles/sealing/tasks/main.yml", "Seal", "Close")


def edit_a_dependency(root: Path) -> None:
    (root / "ansible/roles/sweeping/tasks/main.yml").write_text("# none\n[]\n")


def edit_the_parent_s_role(root: Path) -> None:
    rewrite(root / "ansible/roles/greeting/tasks/main.yml", "Greet", "Salute")


def edit_one_variable(root: Path) -> None:
    rewrite(root / "stages/final/stage.yml", "greeting_count: 2", "greeting_count: 3")


def edit_a_file_that_a_role_is_given(root: Path) -> None:
    (root / "stages/final/words.lock").write_text("hello==2\n")


def edit_ansible_cfg(root: Path) -> None:
    (root / "ansible/ansible.cfg").write_text("[defaults]\nforks = 2\n")


def swap_roles(root: Path) -> None:
    roles = "roles: [sealing, {role: greeting, variables: {greeting_text: hi}}]"
    (root / "stages/final/stage.yml").write_text(f"parent: base\n{roles}\n")


def edit_a_source_package(root: Path) -> None:
    rewrite(root / "stages/pipeline.yml", "python3=3.13.5-1", "python3=3.13.5-2")


def bigger_disk(root: Path) -> None:
    with (root / "stages/pipeline.yml").open("a") as file:
        file.write("resources: {disk: 77G}\n")


@pytest.mark.parametrize(
    "edit",
    [
        make_executable,
        rename_a_file,
        edit_a_role,
        edit_a_dependency,
        edit_the_parent_s_role,
        edit_one_variable,
        edit_a_file_that_a_role_is_given,
        edit_ansible_cfg,
        swap_roles,
        edit_a_source_package,
        bigger_disk,
    ],
)
def test_content_gives_another_key(edit: Callable[[Path], None], written: Path) -> None:
    before = key_of(written)
    edit(written)
    assert key_of(written) != before


@pytest.mark.parametrize(
    "other",
    [
        {"engine": "qemu"},
        {"versions": {**TOOLS.versions, "packer": "1.14.2"}},
        {"source_program": "2"},
        {"template": lambda stage: Template("another")},
        {"template": lambda stage: Template("", (Path("ansible/ansible.cfg"),))},
    ],
)
def test_another_tool_gives_another_key(other: Mapping[str, Any], written: Path) -> None:
    assert key_of(written, tools=replace(TOOLS, **other)) != key_of(written)


def test_another_schema_gives_another_key(
    written: Path,
) -> None:
    document = dict(inputs_of(written)[-1].documents[-1])
    assert digest_document(document) != digest_document({**document, "schema": 2})


def test_a_change_in_the_last_role_keeps_all_keys_before_it(written: Path) -> None:
    before = [key for stage in inputs_of(written) for key in stage.keys]
    edit_a_role(written)
    after = [key for stage in inputs_of(written) for key in stage.keys]
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_variables_of_one_role_are_not_another_s(written: Path) -> None:
    before = inputs_of(written)[-1].documents[-1]
    edit_one_variable(written)
    after = inputs_of(written)[-1].documents[-1]
    assert {**before, "parent": ""} == {**after, "parent": ""}


def test_the_key_of_a_known_project(tmp_path: Path) -> None:
    """The keys of every image out there: when this fails, raise the schema or undo the change."""
    (tmp_path / "ansible/roles/greeting/tasks").mkdir(parents=True)
    (tmp_path / "ansible/roles/greeting/tasks/main.yml").write_text("[]\n")
    (tmp_path / "ansible/roles/greeting/run").write_text("#!/bin/sh\n")
    (tmp_path / "ansible/roles/greeting/run").chmod(0o700)
    (tmp_path / "ansible/roles/greeting/walk").symlink_to("run")
    (tmp_path / "stage.pkr.hcl.j2").write_text("")
    resources = Resources(cpus=2, memory_mib=4096, disk_bytes=8 << 30)
    use = RoleUse("greeting", {"greeting_text": "hé", "greeting_count": 2}, {})
    pipeline = Pipeline(
        project=tmp_path,
        name="known",
        version="1",
        variant="one",
        variants=("one",),
        source=Source("bootstrap", {"suite": "trixie", "packages": ["python3"]}, {}),
        stages=(
            Stage("base", None, (use,), Path("stage.pkr.hcl.j2"), "caches", resources, Path()),
        ),
        roles={"greeting": Role("greeting", (), {})},
        resources=resources,
        caches={},
    )
    golden = "2bd577a89e6d6024a8a8abce138fa97d2c1ce48b2b1e7a48e91c4ea10803f092"
    assert key_of(tmp_path, "base", pipeline=pipeline) == golden


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/etc/passwd", "../../sealing/tasks/main.yml", "gone"])
def test_a_link_to_what_was_not_declared_is_refused(target: str, written: Path) -> None:
    (written / "ansible/roles/greeting/link").symlink_to(target)
    with pytest.raises(ProjectError, match=r"roles/greeting/link: is a link to .*put a copy"):
        inputs_of(written)


@pytest.mark.parametrize("target", ["tasks/main.yml", "tasks", "tasks/../tasks/main.yml"])
def test_a_link_within_a_role_is_one_of_its_files(target: str, written: Path) -> None:
    (written / "ansible/roles/greeting/link").symlink_to(target)
    document = inputs_of(written)[0].documents[-1]
    assert document["files"]["ansible/roles/greeting/link"] == f"link:{target}"


def test_a_file_that_went_missing_is_named(written: Path) -> None:
    pipeline = load_pipeline(written, None)
    (written / "stages/final/words.lock").unlink()
    with pytest.raises(ProjectError, match=r"stages/final/words.lock: there is no such file"):
        inputs_of(written, pipeline=pipeline)


# --- templates ------------------------------------------------------------------------------------


def test_a_template_is_rendered_again_only_when_something_it_reads_changed(written: Path) -> None:
    rendered: list[str] = []
    pipeline = load_pipeline(written, None)

    def render(stage: Stage) -> Template:
        rendered.append(stage.name)
        return Template(f"digest {len(rendered)}", (Path("ansible/ansible.cfg"),))

    def describe(**context: str) -> Template:
        cache = StatCache(written, written / "cache/var/index/files")
        facts = Facts(written / "cache/var/index/facts")
        template = remembered_templates(render, context, cache=cache, facts=facts)
        found = template(pipeline.stage("final"))
        facts.save()
        assert isinstance(found, Template)
        return found

    first = describe(variant="one", packer="1.6.6")
    assert describe(variant="one", packer="1.6.6") == first
    assert rendered == ["final"]
    (written / "packer/partial.j2").write_text("x")
    assert describe(variant="one", packer="1.6.6") != first
    describe(variant="one", packer="1.14")
    assert len(rendered) == 3
