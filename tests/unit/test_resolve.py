"""What does not fit together in a project is told at once, and each mistake once."""
# ruff: noqa: E501 - a row of a table stays on one line

import pytest

from builder.errors import ProjectError
from builder.pipeline import load_pipeline


@pytest.fixture
def three_stages(project):
    """A project with a stage in the middle; call it with what is wrong with it."""
    project(
        {
            "stages/pipeline.yml": ("[base, final]", "[base, drivers, final]"),
            "stages/drivers/stage.yml": "parent: base\nroles: [driver]\n",
            "stages/final/stage.yml": ("parent: base", "parent: drivers"),
            "ansible/roles/driver/meta/argument_specs.yml": (
                "argument_specs: {main: {options: {driver_hold: {type: bool}}}}"
            ),
        }
    )
    return project


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("stages/pipeline.yml", ("variant: one", "variant: onne"), 'stages/pipeline.yml:4: variant: there is no variant "onne" (did you mean "one"?)'),
        ("stages/pipeline.yml", ("final]", "final, extra]"), "stages/pipeline.yml:5: stages.3: stage extra has no stages/extra/stage.yml"),
        ("stages/extra/stage.yml", "parent: base", "stages/extra/stage.yml: is not listed in stages/pipeline.yml (add extra to its stages, or remove the folder)"),
        ("stages/pipeline.yml", ("  two:", "    stages: {finl: {}}\n  two:"), 'stages/pipeline.yml:10: variants.one.stages.finl: there is no stage "finl" (did you mean "final"?)'),
        ("stages/final/stage.yml", "parent: driver\n", 'stages/final/stage.yml:1: parent: there is no stage "driver" (did you mean "drivers"?)'),
        ("stages/final/stage.yml", "roles: []\n", 'stages/final/stage.yml: has no parent, and neither has base (a pipeline has one root; write "parent: base")'),
        ("stages/base/stage.yml", "parent: final\n", "stages/base/stage.yml:1: parent: the parents form a cycle: base → final → drivers → base (one stage has no parent)"),
        ("stages/final/stage.yml", "parent: final\n", "stages/final/stage.yml:1: parent: the parents form a cycle: final → final (one stage has no parent)"),
        ("stages/final/stage.yml", "parent: base\ntemplate: x.pkr.hcl.j2\n", "stages/final/stage.yml:2: template: there is no template stages/final/x.pkr.hcl.j2"),
        ("stages/final/stage.yml", "parent: base\nroles:\n- driver\n- sealng\n", 'stages/final/stage.yml:4: roles.1: there is no role ansible/roles/sealng (did you mean "sealing"?)'),
        ("stages/final/stage.yml", "parent: base\nroles: [sealing, sealing]\n", "stages/final/stage.yml:2: roles.1: role sealing is listed twice (remove one of them, or name this use of it with \"as\")"),
        ("stages/pipeline.yml", ("  two:", "    stages: {final: {roles: [gone]}}\n  two:"), "stages/pipeline.yml:10: variants.one.stages.final.roles.0: there is no role ansible/roles/gone (known: driver, greeting, sealing)"),
        ("ansible/roles/sealing/meta/main.yml", "dependencies: [diver]", 'ansible/roles/sealing/meta/main.yml:1: dependencies.0: there is no role ansible/roles/diver (did you mean "driver"?)'),
        ("ansible/roles/sealing/meta/main.yml", "dependencies: [sealing]", "ansible/roles/sealing/meta/main.yml:1: dependencies: the dependencies form a cycle: sealing → sealing"),
    ],
)  # fmt: skip
def test_what_does_not_fit(three_stages, path, text, problem, problems):
    assert problems(three_stages({path: text})) == [problem]


def test_a_role_that_is_no_yaml(three_stages, problems):
    root = three_stages({"ansible/roles/driver/tasks/main.yml": "- name: One\n  command: [a\n- b"})
    (problem,) = problems(root)
    assert problem.startswith("ansible/roles/driver/tasks/main.yml:4: is not YAML: ")


def test_a_role_may_use_what_only_ansible_reads(three_stages):
    tasks = "- name: One\n  debug: {msg: !unsafe '{{ x }}', vault: !vault 'secret'}\n"
    load_pipeline(three_stages({"ansible/roles/driver/tasks/main.yml": tasks}))


def test_a_stage_without_its_file(three_stages, problems):
    assert problems(three_stages({"stages/final/stage.yml": None})) == [
        "stages/pipeline.yml:5: stages.2: stage final has no stages/final/stage.yml"
    ]


def test_a_project_without_the_template(three_stages, problems):
    found = problems(three_stages({"packer/stage.pkr.hcl.j2": None}))
    assert found[0] == (
        "stages/base/stage.yml: template: there is no template packer/stage.pkr.hcl.j2"
    )


def test_no_project_at_all(tmp_path):
    with pytest.raises(ProjectError, match=r"pipeline\.yml: is missing") as caught:
        load_pipeline(tmp_path)
    assert (
        caught.value.hint == f"{tmp_path} is no project; give the folder of one with --project DIR"
    )


def test_mistakes_of_all_kinds_are_told_at_once_each_once(three_stages, problems):
    """And nothing is told that only follows from another mistake."""
    root = three_stages(
        {
            "stages/pipeline.yml": ("variants:", "variables: {driver_x: 1}\nvariants:"),
            "stages/base/stage.yml": "roles: [greting]\nnetwork: shut\n",
            "stages/drivers/stage.yml": "parent: base\nroles: [driver]\nvariables: {driver_hold: 1, driver_y: 1}\n",
            "stages/final/stage.yml": "parent: divers\nroles: [sealng]\n",
        }
    )
    assert [" ".join(line.split()[:2]) for line in problems(root)] == [
        "stages/base/stage.yml:2: network:",
        "stages/drivers/stage.yml:3: variables.driver_hold:",
        "stages/drivers/stage.yml:3: variables.driver_y:",
        "stages/final/stage.yml:1: parent:",
        "stages/final/stage.yml:2: roles.0:",
    ]
