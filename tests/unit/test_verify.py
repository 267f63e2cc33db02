"""Checks and verdicts: what belongs to a set, what a verdict says, how a failure is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from builder.digest import StatCache
from builder.errors import CheckError, ProjectError
from builder.inputs import EditedError
from builder.pipeline import Resources, RoleUse, Stage
from builder.verify import (
    CheckResult,
    Verdict,
    checks_of,
    copied,
    read_verdict,
    require_passed,
    verdict_path,
)


def verdict(*outcomes: str, message: str = "") -> Verdict:
    results = tuple(
        CheckResult(f"base/test_a.py::test_{number}", outcome, 0.5, message)
        for number, outcome in enumerate(outcomes)
    )
    return Verdict(
        image="i" * 64, disk="d" * 64, checks="c" * 64, engine="qemu", seconds=3.5, results=results
    )


def stage(name: str, parent: str | None) -> Stage:
    return Stage(
        name=name,
        parent=parent,
        roles=(),
        template=Path("packer/stage.pkr.hcl.j2"),
        network="caches",
        resources=Resources(cpus=1, memory_mib=1024, disk_bytes=1 << 30),
        folder=Path("stages", name),
    )


def test_a_verdict_says_where_its_checks_were_asked():
    """Those of a release are not all asked in its VMs."""
    booted = verdict("passed", "passed")
    assert booted.asked() == "qemu"
    beside = replace(booted.results[0], engine="nspawn")
    seen = replace(booted.results[0], engine="none")
    whole = replace(booted, results=(seen, *booted.results, beside))
    assert whole.asked() == "1 of the file, 2 qemu, 1 nspawn"
    assert Verdict.from_json(whole.to_json()) == whole


LINEAGE = (stage("base", None), stage("final", "base"))


@pytest.fixture
def project(tmp_path) -> Path:
    root = tmp_path / "project"
    for name in ("base", "final"):
        folder = root / "stages" / name / "checks"
        folder.mkdir(parents=True)
        (folder / f"test_{name}.py").write_text(f"def test_{name}(host): pass\n")
    return root


@pytest.fixture
def digest_of(project, tmp_path):
    """Call it for the digest of the checks of ``final`` as the files are now."""

    def digest(variables=None, variant="one") -> str:
        cache = StatCache(project, tmp_path / "files.json")
        return checks_of(LINEAGE, cache, variant, variables or {}).digest()

    return digest


# --- a set of checks ------------------------------------------------------------------------------


def test_the_checks_of_what_it_stands_on_are_its_own(project, tmp_path):
    found = checks_of(LINEAGE, StatCache(project, tmp_path / "files.json"), "one", {})
    assert (found.stage, found.root) == ("final", project)
    assert found.folders == ("stages/base/checks", "stages/final/checks")
    assert sorted(found.files) == [
        "stages/base/checks/test_base.py",
        "stages/final/checks/test_final.py",
    ]


def test_a_stage_without_checks_has_those_it_stands_on(project, tmp_path):
    (project / "stages/final/checks/test_final.py").unlink()
    (project / "stages/final/checks").rmdir()
    found = checks_of(LINEAGE, StatCache(project, tmp_path / "files.json"), "one", {})
    assert found.folders == ("stages/base/checks",)


def test_a_role_has_checks_where_a_stage_lists_it(project, tmp_path):
    for role in ("listed", "unlisted", "silent"):
        (project / "ansible/roles" / role).mkdir(parents=True)
    for role in ("listed", "unlisted"):
        (project / "ansible/roles" / role / "checks").mkdir()
        (project / "ansible/roles" / role / "checks/test_role.py").write_text("def test_it(): pass")
    uses = tuple(RoleUse(name, {}, {}) for name in ("listed", "silent", "listed"))
    lineage = (replace(LINEAGE[0], roles=uses), LINEAGE[1])
    found = checks_of(lineage, StatCache(project, tmp_path / "files.json"), "one", {})
    folders = ("stages/base/checks", "ansible/roles/listed/checks", "stages/final/checks")
    assert found.folders == folders
    assert "ansible/roles/listed/checks/test_role.py" in found.files


def test_an_edit_makes_another_set(project, digest_of):
    before = digest_of()
    assert digest_of() == before
    (project / "stages/base/checks/test_base.py").write_text("def test_more(host): pass\n")
    assert digest_of() != before


def test_what_the_checks_expect_makes_another_set(digest_of):
    assert digest_of({"version": "1"}) != digest_of({"version": "2"})


def test_another_variant_makes_another_set(digest_of):
    assert digest_of(variant="one") != digest_of(variant="two")


def test_a_link_out_of_the_folder_is_refused(project, digest_of):
    """No digest would notice when what it leads to changes, and no copy would have it."""
    (project / "machine.py").write_text("import sys\n")
    (project / "stages/base/checks/machine.py").symlink_to("../../../machine.py")
    with pytest.raises(ProjectError, match="not among the files of its folder of checks"):
        digest_of()


def test_a_link_within_the_folder_is_followed(project, digest_of):
    (project / "stages/base/checks/test_again.py").symlink_to("test_base.py")
    assert digest_of()


# --- copies ---------------------------------------------------------------------------------------


@pytest.fixture
def checks(project, tmp_path):
    return checks_of(LINEAGE, StatCache(project, tmp_path / "files.json"), "one", {})


def test_an_edit_after_the_copy_belongs_to_the_next_run(project, checks):
    path = "stages/base/checks/test_base.py"
    with copied(checks) as copy:
        (project / path).write_text("def test_more(host): pass\n")
        assert (copy.root / path).read_text() == "def test_base(host): pass\n"
        assert copy.digest() == checks.digest()
    assert not copy.root.exists()


def test_an_edit_before_the_copy_is_noticed(project, checks):
    (project / "stages/base/checks/test_base.py").write_text("def test_more(host): pass\n")
    with pytest.raises(EditedError, match="changed while this run") as caught, copied(checks):
        pytest.fail("it is not what the digest says")
    assert "run the same command again" in caught.value.hint


# --- a verdict ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "passed"),
    [
        (["passed"], True),
        (["passed", "skipped"], True),
        (["passed", "failed"], False),
        (["skipped"], False),
        ([], False),
    ],
)
def test_a_verdict_is_good_when_something_passed_and_nothing_failed(outcomes, passed):
    assert verdict(*outcomes).passed is passed


def test_a_verdict_counts():
    found = verdict("passed", "failed", "skipped", "passed")
    assert found.counts() == {"passed": 2, "failed": 1, "skipped": 1}
    assert [result.name for result in found.failures] == ["base/test_a.py::test_1"]


def test_a_verdict_is_read_back():
    found = verdict("passed", "failed", message="E   no")
    assert Verdict.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"results": [{"name": "x"}]}'])
def test_an_unreadable_verdict_is_none(tmp_path, text):
    (tmp_path / "verdict.json").write_text(text)
    assert read_verdict(tmp_path / "verdict.json") is None


def test_no_verdict_is_none(tmp_path):
    assert read_verdict(tmp_path / "verdict.json") is None


def test_each_image_set_and_engine_has_a_verdict_of_its_own(tmp_path):
    places = {
        verdict_path(tmp_path, image, checks, engine)
        for image in ("a" * 64, "b" * 64)
        for checks in ("c" * 64, "d" * 64)
        for engine in ("qemu", "nspawn")
    }
    assert len(places) == 8


# --- a failure ------------------------------------------------------------------------------------


def typed(words):
    """Return what to type about a project that is not what is meant by default."""
    return f"vaultbuild {words} --variant two --engine qemu"


def test_a_good_verdict_raises_nothing():
    require_passed(verdict("passed", "skipped"), "final", typed)


def test_each_failing_check_is_named_with_its_reason(tmp_path):
    message = (
        "def test(host):\n>   assert ...\nE   AssertionError: no /dev/nvidia0\nE   assert False"
    )
    with pytest.raises(CheckError) as caught:
        require_passed(verdict("passed", "failed", message=message), "final", typed, log=tmp_path)
    said = caught.value
    assert said.message.startswith("final: 1 of 2 checks failed")
    assert "base/test_a.py::test_1" in said.message
    assert "AssertionError: no /dev/nvidia0" in said.message
    assert "def test(host)" not in said.message
    assert said.hint == "look inside: vaultbuild shell final --variant two --engine qemu"
    assert said.log == tmp_path
    assert said.exit_status == 1


def test_checks_that_were_all_skipped_are_no_proof(tmp_path):
    with pytest.raises(CheckError, match="all 2 were skipped") as caught:
        require_passed(verdict("skipped", "skipped"), "base", typed, log=tmp_path)
    assert "vaultbuild verify base --vm --variant two" in caught.value.hint


def test_a_stage_that_nobody_checked_is_not_good():
    with pytest.raises(CheckError, match="no check was found") as caught:
        require_passed(verdict(), "final", typed)
    assert "stages/final/checks/test_*.py" in caught.value.hint
