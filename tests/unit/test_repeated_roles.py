"""A role that a stage uses several times: one environment for each framework, say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.digest import StatCache
from builder.inputs import StageInputs, Template, Toolset, lineage_inputs
from builder.needs import needs_of
from builder.pipeline import load_pipeline
from builder.plan import Plan, explain, make_plan
from builder.provision import role_play
from builder.role_names import as_folder, called, role_of

if TYPE_CHECKING:
    from collections.abc import Callable

HASH = "\\\n    --hash=sha256:" + "a" * 64 + "\n"
FILES = {
    "ansible/roles/house/meta/argument_specs.yml": """\
        argument_specs:
          main:
            options:
              house_lock: {type: path, required: true}
              house_place: {type: str}
        """,
    "ansible/roles/house/defaults/main.yml": "house_place: /opt/default\n",
    "stages/final/stage.yml": """\
        parent: base
        roles:
          - house
          - role: house
            as: torch
            variables: {house_lock: torch.lock, house_place: /opt/torch}
          - sealing
        variables: {house_lock: default.lock}
        """,
    "stages/final/default.lock": f"numpy==1 {HASH}",
    "stages/final/torch.lock": f"torch==1 {HASH}",
}
NAMES = ["house", "house:torch", "sealing"]


@pytest.fixture
def written(project: Callable[..., Path]) -> Path:
    return project(FILES)


def inputs_of(root: Path) -> tuple[StageInputs, ...]:
    cache = StatCache(root, root / "cache/var/index/files")
    tools = Toolset("nspawn", {"packer": "1"}, 1, lambda stage: Template(stage.name))
    return lineage_inputs(load_pipeline(root), "final", tools=tools, cache=cache)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "name"), [(None, "house"), ("torch", "house:torch")])
def test_a_name_tells_its_role(own: str | None, name: str) -> None:
    assert called("house", own) == name
    assert role_of(name) == "house"
    assert ":" not in as_folder(name)


def test_a_play_has_the_name_of_the_use_and_the_tasks_of_the_role() -> None:
    play = role_play("house:torch", {}, facts=False)
    assert (play["name"], play["roles"]) == ("house:torch", [{"role": "house"}])


# --- what stands in the files ---------------------------------------------------------------------


def test_each_use_has_its_name_and_its_variables(written: Path) -> None:
    first, second, _ = load_pipeline(written).stage("final").roles
    assert (first.name, first.role, second.name, second.role) == (
        "house", "house", "house:torch", "house",
    )  # fmt: skip
    assert (first.variables, second.variables) == ({}, {"house_place": "/opt/torch"})
    locks = [use.paths["house_lock"].as_posix() for use in (first, second)]
    assert locks == ["stages/final/default.lock", "stages/final/torch.lock"]


def test_the_values_in_force_are_those_of_the_use_without_a_name(written: Path) -> None:
    pipeline = load_pipeline(written)
    default = {"house_lock": "stages/final/default.lock", "house_place": "/opt/default"}
    torch = {"house_lock": "stages/final/torch.lock", "house_place": "/opt/torch"}
    assert pipeline.variables_of("final") == {"greeting_text": "hello", **default}
    uses = pipeline.uses_of("final")
    assert list(uses) == ["greeting", *NAMES]
    assert (uses["house"], uses["house:torch"]) == (default, torch)
    assert "house" not in pipeline.uses_of("base")


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (("            as: torch\n", ""),
         'role house is listed twice (remove one of them, or name this use of it with "as")'),
        (("- house\n", "- {role: house, as: torch}\n"),
         'role house:torch is listed twice (remove one of them, or name this use of it with "as")'),
        (("{house_lock: torch.lock, house_place: /opt/torch}", "{}"),
         "role house:torch gets the same variables as house (remove one of them)"),
        (("{house_lock: torch.lock, house_place: /opt/torch}",
          "{house_lock: default.lock, house_place: /opt/default}"),
         "role house:torch gets the same variables as house (remove one of them)"),
    ],
)  # fmt: skip
def test_uses_that_nothing_tells_apart(
    project: Callable[..., Path],
    edit: tuple[str, str],
    problem: str,
    problems: Callable[..., list[str]],
) -> None:
    text = FILES["stages/final/stage.yml"].replace(*edit)
    (told,) = problems(project({**FILES, "stages/final/stage.yml": text}))
    assert told == f"stages/final/stage.yml:4: roles.1: {problem}"


def test_a_name_that_is_none(
    project: Callable[..., Path], problems: Callable[..., list[str]]
) -> None:
    text = FILES["stages/final/stage.yml"].replace("as: torch", "as: a b")
    (told,) = problems(project({**FILES, "stages/final/stage.yml": text}))
    assert told.startswith('stages/final/stage.yml:5: roles.1.as: "a b" is no name')


def test_each_variant_is_judged_by_what_it_gives(
    project: Callable[..., Path], problems: Callable[..., list[str]]
) -> None:
    text = FILES["stages/final/stage.yml"].replace("house_lock: torch.lock, ", "")
    root = project({**FILES, "stages/final/stage.yml": text})
    load_pipeline(root)
    edit = ("  two:", "    variables: {house_place: /opt/torch}\n  two:")
    (told,) = problems(project({"stages/pipeline.yml": edit}))
    assert "role house:torch gets the same variables as house" in told


# --- keys and plans -------------------------------------------------------------------------------


def test_each_use_has_a_key_of_its_own(written: Path) -> None:
    final = inputs_of(written)[-1]
    assert [name for name, _ in final.roles] == NAMES
    first, second, _ = final.role_documents
    assert first["files"].keys() - second["files"].keys() == {"stages/final/default.lock"}
    assert second["files"].keys() - first["files"].keys() == {"stages/final/torch.lock"}
    assert "ansible/roles/house/defaults/main.yml" in second["files"]


def test_a_name_of_its_own_changes_no_key_before_it(written: Path) -> None:
    before = inputs_of(written)[-1].roles
    text = (written / "stages/final/stage.yml").read_text()
    (written / "stages/final/stage.yml").write_text(text.replace("as: torch", "as: other"))
    after = inputs_of(written)[-1].roles
    assert before[0] == after[0]
    assert [name for name, _ in after] == ["house", "house:other", "sealing"]


def plan_after_editing(root: Path, lock: str) -> Plan:
    built = inputs_of(root)
    (root / "stages/final" / lock).write_text(f"numpy==2 {HASH}")
    now = inputs_of(root)
    return make_plan(
        now,
        variant="one",
        present={inputs.key for inputs in built},
        last={inputs.stage: inputs.documents for inputs in built},
        checkpoints={key for inputs in built for _, key in inputs.roles},
    )


def told(plan: Plan) -> list[tuple[str, str, list[str]]]:
    return [
        (role.role, role.action, [str(reason) for reason in role.reasons])
        for role in plan.steps[-1].roles
    ]


def test_another_lock_of_the_second_use_keeps_the_first(written: Path) -> None:
    plan = plan_after_editing(written, "torch.lock")
    assert told(plan) == [
        ("house", "reuse", []),
        ("house:torch", "run", ["stages/final/torch.lock changed"]),
        ("sealing", "run", ["house:torch runs before it"]),
    ]
    assert explain(plan.steps[-1]) == "resume  after house: stages/final/torch.lock changed"


def test_another_lock_of_the_first_use_is_the_reason_of_that_alone(written: Path) -> None:
    assert told(plan_after_editing(written, "default.lock")) == [
        ("house", "run", ["stages/final/default.lock changed"]),
        ("house:torch", "run", ["house runs before it"]),
        ("sealing", "run", ["house runs before it"]),
    ]


def test_a_use_more_is_told_by_its_name(project: Callable[..., Path]) -> None:
    alone = "parent: base\nroles: [house, sealing]\nvariables: {house_lock: default.lock}\n"
    root = project({**FILES, "stages/final/stage.yml": alone})
    base, final = inputs_of(root)
    now = inputs_of(project(FILES))
    last = {"base": base.documents, "final": final.documents}
    plan = make_plan(now, variant="one", present={base.key}, last=last)
    assert explain(plan.steps[-1]) == "build   role house:torch added"


# --- what is fetched ------------------------------------------------------------------------------


def test_the_lock_of_each_use_is_known_to_the_caches(written: Path) -> None:
    wheels = needs_of(load_pipeline(written)).wheels
    assert [(need.role, need.path.name) for need in wheels] == [
        ("house", "default.lock"), ("house:torch", "torch.lock"),
    ]  # fmt: skip


# --- the reference pipeline -----------------------------------------------------------------------


def test_variants_that_differ_in_their_frameworks_share_what_is_before_them() -> None:
    root = Path(__file__).parents[2]
    one, other = (keys_of(root, variant) for variant in ("debian-13", "debian-13-torch"))
    assert one[:2] == other[:2], "base and drivers"
    assert one[2][0] == other[2][0] == ("python_frameworks", one[2][0][1])
    assert [name for name, _ in other[2]] == [
        "python_frameworks", "python_frameworks:torch", "model_cache",
    ]  # fmt: skip


def keys_of(root: Path, variant: str) -> list[tuple[tuple[str, str], ...]]:
    tools = Toolset("nspawn", {"packer": "1"}, 1, lambda stage: Template(stage.name))
    pipeline = load_pipeline(root, variant)
    cache = StatCache(root, root / "no such folder/files")
    return [one.roles for one in lineage_inputs(pipeline, "final", tools=tools, cache=cache)]
