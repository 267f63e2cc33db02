"""The decision and its reasons, from values alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from builder.digest import digest_document
from builder.inputs import StageInputs
from builder.plan import Plan, explain, make_plan
from builder.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VARIANT = "debian-13"


def role(name: str, files: Mapping[str, str] | None = None, **variables: Any) -> dict[str, Any]:
    """A role's document, as yet without its parent."""
    path = f"ansible/roles/{name}/tasks/main.yml"
    return {
        "schema": 1,
        "kind": "role",
        "role": name,
        "files": {path: "file:aa"} if files is None else files,
        "variables": variables,
    }


def stage(name: str, **other: Any) -> dict[str, Any]:
    """A stage's document, as yet without its parent."""
    tools = {"packer": "1.6.6"}
    document = {"schema": 1, "kind": "stage", "stage": name, "engine": "nspawn", "template": "tt"}
    return {**document, "files": {}, "tools": tools, **other}


SOURCE = {
    "schema": 1,
    "kind": "source",
    "source": "bootstrap",
    "settings": {"suite": "trixie", "packages": ["python3=1", "openssh-server"]},
    "files": {},
    "disk": 8 << 30,
    "program": 1,
}
BASE = [SOURCE, stage("base"), role("ssh")]
DRIVERS = [stage("drivers"), role("nvidia_driver"), role("cuda_runtime")]
FINAL = [stage("final"), role("tuning", tuning_hugepages=0), role("sealing")]


def chain(*stages: Sequence[Mapping[str, Any]]) -> tuple[StageInputs, ...]:
    """Give each document its parent and its key, as builder.inputs does."""
    lineage: list[StageInputs] = []
    parent = None
    for documents in stages:
        whole, keys = [], []
        for document in documents:
            whole.append({**document, "parent": parent} if parent else dict(document))
            parent = digest_document(whole[-1])
            keys.append(parent)
        name = next(each["stage"] for each in documents if each["kind"] == "stage")
        lineage.append(StageInputs(name, tuple(whole), tuple(keys), "packer/stage.pkr.hcl.j2"))
    return tuple(lineage)


BUILT = chain(BASE, DRIVERS, FINAL)


def plan(
    lineage: Sequence[StageInputs], built: Sequence[StageInputs] = BUILT, **other: Any
) -> Plan:
    """Plan ``lineage`` where ``built`` was built, checked, and is in the store."""
    keys = {inputs.key for inputs in built}
    last = {inputs.stage: inputs.documents for inputs in built}
    known = {"variant": VARIANT, "present": keys, "verdicts": keys, "last": last}
    return make_plan(lineage, **{**known, **other})


def actions(found: Plan) -> list[str]:
    return [step.action for step in found.steps]


def reasons(found: Plan, name: str) -> list[tuple[Any, ...]]:
    step = next(step for step in found.steps if step.stage == name)
    return [(each.kind, each.what, each.before, each.after) for each in step.reasons]


def replaced(documents: Sequence[Mapping[str, Any]], index: int, **fields: Any) -> list[Any]:
    return [*documents[:index], {**documents[index], **fields}, *documents[index + 1 :]]


# --- what happens ---------------------------------------------------------------------------------


def test_nothing_changed_reuses_everything() -> None:
    found = plan(BUILT)
    assert actions(found) == ["reuse", "reuse", "reuse"]
    assert [step.key for step in found.steps] == [inputs.key for inputs in BUILT]
    assert not any(step.reasons or step.verify for step in found.steps)
    assert {each.action for step in found.steps for each in step.roles} == {"reuse"}
    assert not found.has_work


def test_an_empty_store_builds_everything() -> None:
    found = plan(BUILT, built=())
    assert actions(found) == ["build", "build", "build"]
    assert [step.reasons for step in found.steps] == [
        (Reason("never-built", name),) for name in ("base", "drivers", "final")
    ]
    assert all(step.verify for step in found.steps)
    assert {each.action for step in found.steps for each in step.roles} == {"run"}
    assert found.has_work


def test_a_change_in_the_last_stage_builds_it_alone() -> None:
    final = replaced(FINAL, 1, files={"ansible/roles/tuning/tasks/main.yml": "file:bb"})
    found = plan(chain(BASE, DRIVERS, final))
    assert actions(found) == ["reuse", "reuse", "build"]
    path = "ansible/roles/tuning/tasks/main.yml"
    assert reasons(found, "final") == [("file", path, "file:aa", "file:bb")]


def test_a_change_in_the_middle_builds_what_stands_on_it() -> None:
    drivers = replaced(DRIVERS, 1, variables={"nvidia_driver_version": "550"})
    lineage = chain(BASE, drivers, FINAL)
    found = plan(lineage)
    assert actions(found) == ["reuse", "build", "build"]
    assert reasons(found, "drivers") == [("variable", "nvidia_driver_version", None, "550")]
    assert reasons(found, "final") == [("parent", "drivers", BUILT[1].key, lineage[1].key)]


def test_a_changed_parent_hides_no_difference_of_the_stage_itself() -> None:
    drivers = replaced(DRIVERS, 1, variables={"nvidia_driver_version": "550"})
    final = replaced(FINAL, 1, variables={"tuning_hugepages": 8})
    found = plan(chain(BASE, drivers, final))
    assert [kind for kind, *_ in reasons(found, "final")] == ["variable", "parent"]


def test_an_image_that_is_gone_is_built_again_and_so_is_what_lay_on_it() -> None:
    present = {BUILT[0].key, BUILT[2].key}
    found = plan(BUILT, present=present)
    assert actions(found) == ["reuse", "build", "build"]
    assert reasons(found, "drivers") == [("image-missing", "drivers", None, None)]
    # The same key: but the bytes that the old overlay lay on are no more.
    assert reasons(found, "final") == [("parent", "drivers", BUILT[1].key, BUILT[1].key)]


def test_what_was_built_before_the_last_time_is_still_reused() -> None:
    other = chain(BASE, DRIVERS, replaced(FINAL, 1, variables={"tuning_hugepages": 8}))
    keys = {inputs.key for inputs in (*BUILT, *other)}
    found = plan(BUILT, built=other, present=keys, verdicts=keys)
    assert actions(found) == ["reuse", "reuse", "reuse"]


def test_force_builds_what_is_there_and_what_stands_on_it() -> None:
    found = plan(BUILT, force={"drivers"})
    assert actions(found) == ["reuse", "build", "build"]
    assert reasons(found, "drivers") == [("forced", "drivers", None, None)]
    assert reasons(found, "final") == [("parent", "drivers", BUILT[1].key, BUILT[1].key)]


def test_force_does_not_hide_a_difference() -> None:
    final = replaced(FINAL, 1, variables={"tuning_hugepages": 8})
    found = plan(chain(BASE, DRIVERS, final), force={"final"})
    assert [kind for kind, *_ in reasons(found, "final")] == ["variable", "forced"]


# --- checks ---------------------------------------------------------------------------------------


def test_changed_checks_verify_again_and_build_nothing() -> None:
    found = plan(BUILT, verdicts={BUILT[0].key, BUILT[1].key})
    assert actions(found) == ["reuse", "reuse", "reuse"]
    assert [step.verify for step in found.steps] == [False, False, True]
    assert reasons(found, "final") == [("check", "final", None, None)]
    assert found.has_work


def test_what_is_built_is_always_checked() -> None:
    # The old verdict was about other bytes, though the key is the same.
    found = plan(BUILT, force={"final"})
    assert [step.verify for step in found.steps] == [False, False, True]


# --- checkpoints ----------------------------------------------------------------------------------

THREE = [stage("final"), role("one"), role("two"), role("three")]


@pytest.mark.parametrize(
    ("kept", "action", "roles", "resume_from"),
    [
        ((), "build", ["run", "run", "run"], None),
        ((0,), "resume", ["reuse", "run", "run"], 0),
        ((0, 1), "resume", ["reuse", "reuse", "run"], 1),
        ((0, 1, 2), "resume", ["reuse", "reuse", "reuse"], 2),
        ((1, 2), "build", ["run", "run", "run"], None),
        ((0, 2), "resume", ["reuse", "run", "run"], 0),
    ],
)
def test_a_stage_resumes_after_the_last_of_an_unbroken_run_of_checkpoints(
    kept: tuple[int, ...], action: str, roles: list[str], resume_from: int | None
) -> None:
    lineage = chain(BASE, DRIVERS, THREE)
    keys = [key for _, key in lineage[-1].roles]
    found = plan(lineage, checkpoints={keys[index] for index in kept})
    step = found.steps[-1]
    assert actions(found) == ["reuse", "reuse", action]
    assert [each.action for each in step.roles] == roles
    assert [each.key for each in step.roles] == keys
    assert step.resume_from == (None if resume_from is None else keys[resume_from])
    assert step.verify


def test_a_stage_resumes_at_its_first_changed_role() -> None:
    before = chain(BASE, DRIVERS, THREE)
    after = chain(BASE, DRIVERS, replaced(THREE, 2, variables={"two_size": 2}))
    checkpoints = {key for inputs in before for _, key in inputs.roles}
    found = plan(after, built=before, checkpoints=checkpoints)
    assert [each.action for each in found.steps[-1].roles] == ["reuse", "run", "run"]
    assert explain(found.steps[-1]) == "resume  after one: variable two_size 2 added"


MOVED = Reason("upstream", "openssl", "3.5.4-1", "3.5.5-1")


def test_what_moved_upstream_is_built_and_so_is_what_stands_on_it() -> None:
    checkpoints = {key for inputs in BUILT for key in inputs.keys}
    found = plan(BUILT, moved={"drivers": (MOVED,)}, checkpoints=checkpoints)
    assert actions(found) == ["reuse", "build", "build"]
    assert reasons(found, "drivers") == [("upstream", "openssl", "3.5.4-1", "3.5.5-1")]
    assert [kind for kind, *_ in reasons(found, "final")] == ["parent"]
    drivers, final = found.steps[1:]
    assert {role.action for role in drivers.roles} == {"run"}, "checkpoints stand on old packages"
    assert (drivers.again, drivers.moved) == (True, True)
    assert (final.again, final.moved) == (False, False)
    assert explain(drivers) == "build   upstream has openssl 3.5.5-1 (it was 3.5.4-1)"
    assert found.has_work


def test_a_role_is_told_in_one_line_what_moved() -> None:
    other = Reason("upstream", "zstd", "1", "2")
    step = plan(BUILT, moved={"drivers": (MOVED, other)}).steps[1]
    assert step.reasons == (MOVED, other)
    for role in step.roles:
        assert list(map(str, role.reasons)) == ["upstream has newer: openssl and 1 more"]


def test_what_moved_upstream_does_not_hide_a_difference() -> None:
    final = replaced(FINAL, 1, variables={"tuning_hugepages": 8})
    found = plan(chain(BASE, DRIVERS, final), moved={"final": (MOVED,)}, force={"final"})
    kinds = [kind for kind, *_ in reasons(found, "final")]
    assert kinds == ["variable", "upstream", "forced"]


def test_forced_is_again_but_did_not_move() -> None:
    (step, *_) = plan(BUILT, force={"base"}).steps
    assert (step.again, step.moved) == (True, False)


@pytest.mark.parametrize("force", [{"drivers"}, {"final"}])
def test_nothing_resumes_below_a_parent_built_anew_or_when_forced(force: set[str]) -> None:
    checkpoints = {key for inputs in BUILT for _, key in inputs.roles}
    found = plan(BUILT, force=force, checkpoints=checkpoints)
    assert "resume" not in actions(found)


# --- every kind of reason -------------------------------------------------------------------------

SETTINGS: dict[str, Any] = SOURCE["settings"]  # type: ignore[assignment]
PACKAGES: list[str] = SETTINGS["packages"]
SSH_TASKS = "ansible/roles/ssh/tasks/main.yml"


def source(**settings: Any) -> list[Any]:
    return replaced(BASE, 0, settings={**SETTINGS, **settings})


@pytest.mark.parametrize(
    ("base", "reason", "sentence"),
    [
        (source(suite="bookworm"),
         ("source", "suite", "trixie", "bookworm"), "source suite trixie → bookworm"),
        (source(packages=["python3=2", "openssh-server"]),
         ("source", "packages", "python3=1", "python3=2"),
         "source packages python3=1 → python3=2"),
        (source(packages=["python3=1"]),
         ("source", "packages", "openssh-server", None), "source packages openssh-server removed"),
        (source(packages=PACKAGES[::-1]),
         ("source", "packages", PACKAGES, PACKAGES[::-1]),
         'source packages ["python3=1", "openssh-server"] → ["openssh-server", "python3=1"]'),
        (replaced(BASE, 0, source="iso"),
         ("source", "kind", "bootstrap", "iso"), "source kind bootstrap → iso"),
        (replaced(BASE, 0, disk=9 << 30),
         ("source", "disk", 8 << 30, 9 << 30), "source disk 8589934592 → 9663676416"),
        (replaced(BASE, 0, files={"stages/base/preseed.cfg": "file:aa"}),
         ("file", "stages/base/preseed.cfg", None, "file:aa"), "stages/base/preseed.cfg added"),
        (replaced(BASE, 0, program=2),
         ("tool", "source program", 1, 2), "source program 1 → 2"),
        (replaced(BASE, 1, template="uu"),
         ("template", "packer/stage.pkr.hcl.j2", "tt", "uu"),
         "template packer/stage.pkr.hcl.j2 changed"),
        (replaced(BASE, 1, engine="qemu"),
         ("engine", "engine", "nspawn", "qemu"), "engine nspawn → qemu"),
        (replaced(BASE, 1, tools={"packer": "1.14.2"}),
         ("tool", "packer", "1.6.6", "1.14.2"), "packer 1.6.6 → 1.14.2"),
        (replaced(BASE, 1, tools={"packer": "1.6.6", "community.general": "9.1.0"}),
         ("tool", "community.general", None, "9.1.0"), "community.general 9.1.0 added"),
        (replaced(BASE, 1, schema=2), ("tool", "key schema", 1, 2), "key schema 1 → 2"),
        (replaced(BASE, 1, files={"ansible/ansible.cfg": "file:aa"}),
         ("file", "ansible/ansible.cfg", None, "file:aa"), "ansible/ansible.cfg added"),
        (replaced(BASE, 2, files={}), ("file", SSH_TASKS, "file:aa", None), f"{SSH_TASKS} removed"),
        (replaced(BASE, 2, files={SSH_TASKS: "exec:aa"}),
         ("file", SSH_TASKS, "file:aa", "exec:aa"), f"{SSH_TASKS} is now executable"),
        (replaced(BASE, 2, variables={"ssh_port": 22}),
         ("variable", "ssh_port", None, 22), "variable ssh_port 22 added"),
        (replaced(BASE, 2, tools={"sealing": "2"}),
         ("tool", "sealing", None, "2"), "sealing 2 added"),
        ([*BASE, role("users")], ("role-added", "users", None, None), "role users added"),
        ([*BASE, role("ssh")], ("role-added", "ssh (2)", None, None), "role ssh (2) added"),
        (BASE[:2], ("role-removed", "ssh", None, None), "role ssh removed"),
    ],
)  # fmt: skip
def test_a_difference_is_named(base: list[Any], reason: tuple[Any, ...], sentence: str) -> None:
    lineage = chain(base, DRIVERS)
    found = plan(lineage)
    assert reasons(found, "base") == [reason]
    assert explain(found.steps[0]) == f"build   {sentence}"
    assert reasons(found, "drivers") == [("parent", "base", BUILT[0].key, lineage[0].key)]


def test_roles_in_another_order_are_named() -> None:
    drivers = [DRIVERS[0], DRIVERS[2], DRIVERS[1]]
    found = plan(chain(BASE, drivers))
    before, after = ["nvidia_driver", "cuda_runtime"], ["cuda_runtime", "nvidia_driver"]
    assert reasons(found, "drivers") == [("role-order", "drivers", before, after)]
    assert explain(found.steps[1]) == "build   roles in another order"


def test_a_variable_is_told_by_its_innermost_difference() -> None:
    one = {"net": {"core": 1, "same": [1, 2]}, "flag": True}
    two = {"net": {"core": 2, "same": [1, 2]}, "flag": 1}
    before = chain(BASE, [stage("final"), role("tuning", tuning_sysctl=one)])
    after = chain(BASE, [stage("final"), role("tuning", tuning_sysctl=two)])
    assert reasons(plan(after, built=before), "final") == [
        ("variable", "tuning_sysctl.flag", True, 1),
        ("variable", "tuning_sysctl.net.core", 1, 2),
    ]


def test_a_file_that_several_roles_need_is_told_once() -> None:
    def final(digest: str) -> list[Any]:
        files = {"ansible/roles/shared/tasks/main.yml": digest}
        return [stage("final"), role("one", files), role("two", files)]

    found = plan(chain(BASE, final("file:bb")), built=chain(BASE, final("file:aa")))
    (step,) = [each for each in found.steps if each.stage == "final"]
    assert [reason.role for reason in step.reasons] == ["one", "two"], "each has its reason"
    assert explain(step).count("tasks/main.yml changed") == 1
    assert "more" not in explain(step)


def test_documents_of_another_form_are_still_a_reason() -> None:
    found = plan(chain(replaced(BASE, 1, weather="fine")))
    assert reasons(found, "base") == [("tool", "form of the inputs", None, None)]


# --- how it is told -------------------------------------------------------------------------------


def test_one_line_names_the_first_reason_and_counts_the_others() -> None:
    final = replaced(FINAL, 1, variables={"tuning_hugepages": 8, "tuning_governor": "performance"})
    final = replaced(final, 2, files={"ansible/roles/sealing/tasks/main.yml": "file:bb"})
    step = plan(chain(BASE, DRIVERS, final)).steps[-1]
    assert explain(step) == "build   variable tuning_governor performance added and 2 more"


def test_another_engine_is_told_before_its_template() -> None:
    other = {**stage("final"), "engine": "other", "template": "of the other"}
    found = plan(
        chain(BASE, [other, role("one")]), built=chain(BASE, [stage("final"), role("one")])
    )
    assert [kind for kind, *_ in reasons(found, "final")][:2] == ["engine", "template"]


def test_one_line_for_each_action() -> None:
    unchanged = plan(BUILT).steps[0]
    assert explain(unchanged) == "reuse   unchanged"
    assert explain(unchanged, since="2026-11-20") == "reuse   unchanged since 2026-11-20"
    unchecked = plan(BUILT, verdicts=()).steps[0]
    assert explain(unchecked) == "reuse   unchanged; its checks changed, failed, or did not run yet"
    assert explain(plan(BUILT, built=()).steps[0]) == "build   never built before"
    gone, child = plan(BUILT, present=()).steps[:2]
    assert explain(gone) == "build   its image is gone from the store"
    assert explain(child) == "build   its image is gone from the store and 1 more"
    forced, child, _ = plan(BUILT, force={"base"}).steps
    assert explain(forced) == "build   asked for with --force"
    assert explain(child) == "build   parent base is built again"
    changed = plan(chain(replaced(BASE, 0, disk=1), DRIVERS)).steps[1]
    assert explain(changed) == "build   parent base changed"


def test_a_long_value_is_cut() -> None:
    final = replaced(FINAL, 1, variables={"tuning_hugepages": "many\nlines " * 20})
    line = explain(plan(chain(BASE, DRIVERS, final)).steps[-1])
    assert "\n" not in line
    assert line.endswith("…")
    assert len(line) < 90


def test_the_form_of_the_json() -> None:
    final = replaced(FINAL, 1, variables={"tuning_hugepages": 8})
    lineage = chain(BASE, final)
    document = plan(lineage, verdicts={lineage[0].key}).to_json()
    hugepages = {
        "kind": "variable", "what": "tuning_hugepages", "before": 0, "after": 8, "role": "tuning",
    }  # fmt: skip
    parent = {
        "kind": "parent", "what": "base", "before": BUILT[1].key, "after": lineage[0].key,
    }  # fmt: skip
    assert document == {
        "schema": 1,
        "variant": VARIANT,
        "steps": [
            {
                "stage": "base",
                "action": "reuse",
                "key": lineage[0].key,
                "reasons": [],
                "roles": [{"role": "ssh", "action": "reuse"}],
                "verify": False,
            },
            {
                "stage": "final",
                "action": "build",
                "key": lineage[1].key,
                "reasons": [
                    hugepages,
                    parent,
                ],
                "roles": [
                    {"role": "tuning", "action": "run", "reasons": [hugepages]},
                    {"role": "sealing", "action": "run", "reasons": [parent]},
                ],
                "verify": True,
            },
        ],
    }
