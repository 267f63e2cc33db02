"""New pins for a whole project: everything is found first, then written."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.digest import digest_file
from builder.errors import ProjectError, StoreError, VaultbuildError
from builder.fetch.transient import PermanentError
from builder.pipeline import load_pipeline
from builder.project import Project
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK
from builder.upstream import Sources, relock
from builder.upstream.relock import Wanted

ROOT = Path(__file__).parents[2]
SUITE = "http://mirror.example/debian/dists/trixie"
SECURITY = "http://mirror.example/security/dists/trixie-security"
MAIN = "main/binary-amd64"
COMMIT = "2" * 40
SUMS = "http://images.example/SHA256SUMS"
PIPELINE = """\
schema: 1
name: tiny
version: "1.0.0"
variant: one
stages: [base, final]
variants:
  one:
    source:
      bootstrap:
        suite: trixie
        mirrors:
          - deb http://mirror.example/debian trixie main
          - deb http://mirror.example/security trixie-security main contrib
        packages: [openssl=3.5.4-1, zstd]  # two
    variables:
      greeting_text: 550.163.01-2
  two:
    source:
      cloud_image:
        url: http://images.example/two.qcow2
        sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""


class Answered:
    def __init__(self, body):
        self.body, self.headers = body, {}


class Web:
    """Stands in for a fetcher: what is not among the pages is not there."""

    def __init__(self, pages):
        self.pages, self.asked = pages, []

    def read(self, url, *, limit=0, headers=None):
        self.asked.append(url)
        if url not in self.pages:
            raise PermanentError(f"there is no {url}")
        return Answered(self.pages[url])


class Hub:
    endpoint = "http://hub.example"

    def headers(self):
        return {}

    def commit_of(self, repo, revision):
        return COMMIT


@pytest.fixture
def pinned(project, archives):
    """A project with pins of every kind, and what upstream has of them."""
    archives.publish(SUITE, {MAIN: {"openssl": "3.5.4-1", "driver": "555-1"}})
    archives.publish(SECURITY, {MAIN: {"openssl": "3.5.5-1"}})
    archives.pages[SUMS] = f"{'1' * 64}  two.qcow2\n".encode()
    page = f"http://hub.example/api/models/org/name/revision/{COMMIT}?blobs=true"
    files = [{"rfilename": "x", "lfs": {"sha256": "ab" * 32, "size": 1}}]
    archives.pages[page] = json.dumps({"siblings": files}).encode()
    project({
        "stages/pipeline.yml": PIPELINE,
        "stages/final/requirements.in": "numpy\n",
        "stages/final/requirements.lock": "numpy==2.5.5\n",
        "stages/final/models.in": "models: [{repo: org/name}]\n",
    })  # fmt: skip
    return project()


@pytest.fixture
def find(pinned, archives):
    """Look for pins with the words of a command line."""
    web = Web(archives.pages)
    sources = Sources(web, web, lambda _: "numpy==2.5.6\n", Hub)

    def run(*words):
        return relock.relock(pinned, sources, Wanted.of(words))

    return run


def texts(folder):
    return {path: path.read_text() for path in folder.glob("stages/**/*") if path.is_file()}


def test_everything_is_found_and_written_as_the_diff_says(find, pinned):
    before = texts(pinned)
    found = find()
    assert [str(change.path) for change in found.changes] == [
        "stages/pipeline.yml", "stages/final/requirements.lock", "stages/final/models.lock",
    ]  # fmt: skip
    assert {path: before[path] for path in before} == {
        path: text for path, text in texts(pinned).items() if path in before
    }, "nothing is written while it is looked for"
    relock.write(pinned, found)
    text = (pinned / "stages/pipeline.yml").read_text()
    assert text == PIPELINE.replace("3.5.4-1", "3.5.5-1").replace(
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "1" * 64
    )
    assert load_pipeline(pinned, "two").source.settings["sha256"] == "1" * 64
    assert (pinned / "stages/final/requirements.lock").read_text() == "numpy==2.5.6\n"
    assert find().changes == [], "what is new is not newer"


def test_a_checksum_that_nobody_filled_in_is_filled_in(find, pinned, project):
    known = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    project({"stages/pipeline.yml": PIPELINE.replace(known, "fill in: vaultbuild lock image")})
    with pytest.raises(ProjectError, match="is not filled in"):
        load_pipeline(pinned, "two").require_filled()
    relock.write(pinned, find("image"))
    load_pipeline(pinned, "two").require_filled()
    assert load_pipeline(pinned, "two").source.settings["sha256"] == "1" * 64


def test_a_diff_can_be_applied(find, pinned, require_program):
    git = require_program("git")
    subprocess.run([git, "init", "-q"], cwd=pinned, check=True)
    diff = "".join(change.diff() for change in find().changes)
    subprocess.run([git, "apply", "-"], cwd=pinned, check=True, input=diff, text=True)
    assert find().changes == []


def test_a_file_without_a_last_line_break_has_a_diff_that_says_so():
    change = relock.Change(Path("a.lock"), "numpy==1", "numpy==2\n")
    assert "-numpy==1\n\\ No newline at end of file\n+numpy==2\n" in change.diff()


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["packages"], ["stages/pipeline.yml"]),
        (["openssl"], ["stages/pipeline.yml"]),
        (["image"], ["stages/pipeline.yml"]),
        (["wheels"], ["stages/final/requirements.lock"]),
        (["models", "wheels"], ["stages/final/requirements.lock", "stages/final/models.lock"]),
        (["stages/final/requirements.in"], ["stages/final/requirements.lock"]),
        (["stages/final/models.lock"], ["stages/final/models.lock"]),
        (["greeting_text"], []),
    ],
)
def test_only_what_is_asked_for_is_looked_at(find, words, files):
    assert [str(change.path) for change in find(*words).changes] == files


@pytest.mark.parametrize(
    ("word", "message"),
    [("opensl", "nothing here is pinned by the name opensl"), ("stages/x.lock", "is no lock")],
)
def test_a_word_that_names_nothing_is_told(find, word, message):
    with pytest.raises(StoreError, match=message) as caught:
        find(word)
    assert "openssl" in caught.value.hint or "requirements.lock" in caught.value.hint


def test_when_somebody_cannot_be_asked_nothing_is_written(find, pinned, archives):
    del archives.pages[f"{SECURITY}/InRelease"]
    before = texts(pinned)
    with pytest.raises(VaultbuildError, match="there is no"):
        find()
    assert texts(pinned) == before


def test_an_edit_while_it_was_looked_for_is_not_lost(find, pinned):
    found = find()
    (pinned / "stages/final/requirements.lock").write_text("numpy==2.5.4\n")
    before = texts(pinned)
    with pytest.raises(StoreError, match=r"requirements.lock was edited meanwhile"):
        relock.write(pinned, found)
    assert texts(pinned) == before


def test_a_variable_follows_the_packages_of_the_last_image(find, pinned, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    packer = tmp_path / "bin/packer"
    packer.write_text("#!/bin/sh\necho Packer v1.6.6\n")
    packer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{packer.parent}:{os.environ['PATH']}")
    shutil.copytree(ROOT / "packer", pinned / "packer", dirs_exist_ok=True)
    made = Project(pinned, engine="nspawn")
    inputs = made.inputs("base")[-1]
    with made.store.staging() as staged:
        (staged / DISK).write_bytes(b"disk")
        record = BuildRecord(
            key=inputs.key,
            variant="one",
            stage="base",
            created="2026-11-20T10:00:00Z",
            seconds=1.0,
            documents=inputs.documents,
            parent=None,
            disk=DiskRecord(digest_file(staged / DISK), 4),
            packages={"dpkg": {"driver": "550.163.01-2"}},
        )
        made.store.commit(staged, record)
    made.store.remember("one", "base", inputs.documents)
    (edit,) = find("greeting_text").edits
    assert (edit.what, edit.before, edit.after) == ("greeting_text", "550.163.01-2", "555-1")


def test_the_document_for_machines(find):
    document = find("packages").to_json(written=False)
    assert document["written"] is False
    assert document["edits"] == [
        {"file": "stages/pipeline.yml", "line": 14, "what": "openssl", "before": "3.5.4-1",
         "after": "3.5.5-1"},
    ]  # fmt: skip
    assert document["files"][0]["diff"].startswith("--- a/stages/pipeline.yml")


# --- the kernel, over all variants ----------------------------------------------------------------

SPECS = """\
argument_specs:
  main:
    options:
      nvidia_driver_version: {type: str}
      nvidia_driver_flavour: {type: str}
"""
PIN_SPECS = "argument_specs: {main: {options: {kernel_pin_release: {type: str}}}}\n"
PINNED = "linux-image-6.12.117+deb13-cloud-amd64"
NEWER = "linux-image-6.12.118+deb13-cloud-amd64"
KERNELS = f"""\
schema: 1
name: tiny
version: "1.0.0"
variant: one
stages: [base, final]
variants:
  one:
    source: &source
      bootstrap:
        suite: trixie
        mirrors: [deb http://mirror.example/debian trixie main]
        packages: [{PINNED}=6.12.117-1]
    variables: &variables
      kernel_pin_release: 6.12.117+deb13-cloud-amd64
      nvidia_driver_version: 550.163.01-2
      nvidia_driver_flavour: proprietary
  alias: {{source: *source, variables: *variables}}
"""
BARE = """\
  bare:
    source:
      bootstrap:
        suite: trixie
        mirrors: [deb http://mirror.example/debian trixie main]
        packages: [linux-image-6.12.117+deb13-amd64=6.12.117-1]
"""


@pytest.fixture
def kernels(project, archives):
    """Call it with a pipeline: what ``lock packages`` tells of its kernels."""
    kinds = ("cloud-amd64", "amd64")
    offers = {
        f"linux-image-6.12.{minor}+deb13-{kind}": f"6.12.{minor}-1"
        for minor in (117, 118)
        for kind in kinds
    }
    archives.publish(SUITE, {MAIN: offers})

    def tell(text):
        root = project(
            {
                "stages/pipeline.yml": text,
                "stages/base/stage.yml": "roles: [kernel_pin, nvidia_driver]\n",
                "ansible/roles/kernel_pin/meta/argument_specs.yml": PIN_SPECS,
                "ansible/roles/kernel_pin/tasks/main.yml": "[]\n",
                "ansible/roles/nvidia_driver/meta/argument_specs.yml": SPECS,
                "ansible/roles/nvidia_driver/tasks/main.yml": "[]\n",
            }
        )
        shutil.copy(ROOT / "stages/compatibility.yml", root / "stages")
        web = Web(archives.pages)
        return relock.relock(root, Sources(web, web, None, Hub), Wanted.of(["packages"]))

    return tell


def test_a_kernel_that_is_held_back_is_told_once_however_many_variants_share_it(kernels):
    found = kernels(KERNELS)
    assert found.edits == []
    (note,) = found.notes
    assert note.what == f"{NEWER}=6.12.118-1"
    assert note.why.startswith("held back: nobody has seen the proprietary module")


def test_a_kernel_that_goes_with_no_driver_is_told_beside_those_that_do(kernels):
    found = kernels(KERNELS + BARE)
    held, bare = sorted((note.what, note.why.split(":")[0]) for note in found.notes)[::-1]
    assert held == (f"{NEWER}=6.12.118-1", "held back")
    assert bare[0] == "linux-image-6.12.117+deb13-amd64"
    assert "changed by hand" in bare[1]
