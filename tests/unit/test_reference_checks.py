"""Every check of the reference pipeline was seen passing, and failing: a new one needs a case.

The cases are in the tables of test_reference_checks_*.py, one for each file of checks.
"""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("stages", "ansible/roles")
    for path in ROOT.glob(f"{folder}/*/checks/test_*.py")
)


# Checks log in as root.
NOT_VARIED = {"ssh_baseline_permit_root_login"}
# The tables by the file of checks that they are about.
TABLES = {
    table.CHECKS: table
    for path in sorted(HERE.glob("test_reference_checks_*"))
    for table in [SimpleNamespace(**runpy.run_path(str(path)))]
}
SOUND = [(checks, case) for checks, table in TABLES.items() for case in table.SOUND]
BROKEN = [(checks, case) for checks, table in TABLES.items() for case in table.BROKEN]


@pytest.fixture
def table(checks):
    assert checks in TABLES, f"write {HERE.name}/test_reference_checks_*.py for {checks}"
    return TABLES[checks]


@pytest.fixture
def judged(judge, table):
    return judge(table)


def test_every_table_is_about_a_file_of_checks():
    assert sorted(TABLES) == FILES


@pytest.mark.parametrize(("checks", "case"), SOUND)
def test_checks_pass_on_a_sound_machine(judged, table, case):
    _, *skipped = table.SOUND[case]
    assert judged.failed(case) == set()
    assert judged.having(case, "skipped") == set(skipped)


@pytest.mark.parametrize(("checks", "case"), BROKEN)
def test_checks_fail_on_a_broken_machine(judged, table, case):
    _, *failing = table.BROKEN[case]
    assert judged.failed(case) == set(failing)
    assert judged.confused(case) == set()


@pytest.mark.parametrize("checks", FILES)
def test_every_check_has_a_sound_and_a_broken_case(judged, table, checks):
    written = functions(ROOT / checks)
    passed = set().union(*(judged.having(case, "passed") for case in table.SOUND))
    failed = set().union(
        *(judged.having(case, "AssertionError", "Failed") for case in table.BROKEN)
    )
    everything = set().union(*judged.found.values())
    assert written - {name.partition("[")[0] for name in everything} == set()
    assert everything - passed == set(), "no case in SOUND lets these pass"
    assert everything - failed == set(), "no case in BROKEN lets these fail"


@pytest.mark.parametrize("checks", FILES)
def test_every_assertion_was_seen_failing(judged, checks):
    failed = {one["line"] for said in judged.found.values() for one in said.values()}
    lines = (ROOT / checks).read_text().splitlines()
    unseen = sorted(asserted(ROOT / checks) - failed)
    assert [f"{number}: {lines[number - 1].strip()}" for number in unseen] == []


@pytest.mark.parametrize("checks", FILES)
def test_a_question_without_an_answer_fails_a_check(judged, checks):
    unanswered = [case for case in judged.found if " cannot tell " in case]
    assert unanswered
    assert [case for case in unanswered if not judged.failed(case)] == []


@pytest.mark.parametrize("checks", FILES)
def test_a_program_that_fails_passes_no_check_that_asks_it(judged, table, checks):
    programs = [name for name in table.answer() if name.endswith(".py")]
    stopped = [judged.having(f"{name} fails", "Failed") for name in programs]
    assert set().union(*stopped) == set().union(*judged.found.values())


@pytest.mark.parametrize("checks", FILES)
def test_sound_answers_have_the_form_of_the_programs(table, checks):
    for name, answer in table.answer().items():
        if name.endswith(".py"):
            assert answer.keys() == questions((ROOT / checks).with_name(name))


@pytest.mark.parametrize(
    ("checks", "role"),
    [
        ("ansible/roles/cis_baseline/checks/test_cis_baseline.py", "cis_baseline"),
        ("stages/base/checks/test_base.py", "base_system"),
        ("stages/base/checks/test_base.py", "ssh_baseline"),
        ("stages/final/checks/test_host.py", "tuning"),
    ],
)
def test_each_option_of_a_role_may_have_another_value(table, role):
    """What the checks forbid is no option: with another value, an image is sound as well."""
    folder = ROOT / "ansible/roles" / role
    specified = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]
    defaults = yaml.safe_load((folder / "defaults/main.yml").read_text())
    scalars = {
        name
        for name, option in specified["main"]["options"].items()
        if option["type"] in {"bool", "int", "str"}
    }
    varied = {
        name
        for changes, *_ in table.SOUND.values()
        for name, value in given(changes).items()
        if value != defaults.get(name)
    }
    assert scalars - varied - NOT_VARIED == set()


def given(changes: dict) -> dict:
    """The variables that are others in a case."""
    change = changes.get("expected", {})
    return change if isinstance(change, dict) else change[1]


@pytest.mark.parametrize(
    ("program", "question"),
    [
        ("stages/base/checks/machine.py", "audit"),
        ("stages/base/checks/machine.py", "broken"),
        ("stages/base/checks/machine.py", "failed"),
        ("stages/final/checks/leftovers.py", "held"),
        ("stages/final/checks/leftovers.py", "residues"),
    ],
)
def test_a_program_that_fails_in_silence_is_no_good_answer(
    tmp_path, monkeypatch, program, question
):
    for name in ("apt-get", "dpkg", "dpkg-query", "systemctl"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = asked(ROOT / program, question)
    assert "it failed" in said or str(said).startswith("error: ")


def asked(program: Path, question: str) -> str:
    """What a program answers to one of its questions, here and not in a guest."""
    tree = ast.parse(program.read_text())
    tree.body.pop()  # It asks everything, and prints that.
    names: dict = {}
    exec(compile(tree, str(program), "exec"), names)  # noqa: S102 - ours, without its last line
    return names["answer"](names["ASKED"][question])


def functions(checks: Path) -> set[str]:
    """The checks in a file."""
    nodes = ast.walk(ast.parse(checks.read_text()))
    names = (node.name for node in nodes if isinstance(node, ast.FunctionDef))
    return {name for name in names if name.startswith("test_")}


def asserted(checks: Path) -> set[int]:
    """The lines of a file of checks that can fail: its assertions, and calls of ``fail``."""
    return {
        node.lineno
        for node in ast.walk(ast.parse(checks.read_text()))
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.fail")
    }


def questions(program: Path) -> set[str]:
    """What a program answers: the keys of ``ASKED``, or of what it ``said``."""
    return {
        key.value
        for node in ast.parse(program.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {"ASKED", "said"}
        for key in node.value.keys
    }
