"""The pytest plugin that runs inside a verification: it hands checks what they expect.

Loaded with ``-p builder.checks`` into a pytest process of its own (testinfra keeps connections by
address, so two guests on one port must not share a process). A check asks for ``host``, which is
testinfra's, and ``expected``, the variables that were in force when the image was built. What each
check said is written to the file that ``VAULTBUILD_CHECK_RESULTS`` names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_MESSAGE = 4000
_outcomes: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="session")
def context() -> Mapping[str, Any]:
    """What is being checked: variant, stage, engine, variables."""
    found: dict[str, Any] = json.loads(Path(os.environ["VAULTBUILD_CHECK_CONTEXT"]).read_text())
    return found


@pytest.fixture(scope="session")
def expected(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """The variables that were in force when the image was built."""
    variables: Mapping[str, Any] = context["variables"]
    return variables


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hold every check for failed until it has said otherwise: a run may end before its end."""
    _outcomes.update(
        {item.nodeid: _failed("E   it did not run to its end") for item in session.items}
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember the outcome; an error before or after a check counts as its failure."""
    entry = _outcomes[report.nodeid]
    entry["seconds"] = round(entry["seconds"] + report.duration, 3)
    if report.failed:
        entry.update(outcome="failed", message=report.longreprtext)
    elif report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        entry.update(outcome="skipped", message=str(reason))
    elif report.when == "call":
        entry.update(outcome="passed", message="")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file of checks that cannot be read is a failure, not an absence."""
    if report.failed:
        _outcomes[report.nodeid or "collection"] = _failed(report.longreprtext)


def _failed(message: str) -> dict[str, Any]:
    return {"outcome": "failed", "seconds": 0.0, "message": message}


def pytest_sessionfinish() -> None:
    """Write the outcomes down."""
    for entry in _outcomes.values():
        entry["message"] = entry["message"][-_LONGEST_MESSAGE:]
    Path(os.environ["VAULTBUILD_CHECK_RESULTS"]).write_text(json.dumps(_outcomes, indent=2))
