"""The pytest plugin that runs inside a verification: it hands checks what they expect.

Loaded with ``-p builder.checks`` into a pytest process of its own (testinfra keeps connections by
address, so two guests on one port must not share a process). A check asks for ``host``, which is
testinfra's, and ``expected``, the variables that were in force when the image was built; or, where
a stage uses a role several times, for ``use``, the variables of one use, and is asked once for
each::

    @pytest.mark.each_use("python_frameworks")
    def test_environment_is_there(host, use):
        assert host.file(use["python_frameworks_venv"]).is_directory

A check with the mark ``anywhere`` asks nothing that a boot could change: of a release whose VM is
emulated, it is asked in a container.

A check that is about what a role does says so with ``if_used("tuning")``: it is asked where the
image was built with that role.

What each check said is written to the file that ``VAULTBUILD_CHECK_RESULTS`` names.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from builder.role_names import role_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LONGEST_MESSAGE = 4000
_NOTHING = "nothing_to_ask"
_outcomes: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="session")
def context() -> Mapping[str, Any]:
    """What is being checked: variant, stage, engine, variables, uses of roles, GPUs, the driver."""
    return _told()


@pytest.fixture(scope="session")
def expected(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """The variables that were in force when the image was built."""
    variables: Mapping[str, Any] = context["variables"]
    return variables


@pytest.fixture(scope="session")
def uses(context: Mapping[str, Any]) -> Callable[[str], tuple[Mapping[str, Any], ...]]:
    """Call it with a role: the variables that were in force in each use of it, in their order."""
    return lambda role: tuple(_uses(context, role).values())


@pytest.fixture(scope="session")
def gpus(context: Mapping[str, Any]) -> Mapping[str, int]:
    """The GPUs that the image is for, with what compilers call their architectures: 89 for 8.9.

    One that nobody knows would be left out of what is asked.
    """
    known: Mapping[str, str | None] = context["gpus"]
    if unknown := [name for name, capability in known.items() if capability is None]:
        names = ", ".join(unknown)
        pytest.fail(f"stages/compatibility.yml has no row for {names}", pytrace=False)
    return {name: int(str(capability).replace(".", "")) for name, capability in known.items()}


@pytest.fixture(scope="session")
def driver_cuda(context: Mapping[str, Any]) -> int:
    """The newest CUDA that the driver's library speaks, as libraries write it: 12040 for 12.4."""
    known: Mapping[str, str | None] = context["driver_cuda"]
    for branch, cuda in known.items():
        if cuda is None:
            message = f"stages/compatibility.yml says no cuda of driver branch {branch}"
            pytest.fail(message, pytrace=False)
        major, minor = map(int, cuda.split("."))
        return 1000 * major + 10 * minor
    pytest.fail("stages/compatibility.yml is missing, or names no driver", pytrace=False)


@pytest.fixture(scope="module")
def use(context: Mapping[str, Any], request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """The variables of the one use that a check with the mark ``each_use`` is asked about."""
    variables: Mapping[str, Any] = context["uses"][request.param]
    return variables


@pytest.fixture(scope="module")
def container(machine: Mapping[str, Any]) -> bool:
    """Whether the kernel is that of somebody else, as the checks' own ``machine`` tells it.

    Not knowing it would skip a check.
    """
    said = str(machine["container"])
    if not re.fullmatch("[a-z-]+", said):
        pytest.fail(f"it does not say whether it is a container, but: {said}", pytrace=False)
    return said != "none"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known."""
    for mark in (
        "each_use(role, where=None): ask for each use of a role",
        "anywhere: a boot changes nothing of it, so a container does",
        "if_used(*roles, where=None): ask where one of these roles is in use",
        f"{_NOTHING}: internal",
    ):
        config.addinivalue_line("markers", mark)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask a check with the mark ``each_use`` once for each use; ``where`` chooses among them."""
    for mark in metafunc.definition.iter_markers("each_use"):
        where = mark.kwargs.get("where", _any)
        found = [name for name, use in _uses(_told(), *mark.args).items() if where(use)]
        nothing = [pytest.param("", marks=getattr(pytest.mark, _NOTHING))]
        metafunc.parametrize("use", found or nothing, indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop checks that have nothing to ask in this variant: nobody reads what is always skipped."""
    context = _told()
    dropped = [
        item for item in items if item.get_closest_marker(_NOTHING) or not is_asked(item, context)
    ]
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=dropped)


def is_asked(item: pytest.Item, context: Mapping[str, Any]) -> bool:
    """Tell whether each mark ``if_used`` of a check finds a use of one of its roles."""
    return all(_is_used(mark, context) for mark in item.iter_markers("if_used"))


def _is_used(mark: pytest.Mark, context: Mapping[str, Any]) -> bool:
    where = mark.kwargs.get("where", _any)
    uses = (use for role in mark.args for use in _uses(context, role).values())
    return any(map(where, uses))


def _any(_: Mapping[str, Any]) -> bool:
    return True


def _told() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(Path(os.environ["VAULTBUILD_CHECK_CONTEXT"]).read_text())
    return told


def _uses(context: Mapping[str, Any], role: str) -> dict[str, Mapping[str, Any]]:
    return {name: use for name, use in context["uses"].items() if role_of(name) == role}


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
