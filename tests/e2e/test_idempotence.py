"""Roles may run again on what they made, and builds too: the second time nothing is different."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("stage", ["base", "final"])
def test_a_second_run_of_a_stages_roles_changes_nothing(copy, stage):
    """A stage whose roles are those of its parent: the same tasks, on the disk they left."""
    again = copy.project / "stages/again"
    again.mkdir()
    roles = (copy.project / f"stages/{stage}/stage.yml").read_text().partition("roles:")[2]
    (again / "stage.yml").write_text(f"---\nparent: {stage}\nroles:{roles}")
    copy.edit("stages/pipeline.yml", "stages: [base, final]", "stages: [base, final, again]")
    copy("stage", "again", "--engine", "nspawn")
    record = copy("show", "again", "--engine", "nspawn", "--json").json
    changed = {role["role"]: role["changed"] for role in record["roles"] if role["changed"]}
    # Every boot makes an identity, this one too: to remove it is what the role is for.
    assert changed.pop("seal", 1) == 1
    assert changed == {}


def test_the_same_inputs_give_the_same_packages(copy):
    """Made anew from nothing, under the same keys: the list of packages is the same."""

    def listed():
        return copy("show", "final", "--engine", "nspawn", "--json").json

    before = listed()
    copy("stage", "final", "--engine", "nspawn", "--force")
    after = listed()
    assert after["created"] != before["created"]
    assert after["key"] == before["key"]
    assert after["packages"] == before["packages"]
