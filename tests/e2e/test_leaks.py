"""What only a build knows, left in an image by a role: such an image is not published."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder import disks
from builder.partitions import RootFileSystem
from builder.release.hygiene import hygiene_results
from builder.release.leaks import Needle, address_needles, key_needles, search

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

TOKEN = "hub-0123456789-abcdef"
FLEETING = "seen-by-nobody-0123456789"
MIRROR = "mirror-of-the-build.example"
SPECS = """\
---
argument_specs:
  main:
    short_description: Leave behind what only a build knows
    options:
      forgetful_token: {type: str, required: true, description: A token.}
"""
TASKS = f"""\
---
- name: Leave behind what only a build knows
  ansible.builtin.shell:
    cmd: |
      mkdir -p /srv/left && cd /srv/left
      cat /root/.ssh/authorized_keys > key
      echo "$http_proxy" > proxy
      echo 'deb http://{MIRROR}/debian trixie main' > mirror
      echo '{{{{ forgetful_token }}}}' > token
      for each in $(seq 100); do
        yes '{FLEETING}' | head -c 4096 > gone.$each
        echo $each > kept.$each
      done
      sync
      rm gone.*
  changed_when: true
"""


@pytest.fixture
def forgetful(copy):
    """The trimmed project with a role before the last that forgets to clean up."""
    role = copy.project / "ansible/roles/forgetful"
    for name, text in (("meta/argument_specs.yml", SPECS), ("tasks/main.yml", TASKS)):
        (role / name).parent.mkdir(parents=True)
        (role / name).write_text(text)
    use = f"- role: forgetful\n    variables: {{forgetful_token: {TOKEN}}}\n  - seal"
    copy.edit("stages/final/stage.yml", "- seal", use)
    mirrors = json.dumps(
        {"mirrors": {"http://elsewhere.example/debian/": [f"http://{MIRROR}/debian/"]}}
    )
    copy.edit("stages/pipeline.yml", '"apt": {', f'"apt": {mirrors[:-1]}, ')
    return copy


def bytes_of(vaultbuild, folder: Path) -> Path:
    disk = vaultbuild.disk(vaultbuild.keys()["final"])
    disks.unpack(disk, folder / "disk.raw")
    return folder / "disk.raw"


def test_what_a_build_knows_is_not_published(forgetful, tmp_path):
    forgetful("stage", "final", "--engine", "nspawn")
    said = forgetful("publish", "final", "--engine", "nspawn", status=1).stderr
    assert "the release of final: 4 of " in said
    for line in (
        "the public key of a build is in /srv/left/key",
        "variable forgetful_token is in /srv/left/token",
        "the build's apt cache is in /srv/left/proxy",
        f"the host {MIRROR} is in /srv/left/mirror",
    ):
        assert line in said
    assert TOKEN not in said, "what is secret is not shown"
    assert list((forgetful.project / "dist").iterdir()) == [], "not even in part"
    # What the role itself removed is nowhere: not in a free block, not beside a file in use.
    fleeting = Needle("", "what was removed", FLEETING.encode())
    assert search(bytes_of(forgetful, tmp_path), [fleeting]) == []


def test_the_disk_of_a_sealed_image_is_clean_before_it_boots(built, tmp_path):
    raw = bytes_of(built, tmp_path)
    root = RootFileSystem.find(raw)
    answers = {one.name: one.message for one in hygiene_results(root, tmp_path)}
    assert {name: message for name, message in answers.items() if message} == {}
    assert len(answers) > 15
    assert root.complaints() == ""
    with raw.open("rb") as file:
        for first, last in root.free():
            file.seek(first)
            assert not file.read(last - first).strip(b"\0")


def test_a_sealed_image_has_nothing_of_its_build(built, tmp_path):
    record = built("show", "final", "--engine", "nspawn", "--json").json
    assert record["logins"]
    needles = [*key_needles(record["logins"]), *address_needles({})]
    assert search(bytes_of(built, tmp_path), needles) == []
