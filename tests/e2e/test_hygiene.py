"""The reference pipeline's own checks, on an image that was broken on purpose.

A check that was never seen failing proves nothing. Here the hygiene checks pass on the trimmed
image, and fail on one that was sealed and then spoiled.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

CHECKS = Path(__file__).parents[2] / "stages/final/checks"
# It is about kernel and driver, which the trimmed pipeline does not pin.
NOT_OURS = "test_kernel_and_driver_are_held_and_nothing_else"
BREAKS_NOTHING_HERE = {
    "test_no_package_is_half_removed",
    "test_package_sources_are_there",
    "test_there_is_room",
}


@pytest.fixture
def hygiene(copy):
    """The trimmed project, with the hygiene checks of the reference pipeline."""
    checks = copy.project / "stages/final/checks"
    shutil.copy(CHECKS / "leftovers.py", checks)
    text = (CHECKS / "test_hygiene.py").read_text()
    assert NOT_OURS in text
    (checks / "test_hygiene.py").write_text(text.replace(f"def {NOT_OURS}", "def not_ours"))
    return copy


def outcomes(vaultbuild) -> dict[str, set[str]]:
    """The names of the hygiene checks by what the last verdict on ``final`` says of them."""
    record = vaultbuild("show", "final", "--engine", "nspawn", "--json").json
    found: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}
    for check in record["verdict"]["results"]:
        file, _, name = check["name"].partition("::")
        if file == "final/test_hygiene.py":
            found[check["outcome"]].add(name)
    return found


def test_a_sealed_image_is_clean(hygiene):
    hygiene("stage", "final", "--engine", "nspawn")
    found = outcomes(hygiene)
    assert found["failed"] == found["skipped"] == set()
    assert len(found["passed"]) > 15


def test_every_check_fails_on_a_spoiled_image(hygiene):
    hygiene.edit("stages/final/stage.yml", "- seal", "- seal\n  - sabotage")
    ran = hygiene("stage", "final", "--engine", "nspawn", status=1)
    assert "checks failed" in ran.stderr
    found = outcomes(hygiene)
    assert found["passed"] == BREAKS_NOTHING_HERE, json.dumps(sorted(found["failed"]))
    said = hygiene("publish", "final", "--engine", "nspawn", status=1).stderr
    assert "test_no_proxy_and_no_index_is_left" in said
    assert not (hygiene.project / "dist").exists()


def test_clones_that_share_an_identity_are_not_published(copy):
    """Its disk and its checks pass, one clone at a time: only two of them show what is wrong."""
    spoil = "- role: sabotage\n    variables: {sabotage_identity_only: true}\n  - seal"
    copy.edit("stages/final/stage.yml", "- seal", spoil)
    copy("stage", "final", "--engine", "nspawn")
    said = copy("publish", "final", "--engine", "nspawn", status=1).stderr
    assert "the release of final: 2 of " in said
    assert "clones::have host keys of their own" in said
    assert "clones::have machine-ids of their own" in said
    assert "0123456789abcdef0123456789abcdef" in said
    assert list((copy.project / "dist").iterdir()) == [], "not even in part"
