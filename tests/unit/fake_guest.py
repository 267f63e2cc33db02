"""The conftest.py of a run of checks whose guest is a table: each case is what one answers.

Copied beside the checks by the ``judge`` fixture of this folder's conftest.py, and loaded by a
pytest of their own, as in a verification. Every check is asked in every case.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder.checks import is_asked

WORK = Path(os.environ["VAULTBUILD_CHECK_CONTEXT"]).parent
CASES = json.loads((WORK / "cases.json").read_text())
PROGRAMS = {path.read_text(): path.name for path in Path(__file__).parent.glob("*.py")}
found = {name: {} for name in CASES}


class Guest:
    """What the checks use of testinfra's host: programs that are sent there, and their answers."""

    def __init__(self, answers):
        self.answers = answers

    def run(self, _command, *arguments):
        program = next(PROGRAMS[text] for text in arguments if text in PROGRAMS)
        if (answer := self.answers[program]) is None:
            return SimpleNamespace(rc=1, stdout="", stderr="Traceback (most recent call last):")
        return SimpleNamespace(rc=0, stdout=json.dumps(answer), stderr="")


@pytest.fixture(scope="session", autouse=True, params=CASES, ids=[f"<{n}>" for n in CASES])
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="session")
def host(case):
    return Guest(case)


@pytest.fixture(scope="session")
def context(case):
    told = {"variables": case["expected"]}
    return told | {name: case.get(name, {}) for name in ("uses", "gpus", "driver_cuda")}


def pytest_runtest_setup(item):
    """Skip, in a case without its role, a check that is dropped where the role is not used."""
    case, check = _names(item)
    if not is_asked(item, {"uses": CASES[case].get("uses", {})}):
        pytest.skip(f"{check} is not asked")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    case, check = _names(item)
    if call.excinfo and not report.skipped:
        # The line that asserted, in the file of the checks and not in what it called.
        lines = [entry.lineno + 1 for entry in call.excinfo.traceback if entry.path == item.path]
        found[case][check] = {"outcome": call.excinfo.typename, "line": lines[-1] if lines else 0}
    elif report.skipped or call.when == "call":
        found[case][check] = {"outcome": report.outcome, "line": 0}
    return report


def _names(item):
    case = item.callspec.params["case"]
    name = item.name
    for form, kept in ((f"[<{case}>]", ""), (f"[<{case}>-", "["), (f"-<{case}>]", "]")):
        name = name.replace(form, kept)
    return case, name


def pytest_sessionfinish():
    (WORK / "found.json").write_text(json.dumps(found))
