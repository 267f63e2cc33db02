"""docs/image-checks.md is true: each check that it names is there, and each broken machine."""

import ast
import re
import runpy

import pytest

PAGE = "docs/image-checks.md"
# Checks without a GPU of a GPU image, numbered as on the page.
NUMBERS = [str(number) for number in range(1, 46)]
# The columns of a row about a point of a golden image: number, point, who asks.
POINT = 3
POINTS = [str(number) for number in range(1, 28)]
MISSING = "not there yet: "


@pytest.fixture(scope="module")
def rows(root) -> list[list[str]]:
    """The cells of each row: number, id, what it catches, who asks, where it was seen failing."""
    lines = (root / PAGE).read_text().splitlines()
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [row for row in cells if row[0].isdigit() and len(row) > POINT]


@pytest.fixture(scope="module")
def tests(files, root) -> set[str]:
    """The names of all checks and of all tests."""
    paths = [path for path in files if path.name.startswith("test_") and path.suffix == ".py"]
    nodes = (node for path in paths for node in ast.walk(ast.parse((root / path).read_text())))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


@pytest.fixture(scope="module")
def cases(root) -> set[str]:
    """The names of the broken machines in the tables of the unit tests."""
    tables = sorted((root / "tests/unit").glob("test_reference_checks_*.py"))
    found = {name for table in tables for name in runpy.run_path(str(table))["BROKEN"]}
    rules = runpy.run_path(str(root / "tests/unit/test_compat_rules.py"))["CASES"]
    # What is asked of each use of a role has a case for each: "python_frameworks: no pip".
    return found | {name.partition(": ")[2] for name in found} | set(rules)


@pytest.fixture(scope="module")
def texts(root) -> str:
    """What the driver's modules say."""
    return "\n".join(path.read_text() for path in sorted((root / "builder").rglob("*.py")))


def test_every_number_has_a_row(rows):
    assert [row[0] for row in rows] == NUMBERS
    assert [row for row in rows if len(row) != 5 or not row[1] or not row[2]] == []


def test_what_asks_exists(rows, tests, texts):
    wrong = [
        f"{number} {name}: {word}"
        for number, name, _, asked, _ in rows
        for word in _code(asked)
        if word not in tests and f'"{word}' not in texts
    ]
    assert wrong == []


def test_what_is_not_there_says_why_and_the_rest_is(rows):
    wrong = [
        f"{number} {name}"
        for number, name, _, asked, seen in rows
        if not (asked.startswith(MISSING) and not seen) and not (_code(asked) and _cases(seen))
    ]
    assert wrong == []


def test_broken_machines_exist(rows, tests, cases):
    wrong = [
        f"{number} {name}: {case}"
        for number, name, _, _, seen in rows
        for case in _cases(seen)
        if case not in tests | cases
    ]
    assert wrong == []


def test_every_point_says_who_asks(root, tests, texts):
    lines = (root / PAGE).read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    points = [row for row in cells if row[0].isdigit() and len(row) == POINT]
    assert [row[0] for row in points] == POINTS
    wrong = [
        f"{number} {point}: {word}"
        for number, point, asked in points
        for word in _code(asked)
        if word not in tests and f'"{word}' not in texts
    ]
    assert wrong == []
    assert [row for row in points if not row[2]] == []


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _cases(cell: str) -> list[str]:
    return [*_code(cell), *re.findall(r'"([^"]+)"', cell)]
