"""How long a plan will take, what is left of it, and what took longer than it used to."""

import pytest

from builder.estimate import (
    Countdown,
    Estimate,
    Expected,
    Slow,
    plan_document,
    planned_parts,
    slow_parts,
)
from builder.history import Part, Usual
from builder.plan import Plan, RoleStep, Step
from builder.reasons import Reason

KEY = "0123456789abcdef" * 4
WHY = (Reason("never-built", "base"),)


def step(stage: str, action: str, *roles: str, reused: int = 0, verify: bool = True) -> Step:
    actions = ["reuse"] * reused + ["run"] * (len(roles) - reused)
    done = tuple(RoleStep(r, a, KEY) for r, a in zip(roles, actions, strict=True))
    return Step(stage, action, KEY, WHY, done, verify)


PLAN = Plan(
    "debian-13",
    (
        step("base", "reuse", "ssh", reused=1, verify=False),
        step("drivers", "resume", "nvidia", "cuda", reused=1),
        step("final", "build", "seal"),
    ),
)


def part(stage: str, name: str) -> Part:
    return Part("debian-13", stage, "nspawn", name)


def names(parts) -> dict[str, list[str]]:
    return {stage: [each.part for each in found] for stage, found in parts.items()}


def estimate(known: dict[tuple[str, str], float]) -> Estimate:
    parts = planned_parts(PLAN, "nspawn", source=False, checked={"final"})
    return Estimate(parts, {part(*name): Usual(took, 3) for name, took in known.items()})


KNOWN = {
    ("drivers", "stage"): 20.0,
    ("drivers", "role:cuda"): 60.0,
    ("final", "stage"): 10.0,
    ("final", "role:seal"): 5.0,
    ("final", "checks"): 30.0,
}


# --- the parts of a plan --------------------------------------------------------------------------


def test_what_runs_has_parts():
    assert names(planned_parts(PLAN, "nspawn", source=False, checked={"final"})) == {
        "drivers": ["stage", "role:cuda"],
        "final": ["stage", "role:seal", "checks"],
    }


def test_the_root_disk_is_made_for_a_root_that_is_built():
    plan = Plan("v", (step("base", "build", "ssh"), step("final", "build", "seal")))
    made = planned_parts(plan, "qemu", source=True, checked=())
    assert made["base"][0] == Part("v", "source", "qemu", "source")
    assert names(made)["final"] == ["stage", "role:seal"]
    assert names(planned_parts(plan, "qemu", source=False, checked=()))["base"][0] == "stage"
    resumed = Plan("v", (step("base", "resume", "ssh", "more", reused=1),))
    assert names(planned_parts(resumed, "qemu", source=True, checked=()))["base"][0] == "stage"


def test_an_image_that_is_only_checked_has_one_part():
    plan = Plan("v", (step("base", "reuse", "ssh", reused=1),))
    assert names(planned_parts(plan, "qemu", source=True, checked={"base"})) == {"base": ["checks"]}


# --- how long -------------------------------------------------------------------------------------


def test_a_step_takes_what_its_parts_take():
    found = estimate(KNOWN)
    assert found.step("drivers") == Expected(80, whole=True)
    assert found.step("final") == Expected(45, whole=True)
    assert found.total() == Expected(125, whole=True)
    assert found.role("drivers", "cuda") == 60


def test_a_step_with_nothing_to_do_takes_no_time():
    assert estimate(KNOWN).step("base") == Expected(0, whole=True)
    assert Estimate().total() == Expected(0, whole=True)


def test_what_is_partly_known_is_a_lower_bound():
    found = estimate({("drivers", "stage"): 20.0})
    assert found.step("drivers") == Expected(20, whole=False)
    assert found.step("final") == Expected(None, whole=False)
    assert found.total() == Expected(20, whole=False)


def test_a_role_that_does_not_run_has_no_estimate():
    known = {**KNOWN, ("drivers", "role:nvidia"): 100.0}
    assert estimate(known).role("drivers", "nvidia") is None


def test_the_document_of_a_plan_has_estimates():
    del (known := dict(KNOWN))["final", "role:seal"]
    document = plan_document(PLAN, estimate(known))
    assert [each["estimate"] for each in document["steps"]] == [0, 80, 40]
    assert document["estimate"] == 120
    roles = [role for each in document["steps"] for role in each["roles"]]
    assert [(role["role"], role.get("estimate", "none")) for role in roles] == [
        ("ssh", "none"), ("nvidia", "none"), ("cuda", 60), ("seal", None),
    ]  # fmt: skip
    without = plan_document(PLAN, estimate({}))
    assert [each["estimate"] for each in without["steps"]] == [0, None, None]
    assert without["estimate"] is None


# --- what is left ---------------------------------------------------------------------------------


def test_time_passes_within_a_part_and_no_further():
    countdown = Countdown(estimate(KNOWN))
    assert countdown.total == 125
    countdown.begin("drivers", "role:cuda", 1000)
    assert countdown.left(1010) == 115
    assert countdown.left(1090) == 65, "a role that takes long takes nothing from what follows"


def test_a_part_that_ends_early_is_done():
    countdown = Countdown(estimate(KNOWN))
    countdown.begin("drivers", "role:cuda", 0)
    countdown.end("drivers", "role:cuda", 1)
    assert countdown.left(1) == countdown.left(100) == 65


def test_a_stage_keeps_what_it_spent_around_its_roles():
    countdown = Countdown(estimate(KNOWN))
    countdown.begin("drivers", "stage", 0)
    countdown.begin("drivers", "role:cuda", 5)
    assert countdown.left(5) == 120
    countdown.end("drivers", "role:cuda", 65)
    countdown.begin("drivers", "stage", 65)
    assert countdown.left(67) == 45 + 20 - 7
    countdown.end("drivers", "stage", 70)
    assert countdown.left(70) == 45


def test_a_stage_that_somebody_else_made_leaves_its_checks():
    countdown = Countdown(estimate(KNOWN))
    countdown.skip("final")
    assert countdown.left(0) == 80 + 30


def test_what_nobody_knows_does_not_count():
    countdown = Countdown(estimate({("final", "stage"): 10.0}))
    countdown.begin("drivers", "role:cuda", 0)
    countdown.end("drivers", "role:cuda", 500)
    countdown.end("drivers", "role:never-planned", 500)
    assert countdown.left(500) == countdown.total == 10


def test_a_role_that_runs_twice_is_left_once_after_the_first():
    plan = Plan("v", (step("base", "build", "a", "a"),))
    parts = planned_parts(plan, "e", source=False, checked=())
    twice = Countdown(Estimate(parts, {Part("v", "base", "e", "role:a"): Usual(10, 1)}))
    assert twice.total == 20
    twice.begin("base", "role:a", 0)
    assert twice.left(4) == 16
    twice.end("base", "role:a", 9)
    assert twice.left(9) == 10


# --- what took long -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("took", "usual", "runs", "slow"),
    [
        (100, 50, 3, True),
        (100, 50, 2, False),
        (75, 50, 3, False),
        (76, 50, 3, True),
        (30, 10, 3, False),
        (31, 10, 3, True),
        (50, 100, 5, False),
    ],
)
def test_slow_is_half_as_much_again_and_twenty_seconds(took, usual, runs, slow):
    cuda = part("drivers", "role:cuda")
    found = slow_parts({cuda: took}, {cuda: Usual(usual, runs)})
    assert found == ([Slow(cuda, took, usual)] if slow else [])


def test_the_greatest_loss_comes_first():
    one, two, new = part("a", "role:one"), part("a", "role:two"), part("a", "role:new")
    known = {one: Usual(10, 5), two: Usual(100, 5)}
    found = slow_parts({one: 60, two: 300, new: 999}, known)
    assert [each.part for each in found] == [two, one]
