"""The lock file of models: which commit of which repository, and the digest of each of its files.

::

    schema: 1
    models:
      - repo: org/name
        revision: main          # what the commit was pinned from: where to look for a newer one
        commit: 0123456789abcdef0123456789abcdef01234567
        files:
          config.json: {sha256: …64 digits…, size: 612}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from builder.errors import Problem, ProjectError
from builder.yamlfile import YamlFile, parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.yamlfile import Key

SCHEMA = 1

_LOCK = re.compile(rb"^models:", re.MULTILINE)
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {"repo", "revision", "commit", "files"}
_HINT = "vaultbuild lock writes such a file"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model: its path in the repository, and what it holds."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Model:
    """One repository, pinned to a commit. ``revision`` is the branch or tag it was pinned from."""

    repo: str
    commit: str
    revision: str | None
    files: tuple[ModelFile, ...]

    def __str__(self) -> str:
        return f"{self.repo} at {self.commit[:12]}"


@dataclass(frozen=True, slots=True)
class ModelsLock:
    """All models of a lock file."""

    models: tuple[Model, ...]


def is_lock(content: bytes) -> bool:
    """Whether a file looks like a lock file of models: YAML with ``models:`` at its top."""
    return _LOCK.search(content) is not None


def parse_lock(path: Path, content: bytes) -> ModelsLock:
    """Return what a lock file says; raise :class:`ProjectError` with all its mistakes."""
    file, problems = parse(path, content)
    if file is None:
        raise ProjectError(problems)
    problems = [*problems, *_problems(file)]
    if problems:
        raise ProjectError(problems, hint=_HINT)
    return ModelsLock(tuple(_model(each) for each in file.data["models"]))


def _model(document: dict[str, Any]) -> Model:
    files = (ModelFile(path, one["sha256"], one["size"]) for path, one in document["files"].items())
    return Model(
        repo=document["repo"],
        commit=document["commit"],
        revision=document.get("revision"),
        files=tuple(sorted(files, key=lambda file: file.path)),
    )


def _problems(file: YamlFile) -> Iterator[Problem]:
    data = file.data
    if not isinstance(data, dict) or not isinstance(data.get("models"), list):
        yield file.problem((), "has no list of models")
        return
    if data.get("schema") != SCHEMA:
        yield file.problem(("schema",), f"must be {SCHEMA}")
    for name in data.keys() - {"schema", "models"}:
        yield file.problem((name,), "is not a key that is known here")
    seen: set[tuple[Any, Any]] = set()
    for at, model in enumerate(data["models"]):
        key = ("models", at)
        if not isinstance(model, dict):
            yield file.problem(key, "must be a mapping")
            continue
        yield from _model_problems(file, key, model)
        name = str(model.get("repo")), str(model.get("commit"))
        if name in seen:
            yield file.problem((*key, "repo"), "stands here twice with this commit")
        seen.add(name)


def _model_problems(file: YamlFile, key: Key, model: dict[str, Any]) -> Iterator[Problem]:
    for name in model.keys() - _KEYS:
        yield file.problem((*key, name), "is not a key that is known here")
    if not is_repository(model.get("repo")):
        yield file.problem((*key, "repo"), "must be a repository: org/name")
    if not _matches(_COMMIT, model.get("commit")):
        hint = "a branch moves; a commit does not"
        yield file.problem((*key, "commit"), "must be a full commit, 40 hexadecimal digits", hint)
    if not isinstance(model.get("revision", ""), str | None):
        yield file.problem((*key, "revision"), "must be text")
    if not isinstance(model.get("files"), dict) or not model["files"]:
        yield file.problem((*key, "files"), "must name the model's files")
        return
    for path, one in model["files"].items():
        yield from _file_problems(file, (*key, "files", path), path, one)


def _file_problems(file: YamlFile, key: Key, path: str, one: Any) -> Iterator[Problem]:
    if not is_inside(path):
        yield file.problem(key, "is no path inside a repository")
    if not isinstance(one, dict) or one.keys() != {"sha256", "size"}:
        yield file.problem(key, "must have sha256 and size")
        return
    if not _matches(_SHA256, one["sha256"]):
        yield file.problem((*key, "sha256"), "is no SHA-256 (64 hexadecimal digits, small letters)")
    if type(one["size"]) is not int or one["size"] < 0:
        yield file.problem((*key, "size"), "must be a number of bytes")


def is_repository(value: object) -> bool:
    """Whether it names a repository of a hub, in a way that is safe as a folder's name, too."""
    return _matches(_REPO, value) and ".." not in str(value) and "--" not in str(value)


def is_inside(path: str) -> bool:
    """Whether a path of a repository leads nowhere but into it."""
    parts = PurePosixPath(path).parts
    return bool(parts) and str(PurePosixPath(path)) == path and not (
        path.startswith("/") or ".." in parts or "\\" in path or "\0" in path
    )  # fmt: skip


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
