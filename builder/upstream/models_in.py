"""Models that are wished for, and the lock with their commits and files: ``models.in``, ``.lock``.

::

    models:
      - repo: org/name
        revision: main             # a branch or a tag; main where nothing is said
        files: ["*.json", "*.onnx"]  # all where nothing is said

The lock has for each the commit that the revision is at, and of each file its SHA-256 and size. A
hub tells those of large files; small ones are read, once.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from builder import yamlfile
from builder.caches.models_lock import SCHEMA, is_lock, is_repository
from builder.errors import Problem, ProjectError, VaultbuildError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.upstream.suites import Reads

_MAIN = "main"
_KEYS = {"repo", "revision", "files"}
_ANSWER_LIMIT = 64 << 20


class Hub(Protocol):
    """What :class:`builder.caches.hub.Hub` offers of a hub."""

    @property
    def endpoint(self) -> str:
        """Its address."""

    def headers(self) -> dict[str, str]:
        """Return what a request carries."""

    def url(self, repo: str, commit: str, path: str) -> str:
        """Return where a file is."""

    def commit_of(self, repo: str, revision: str) -> str:
        """Return the commit that a branch or tag is."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A model that is wished for; ``files`` are patterns, none for all files."""

    repo: str
    revision: str
    files: tuple[str, ...]


def wishes_in(project: Path) -> list[Path]:
    """Return the files of wishes below ``stages``, relative to the project."""
    found = sorted((project / "stages").rglob("*.in"))
    return [path.relative_to(project) for path in found if is_lock(path.read_bytes())]


def locks_in(project: Path, folder: Path) -> list[Path]:
    """Return the locks of models in a stage's folder, relative to the project."""
    found = sorted((project / folder).rglob("*.lock"))
    return [path.relative_to(project) for path in found if is_lock(path.read_bytes())]


def read_wishes(path: Path, content: bytes) -> tuple[Wish, ...]:
    """Return what a ``models.in`` asks for."""
    file, problems = yamlfile.parse(path, content)
    data: Any = file.data if file else None
    if not problems and not (isinstance(data, dict) and isinstance(data.get("models"), list)):
        problems = [Problem(path, "has no list of models", hint="models: [{repo: org/name}]")]
    if problems:
        raise ProjectError(problems)
    assert file is not None  # noqa: S101 - for the type checker: it has no problems
    wrong = [each for at, one in enumerate(data["models"]) for each in _mistakes(file, at, one)]
    if wrong:
        raise ProjectError(wrong)
    return tuple(_wish(one) for one in data["models"])


def _mistakes(file: yamlfile.YamlFile, at: int, one: Any) -> Iterator[Problem]:
    """Yield what is wrong with a wish: what the lock would not take, it may not wish for."""
    key = ("models", at)
    if not isinstance(one, dict):
        yield file.problem(key, "must be a mapping")
        return
    for name in sorted(map(str, one.keys() - _KEYS)):
        yield file.problem((*key, name), "is not a key that is known here")
    if not is_repository(one.get("repo")):
        yield file.problem((*key, "repo"), "must be a repository: org/name")
    if not isinstance(one.get("files") or [], list):
        yield file.problem((*key, "files"), "must be a list of patterns")


def _wish(one: Mapping[str, Any]) -> Wish:
    files = tuple(map(str, one.get("files") or ()))
    return Wish(one["repo"], str(one.get("revision") or _MAIN), files)


def make_lock(first: str, wishes: tuple[Wish, ...], hub: Hub, reads: Reads) -> str:
    """Return the text of a lock; ``first`` are its first lines."""
    lines = [first.rstrip("\n")] if first.strip() else []
    lines += [f"schema: {SCHEMA}", "models:"]
    for wish in wishes:
        commit = hub.commit_of(wish.repo, wish.revision)
        lines += [
            f"  - repo: {json.dumps(wish.repo)}",
            f"    revision: {json.dumps(wish.revision)}",
            f"    commit: {json.dumps(commit)}",
            "    files:",
        ]
        files = sorted(_files(wish, commit, hub, reads))
        if not files:
            wanted = ", ".join(wish.files) or "any"
            raise VaultbuildError(f"{wish.repo} has no file like {wanted} at {wish.revision}")
        for name, sha256, size in files:
            # In quotes: a digest may look like a number.
            entry = f"{{sha256: {json.dumps(sha256)}, size: {size}}}"
            lines.append(f"      {json.dumps(name, ensure_ascii=False)}: {entry}")
    return "\n".join(lines) + "\n"


def _files(wish: Wish, commit: str, hub: Hub, reads: Reads) -> Iterator[tuple[str, str, int]]:
    """Yield name, SHA-256 and size of each file that is wished for."""
    for each in _listing(wish.repo, commit, hub, reads):
        name = each["rfilename"]
        if wish.files and not any(fnmatch.fnmatch(name, pattern) for pattern in wish.files):
            continue
        if large := each.get("lfs"):
            yield name, large["sha256"], int(large["size"])
            continue
        url = hub.url(wish.repo, commit, name)
        body = reads.read(url, limit=_ANSWER_LIMIT, headers=hub.headers()).body
        yield name, hashlib.sha256(body).hexdigest(), len(body)


def _listing(repo: str, commit: str, hub: Hub, reads: Reads) -> list[Mapping[str, Any]]:
    url = f"{hub.endpoint}/api/models/{repo}/revision/{quote(commit, safe='')}?blobs=true"
    body = reads.read(url, limit=_ANSWER_LIMIT, headers=hub.headers()).body
    try:
        found: list[Mapping[str, Any]] = json.loads(body)["siblings"]
    except (ValueError, KeyError, TypeError) as error:
        raise VaultbuildError(f"the hub does not list the files of {repo}") from error
    return found
