"""Which value of a variable wins, which role is given it, and whether the role can take it."""
# ruff: noqa: E501 - a row of a table stays on one line

from pathlib import Path

import pytest

from builder.pipeline import load_pipeline

STAGE = "parent: base\nroles: [driver]\n"
SPECS = """\
argument_specs:
  main:
    options:
      driver_version: {type: str, required: true}
      driver_flavour: {type: str, choices: [open, proprietary]}
      driver_retries: {type: int}
      driver_factor: {type: float}
      driver_hold: {type: bool}
      driver_packages: {type: list, elements: str}
      driver_settings: {type: dict, options: {depth: {type: int, required: true}, name: {}}}
      driver_lock: {type: path}
      driver_free: {type: raw}
"""


@pytest.fixture
def with_driver(project):
    """A project whose last stage has a role with an option of each type."""
    project(
        {
            "stages/final/stage.yml": STAGE,
            "ansible/roles/driver/meta/argument_specs.yml": SPECS,
            "ansible/roles/driver/defaults/main.yml": "driver_version: '1'",
        }
    )
    return project


def given(root, stage="final"):
    return load_pipeline(root).stage(stage).roles[0].variables


# --- what a role is given -------------------------------------------------------------------------


@pytest.mark.parametrize("layers", range(6))
def test_the_nearest_variable_wins(with_driver, layers):
    """Pipeline < variant < stage < the variant's stage < the role's own entry."""
    a, b, c, d, e = (f"{{driver_version: v{n}}}" if n < layers else "{}" for n in range(5))
    with_driver({"stages/pipeline.yml": ("variants:", f"variables: {a}\nvariants:")})
    variant = f"    variables: {b}\n    stages: {{final: {{variables: {d}}}}}\n  two:"
    stage = f"parent: base\nvariables: {c}\nroles: [{{role: driver, variables: {e}}}]"
    root = with_driver(
        {"stages/pipeline.yml": ("  two:", variant), "stages/final/stage.yml": stage}
    )
    assert given(root) == ({"driver_version": f"v{layers - 1}"} if layers else {})


def test_a_role_is_given_what_it_declares_and_no_more(with_driver):
    variables = "variables: {driver_version: a, greeting_text: b}\nvariants:"
    root = with_driver({"stages/pipeline.yml": ("variants:", variables)})
    assert given(root, "base") == {"greeting_text": "b"}
    assert given(root, "final") == {"driver_version": "a"}


def test_a_role_is_given_what_its_dependencies_declare(with_driver):
    root = with_driver(
        {
            "ansible/roles/driver/meta/main.yml": "dependencies: [greeting]",
            "stages/final/stage.yml": f"{STAGE}variables: {{greeting_text: bye}}\n",
        }
    )
    assert given(root) == {"greeting_text": "bye"}


def test_a_path_is_a_file_of_the_stage(with_driver):
    root = with_driver(
        {
            "stages/final/stage.yml": f"{STAGE}variables: {{driver_lock: locks/./a.lock}}\n",
            "stages/final/locks/a.lock": "",
        }
    )
    assert given(root) == {}
    use = load_pipeline(root).stage("final").roles[0]
    assert use.paths == {"driver_lock": Path("stages/final/locks/a.lock")}


def test_values_keep_their_types(with_driver):
    variables = "{driver_free: {a: [1, 2.5, true, null, 2026-11-20, 'x']}, driver_factor: 3}"
    root = with_driver({"stages/final/stage.yml": f"{STAGE}variables: {variables}\n"})
    free = {"a": [1, 2.5, True, None, "2026-11-20", "x"]}
    assert given(root) == {"driver_factor": 3, "driver_free": free}


def test_yaml_anchors_can_be_used(with_driver):
    variables = "{driver_free: {a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}}}"
    root = with_driver({"stages/final/stage.yml": f"{STAGE}variables: {variables}\n"})
    assert given(root)["driver_free"]["b"] == {"x": 1, "y": 3}


# --- what it cannot take --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ("driver_version: 550.1", "driver_version: must be text, not 550.1 (put it in quotes)"),
        ("driver_version: null", "driver_version: must be text, not nothing"),
        ("driver_flavour: closed", 'driver_flavour: must be one of open, proprietary, not "closed"'),
        ("driver_retries: '3'", 'driver_retries: must be a whole number, not "3" (write it without quotes)'),
        ("driver_retries: true", "driver_retries: must be a whole number, not true"),
        ("driver_retries: 1.5", "driver_retries: must be a whole number, not 1.5"),
        ("driver_factor: x", 'driver_factor: must be a number, not "x" (write it without quotes)'),
        ("driver_hold: 1", "driver_hold: must be true or false, not 1"),
        ("driver_packages: a", 'driver_packages: must be a list, not "a"'),
        ("driver_packages: [a, 2]", "driver_packages.1: must be text, not 2 (put it in quotes)"),
        ("driver_settings: []", "driver_settings: must be a mapping, not a list"),
        ("driver_settings: {}", "driver_settings.depth: is missing"),
        ("driver_settings: {depth: a}", 'driver_settings.depth: must be a whole number, not "a" (write it without quotes)'),
        ("driver_settings: {depth: 1, nam: x}", 'driver_settings.nam: is not a key that is known here (did you mean "name"?)'),
        ("driver_lock: a.lock", "driver_lock: there is no file stages/final/a.lock (role driver reads a file of its stage's folder)"),
        ("driver_lock: ../a", 'driver_lock: "../a" is not inside stages/final (role driver reads a file of its stage\'s folder)'),
        ("driver_lock: /etc/x", 'driver_lock: "/etc/x" is not inside stages/final (role driver reads a file of its stage\'s folder)'),
        ("driver_verison: '1'", 'driver_verison: no role here declares this variable (did you mean "driver_version"?)'),
        ("greeting_text: x", "greeting_text: no role here declares this variable (role greeting declares it: set it in stages/base/stage.yml)"),
    ],
)  # fmt: skip
def test_a_variable_that_the_role_cannot_take(with_driver, variables, problem, problems):
    root = with_driver({"stages/final/stage.yml": f"{STAGE}variables:\n  {variables}\n"})
    assert problems(root) == [f"stages/final/stage.yml:4: variables.{problem}"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("variants:", "variables: {driver_x: 1}\nvariants:", "6: variables.driver_x"),
        ("  two:", "    variables: {driver_x: 1}\n  two:", "10: variants.one.variables.driver_x"),
        ("  two:", "    stages: {final: {variables: {driver_x: 1}}}\n  two:", "10: variants.one.stages.final.variables.driver_x"),
        ("  two:", "    stages: {final: {roles: [{role: driver, variables: {driver_x: 1}}]}}\n  two:", "10: variants.one.stages.final.roles.0.variables.driver_x"),
    ],
)  # fmt: skip
def test_a_variable_that_no_role_declares(with_driver, old, new, key, problems):
    (problem,) = problems(with_driver({"stages/pipeline.yml": (old, new)}))
    expected = f"stages/pipeline.yml:{key}: no role here declares this variable"
    assert problem.startswith(expected)


def test_a_variable_of_a_role_that_only_one_variant_uses(with_driver):
    """The stage is the same for both variants, so it may set it."""
    override = "    stages: {final: {roles: [greeting]}}\n  two:"
    root = with_driver(
        {
            "stages/pipeline.yml": ("  two:", override),
            "stages/final/stage.yml": f"{STAGE}variables: {{greeting_text: x}}",
        }
    )
    assert given(root) == {"greeting_text": "x"}


def test_a_required_variable_that_nobody_sets(with_driver, problems):
    assert problems(with_driver({"ansible/roles/driver/defaults/main.yml": None})) == [
        (
            "stages/final/stage.yml:2: roles.0: role driver requires driver_version"
            " (set it in the stage's variables, or in the variant's)"
        )
    ]


def test_a_required_variable_of_a_dependency(with_driver, problems):
    root = with_driver(
        {
            "ansible/roles/driver/defaults/main.yml": None,
            "ansible/roles/greeting/meta/main.yml": "dependencies: [driver]",
            "stages/final/stage.yml": f"{STAGE}variables: {{driver_version: '1'}}",
        }
    )
    assert [line.split(" (")[0] for line in problems(root)] == [
        "stages/base/stage.yml:1: roles.0: role driver requires driver_version"
    ]
