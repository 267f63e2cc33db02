"""Each role is run a second time by a test, or is named as one that is not."""

from __future__ import annotations

import ast
import re

import pytest
import yaml

ROLES = "ansible/roles"
PAGE = "ansible/README.md"
HEADING = "## The second run"
# Their stages are given all their roles again, and what changed is counted.
TRIMMED = "tests/e2e/project/stages"
# What these tests name runs again, with the roles that those depend on.
NAMED = (
    ("tests/e2e/test_gpu_roles.py", "USED"),
    ("tests/e2e/test_gpu_roles.py", "PLAIN"),
    ("tests/e2e/test_kernel_module.py", "AGAIN"),
    ("tests/e2e/test_second_run.py", "AGAIN"),
)


@pytest.fixture(scope="module")
def roles(root) -> set[str]:
    """The roles of the reference project."""
    return {path.parts[-3] for path in (root / ROLES).glob("*/meta/main.yml")}


@pytest.fixture(scope="module")
def run_again(root, roles) -> set[str]:
    """The roles that a test runs on what they made, and counts their changes."""
    again = {role for path, name in NAMED for role in _assigned(root / path, name)}
    named = (_stage_roles(root) | again) & roles
    return named | {other for role in named for other in _dependencies(root, role)}


@pytest.fixture(scope="module")
def listed(root) -> list[str]:
    """The roles that the page names as not tested."""
    section = (root / PAGE).read_text().partition(HEADING)[2].partition("\n## ")[0]
    return re.findall(r"^- `(\w+)`$", section, re.MULTILINE)


def test_a_role_is_run_twice_or_named(roles, run_again, listed):
    missing = sorted(roles - run_again - set(listed))
    assert not missing, f"no test runs them a second time, and {PAGE} does not say so: {missing}"


def test_what_is_named_is_a_role_that_no_test_runs_twice(roles, run_again, listed):
    assert listed == sorted(set(listed))
    assert set(listed) - roles == set(), "there is no such role"
    assert set(listed) & run_again == set(), f"a test runs these again: strike them out of {PAGE}"


def _stage_roles(root) -> set[str]:
    stages = (yaml.safe_load(path.read_text()) for path in (root / TRIMMED).glob("*/stage.yml"))
    uses = (use for stage in stages for use in stage["roles"])
    return {use if isinstance(use, str) else use["role"] for use in uses}


def _assigned(path, name) -> tuple[str, ...]:
    """The tuple that a test's module gives a name, read without running it."""
    tree = ast.parse(path.read_text())
    (found,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    ]
    return tuple(ast.literal_eval(found))


def _dependencies(root, role) -> set[str]:
    meta = yaml.safe_load((root / ROLES / role / "meta/main.yml").read_text())
    direct = {use if isinstance(use, str) else use["role"] for use in meta["dependencies"] or ()}
    return direct | {other for each in direct for other in _dependencies(root, each)}
