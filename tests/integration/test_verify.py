"""Checks as pytest runs them: whatever way that ends, the verdict says no more than was seen.

There is no guest: ``ssh`` is a program of the test, and the checks look at nothing.
"""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder import process
from builder.digest import StatCache
from builder.engines import Endpoint
from builder.errors import CommandError
from builder.pipeline import Resources, Stage
from builder.release.clones import boot_clones
from builder.shell import open_shell
from builder.verify import ask, checks_of, copied, verify

pytestmark = pytest.mark.integration

RESOURCES = Resources(cpus=3, memory_mib=1234, disk_bytes=1 << 30)


@pytest.fixture
def checks(tmp_path, program):
    """Write the checks of a stage: texts by the name of their file."""
    program("ssh", "#!/bin/sh\nexit 0\n")
    root = tmp_path / "project"
    folder = root / "stages/base/checks"
    folder.mkdir(parents=True)

    def write(uses=None, variables=None, **texts: str):
        for name, text in texts.items():
            (folder / f"{name}.py").write_text(text)
        base = Stage("base", None, (), Path("t.j2"), "caches", RESOURCES, Path("stages/base"))
        cache = StatCache(root, tmp_path / "files.json")
        return checks_of((base,), cache, "one", variables or {"version": 1}, uses)

    return write


@pytest.fixture
def said(checks, tmp_path):
    """Run checks and return, by the name of each, its outcome and its message."""
    work = tmp_path / "work"
    work.mkdir()

    def run(text: str = "", uses=None, variables=None, **texts: str) -> dict[str, tuple[str, str]]:
        endpoint = Endpoint("127.0.0.1", 1, "root", tmp_path / "key")
        chosen = checks(uses, variables, test_it=text, **texts)
        with copied(chosen) as copy:
            results = ask(endpoint, copy, work=work, logs=tmp_path / "logs", engine="qemu")
        return {item.name: (item.outcome, item.message) for item in results}

    return run


# --- outcomes -------------------------------------------------------------------------------------

EACH_OUTCOME = """
import pytest

def test_passes(expected): assert expected == {"version": 1}
def test_fails(): assert 1 == 2
def test_skips(): pytest.skip("a container has none")

@pytest.fixture
def broken_before(): assert "before"[10:]
@pytest.fixture
def broken_after():
    yield
    assert "after"[10:]
@pytest.fixture
def absent(): pytest.skip("not here")

def test_before(broken_before): pass
def test_after(broken_after): pass
def test_absent(absent): pass
"""


def test_each_outcome(said):
    found = said(EACH_OUTCOME)
    assert {name.partition("::")[2]: outcome for name, (outcome, _) in found.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_before": "failed",
        "test_after": "failed",
        "test_absent": "skipped",
    }
    assert "assert 1 == 2" in found["base/test_it.py::test_fails"][1]


def test_a_file_that_cannot_be_read_is_a_failure_and_hides_no_other(said):
    found = said("def test_one(): pass", test_two="import nothing_of_this_name")
    assert found["base/test_it.py::test_one"][0] == "passed"
    assert [outcome for outcome, message in found.values() if "nothing_of" in message] == ["failed"]


def test_a_file_without_a_check_says_nothing(said):
    assert said("") == {}


def test_what_a_check_is_told(said):
    variables = {"version": 1}
    told = {"variant": "one", "stage": "base", "engine": "qemu", "variables": variables, "uses": {}}
    told |= {"gpus": {}, "driver_cuda": {}}
    text = f"def test_it(context, expected): assert (context, expected) == ({told}, {variables})"
    assert said(text)["base/test_it.py::test_it"] == ("passed", "")


def test_the_place_of_a_failure_is_named_as_in_the_project(said, tmp_path):
    (tmp_path / "project/conftest.py").write_text("raise RuntimeError('not a file of the checks')")
    _, message = said("def test_it():\n    assert 1 == 2\n")["base/test_it.py::test_it"]
    assert message.endswith("\nstages/base/checks/test_it.py:2: AssertionError")


# --- runs that were cut short ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    ["os._exit(0)", "os._exit(1)", "os.kill(os.getpid(), 9)", "pytest.exit('enough')"],
)
def test_a_run_that_was_cut_short_is_no_verdict(said, end):
    text = f"import os, pytest\ndef test_one(): pass\ndef test_two(): {end}\n"
    with pytest.raises(CommandError, match="pytest") as caught:
        said(text)
    assert caught.value.log.name == "checks.log"


def test_a_check_that_was_not_come_to_is_a_failure(said):
    text = (
        "import pytest\ndef test_one(): pytest.exit('enough', returncode=0)\ndef test_two(): pass"
    )
    found = said(text)
    assert {outcome for outcome, _ in found.values()} == {"failed"}
    assert "did not run" in found["base/test_it.py::test_two"][1]


def test_an_error_in_pytest_itself_is_no_verdict(said):
    hook = "def pytest_runtest_makereport(item): raise RuntimeError('a bug')"
    with pytest.raises(CommandError, match="pytest failed with status 3"):
        said("def test_one(): pass", conftest=hook)


# --- machines -------------------------------------------------------------------------------------

# What tells who a guest is, for guests at ports 1 and 2.
IDENTITY = """#!/bin/sh
case "$*" in
    *machine-id*Port=2*|*Port=2*machine-id*) printf 'id2\\ned25519 B\\nuefi\\n';;
    *machine-id*) printf 'id1\\ned25519 A\\nbios\\n';;
esac
"""


class Bench:
    """An engine that boots nothing and remembers what it was given."""

    name = "qemu"

    def __init__(self) -> None:
        self.given = []

    @contextlib.contextmanager
    def boot(self, machine):
        self.given.append((machine.firmware, machine.cpus, machine.memory_mib))
        machine.logs.mkdir(parents=True, exist_ok=True)
        machine.console.write_text("localhost login: ")
        yield Endpoint("127.0.0.1", 2 if machine.firmware == "uefi" else 1, "root", Path("key"))


@pytest.fixture
def disk(tmp_path, require_program) -> Path:
    require_program("qemu-img")
    path = tmp_path / "disk.qcow2"
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"])
    return path


def test_a_verification_has_the_resources_of_its_stage(checks, disk, tmp_path):
    engine, chosen = Bench(), checks(test_it="def test_one(): pass")
    record = SimpleNamespace(disk=SimpleNamespace(sha256="d" * 64))
    image = SimpleNamespace(disk=disk, key="i" * 64, record=record)
    verdict = verify(image, chosen, engine, RESOURCES, logs=tmp_path / "logs")
    assert verdict.passed
    assert engine.given == [("bios", 3, 1234)]


def test_clones_have_the_resources_of_their_stage(checks, disk, tmp_path, program):
    engine, chosen = Bench(), checks(test_it="def test_one(): pass")
    program("ssh", IDENTITY)
    with copied(chosen) as copy:
        first, second = boot_clones(disk, copy, engine, RESOURCES, tmp_path / "logs")
    assert (first.machine_id, second.machine_id) == ("id1", "id2")
    assert sorted(engine.given) == [("bios", 3, 1234), ("uefi", 3, 1234)]


def test_what_no_boot_changes_is_asked_in_a_container_beside_the_clones(
    checks, disk, tmp_path, program
):
    vm, container = Bench(), Bench()
    container.name = "nspawn"
    program("ssh", IDENTITY)
    chosen = checks(
        test_it="""
import pytest

@pytest.mark.anywhere
def test_anywhere(context):
    assert context["engine"] == "nspawn"

def test_booted(context):
    assert context["engine"] == "qemu"
"""
    )
    with copied(chosen) as copy:
        first, second = boot_clones(disk, copy, vm, RESOURCES, tmp_path / "logs", container)
    told = {
        result.name.partition("::")[2]: (result.outcome, result.engine) for result in first.results
    }
    assert told == {"test_anywhere": ("passed", "nspawn"), "test_booted": ("passed", "qemu")}
    assert second.results == ()
    assert len(container.given) == 1


def test_a_shell_has_the_resources_of_its_stage(disk, tmp_path, program):
    program("ssh", "#!/bin/sh\nexit 7\n")
    stage = SimpleNamespace(resources=RESOURCES)
    pipeline = SimpleNamespace(stage={"base": stage}.get)
    project = SimpleNamespace(engine=Bench(), pipeline=pipeline, var=tmp_path / "var")
    assert open_shell(project, "base", disk) == 7
    assert project.engine.given == [("bios", 3, 1234)]


# --- checks that are asked for each use of a role -------------------------------------------------

EACH_USE = """
import pytest

@pytest.mark.each_use("house")
def test_place(use): assert use["house_place"].startswith("/opt")

@pytest.mark.each_use("house", where=lambda use: "torch" in use["house_place"])
def test_torch(use, uses):
    assert use in uses("house")
    assert uses("nothing") == ()

@pytest.mark.each_use("house", where=lambda use: False)
def test_of_none(use): assert False

@pytest.mark.each_use("nothing")
def test_of_nothing(use): assert False
"""
USES = {"house": {"house_place": "/default"}, "house:torch": {"house_place": "/opt/torch"}}


def test_a_check_is_asked_for_each_use_and_where_there_is_none_not_at_all(said):
    outcomes = {name: outcome for name, (outcome, _) in said(EACH_USE, uses=USES).items()}
    assert outcomes == {
        "base/test_it.py::test_place[house]": "failed",
        "base/test_it.py::test_place[house:torch]": "passed",
        "base/test_it.py::test_torch[house:torch]": "passed",
    }


GPUS = """
def test_known(gpus): assert gpus == {"B200": 100, "l4": 89}
"""
TABLE = """
schema: 1
updated: "2026-11-26"
sources: {here: {what: a test, where: here}}
variables: {gpus: site_gpus}
architectures: {ada: {cuda: "11.8", modules: [open], source: here}}
gpus:
  B200: {pci: ["2901"], architecture: ada, capability: "10.0", driver: "570", source: here}
  L4: {pci: ["27B8"], architecture: ada, capability: "8.9", driver: "535", source: here}
"""


def test_checks_know_the_gpus_that_an_image_is_for(said, tmp_path):
    table = tmp_path / "project/stages/compatibility.yml"
    table.write_text(TABLE)
    assert said(GPUS, variables={"site_gpus": ["B200", "l4"]}).popitem()[1] == ("passed", "")
    outcome, message = said(GPUS, variables={"site_gpus": ["B200", "X1"]}).popitem()[1]
    assert (outcome, "has no row for X1" in message) == ("failed", True)


CUDA = """
def test_cuda(driver_cuda): assert driver_cuda == 13050
"""
DRIVERS = """
variables: {driver: site_driver}
drivers:
  "580": {kind: lts, ends: ended, modules: [open], source: here}
  "620": {kind: lts, ends: ended, modules: [open], source: here, cuda: "13.5", cuda_source: here}
"""


@pytest.mark.parametrize(
    ("version", "outcome", "says"),
    [
        ("620.70.06-1", "passed", ""),
        ("580.95.05-1", "failed", "stages/compatibility.yml says no cuda of driver branch 580"),
        ("999.1", "failed", "stages/compatibility.yml says no cuda of driver branch 999"),
        (None, "failed", "stages/compatibility.yml is missing, or names no driver"),
    ],
)
def test_checks_know_the_cuda_of_the_driver(said, tmp_path, version, outcome, says):
    table = tmp_path / "project/stages/compatibility.yml"
    table.write_text(TABLE.replace("\nvariables: {gpus: site_gpus}\n", DRIVERS))
    found = said(CUDA, variables={"site_driver": version} if version else {}).popitem()[1]
    assert (found[0], says in found[1]) == (outcome, True)


IF_USED = """
import pytest

@pytest.mark.if_used("house")
def test_house(): pass

@pytest.mark.if_used("nothing", "house")
def test_either(): pass

@pytest.mark.if_used("house", where=lambda use: "torch" in use["house_place"])
def test_torch(): assert False

@pytest.mark.if_used("nothing")
@pytest.mark.if_used("house")
def test_both(): assert False
"""


def test_a_check_about_a_role_is_asked_where_it_is_in_use(said):
    asked = {"base/test_it.py::test_house", "base/test_it.py::test_either"}
    found = said(IF_USED, uses={"house:small": {"house_place": "/opt/small"}})
    assert {name: outcome for name, (outcome, _) in found.items()} == dict.fromkeys(asked, "passed")
    assert {name for name, (outcome, _) in said(IF_USED, uses=USES).items()} == {
        *asked,
        "base/test_it.py::test_torch",
    }
    assert said(IF_USED) == {}


def test_a_check_with_a_host_is_named_without_it(said):
    text = EACH_USE.replace("(use)", "(host, use)")
    assert set(said(text, uses=USES)) == set(said(EACH_USE, uses=USES))
