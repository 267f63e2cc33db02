"""Locks of models, made from what a hub says."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from builder.caches.models_lock import parse_lock
from builder.errors import ProjectError, VaultbuildError
from builder.fetch.transient import PermanentError
from builder.upstream import models_in

WISHES = b"""\
models:
  - repo: org/name
    files: ["*.json", "*.onnx"]
  - {repo: org/other, revision: v1.0}
"""
HUB = "http://hub.example"
COMMIT = "c" * 40


class Answered:
    def __init__(self, body):
        self.body, self.headers = body, {}


class Web:
    def __init__(self):
        info = {
            "sha": COMMIT,
            "siblings": [
                {"rfilename": "config.json", "size": 2},
                {"rfilename": "a b.onnx", "size": 9, "lfs": {"sha256": "ab" * 32, "size": 9}},
                {"rfilename": "README.md", "size": 5},
            ],
        }
        self.pages = {
            f"{HUB}/api/models/org/name/revision/{COMMIT}?blobs=true": json.dumps(info).encode(),
            f"{HUB}/api/models/org/other/revision/{'1' * 40}?blobs=true":
                json.dumps({"sha": "1" * 40, "siblings": [
                    {"rfilename": "x", "lfs": {"sha256": "1" * 64, "size": 1}}]}).encode(),
            f"{HUB}/org/name/resolve/{COMMIT}/config.json": b"{}",
        }  # fmt: skip

    def read(self, url, *, limit=0, headers=None):
        assert headers == {"Authorization": "token"}, "also of a model that is not for all"
        if url not in self.pages:
            raise PermanentError(f"there is no {url}")
        return Answered(self.pages[url])


class Hub:
    endpoint = HUB

    def headers(self):
        return {"Authorization": "token"}

    def url(self, repo, commit, path):
        return f"{HUB}/{repo}/resolve/{commit}/{path}"

    def commit_of(self, repo, revision):
        return {"main": COMMIT, "v1.0": "1" * 40}[revision]


def test_a_lock_has_commits_and_every_file_that_is_wished_for():
    wishes = models_in.read_wishes(Path("models.in"), WISHES)
    text = models_in.make_lock("# why these\n", wishes, Hub(), Web())
    assert text.startswith("# why these\nschema: 1\nmodels:\n")
    empty = hashlib.sha256(b"{}").hexdigest()
    first, second = yaml.safe_load(text)["models"]
    assert first == {
        "repo": "org/name",
        "revision": "main",
        "commit": COMMIT,
        "files": {
            "a b.onnx": {"sha256": "ab" * 32, "size": 9},
            "config.json": {"sha256": empty, "size": 2},
        },
    }
    assert second["revision"] == "v1.0"
    assert second["files"] == {"x": {"sha256": "1" * 64, "size": 1}}, "no digest is a number"
    lock = parse_lock(Path("models.lock"), text.encode())
    assert [str(model) for model in lock.models] == [
        f"org/name at {COMMIT[:12]}", "org/other at 111111111111",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"models: 1", "no list of models"),
        (b"- a", "no list of models"),
        (b"models: [{revision: main}]", "models.0.repo: must be a repository: org/name"),
        (b"models: [{repo: gpt2}]", "models.0.repo: must be a repository: org/name"),
        (b"models: [a, {repo: a/b, revison: x}]", "models.1.revison: is not a key that is known"),
        (b"models: [{repo: a/b, files: x}]", "must be a list of patterns"),
        (b"a: [", "is not YAML"),
    ],
)
def test_wishes_that_are_none_are_refused(content, message):
    with pytest.raises(ProjectError, match=message):
        models_in.read_wishes(Path("models.in"), content)


def test_a_pattern_that_matches_nothing_is_a_mistake():
    wish = models_in.Wish("org/name", "main", ("*.safetensors",))
    with pytest.raises(VaultbuildError, match=r"no file like \*.safetensors at main"):
        models_in.make_lock("", (wish,), Hub(), Web())


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "gated"}'])
def test_a_hub_that_does_not_answer_well_is_told(body):
    web = Web()
    web.pages[f"{HUB}/api/models/org/name/revision/{COMMIT}?blobs=true"] = body
    with pytest.raises(VaultbuildError, match="org/name"):
        models_in.make_lock("", (models_in.Wish("org/name", "main", ()),), Hub(), web)
