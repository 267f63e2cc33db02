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
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from builder import yamlfile
from builder.errors import Problem, ProjectError, VaultbuildError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.suites import Reads

_SCHEMA = 1
_MAIN = "main"
_ANSWER_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Wish:
    """A model that is wished for; ``files`` are patterns, none for all files."""

    repo: str
    revision: str
    files: tuple[str, ...]


def locks_in(project: Path, folder: Path) -> list[Path]:
    """Return the locks of models in a stage's folder, relative to the project."""
    found = sorted((project / folder).rglob("*.lock"))
    return [path.relative_to(project) for path in found if is_of_models(path)]


def is_of_models(path: Path) -> bool:
    """Whether a lock or its wishes are about models: they have such a list."""
    return bool(re.search(r"^models:", path.read_text(encoding="utf-8"), re.MULTILINE))


def read_wishes(path: Path, content: bytes) -> tuple[Wish, ...]:
    """Return what a ``models.in`` (or, for repo and revision, a lock) asks for."""
    document = _document(path, content)
    return tuple(_wish(path, at, one) for at, one in enumerate(document["models"]))


def read_commits(path: Path, content: bytes) -> dict[tuple[str, str], str]:
    """Return by repo and revision the commits of a lock."""
    models = _document(path, content)["models"]
    return {
        (one["repo"], one.get("revision", _MAIN)): str(one["commit"])
        for one in models
        if isinstance(one, dict) and "repo" in one and "commit" in one
    }


def _document(path: Path, content: bytes) -> dict[str, Any]:
    file, problems = yamlfile.parse(path, content)
    data: Any = file.data if file else None
    if not problems and not (isinstance(data, dict) and isinstance(data.get("models"), list)):
        problems = [Problem(path, "has no list of models", hint="models: [{repo: org/name}]")]
    if problems:
        raise ProjectError(problems)
    found: dict[str, Any] = data
    return found


def _wish(path: Path, at: int, one: Any) -> Wish:
    if not isinstance(one, dict) or not isinstance(one.get("repo"), str):
        raise ProjectError([Problem(path, "has a model without repo", key=f"models.{at}")])
    files = one.get("files") or ()
    if isinstance(files, dict):
        files = ()  # those of a lock
    return Wish(one["repo"], str(one.get("revision", _MAIN)), tuple(map(str, files)))


def commit_of(wish: Wish, hub: str, reads: Reads) -> str:
    """Return the commit that a model's revision is at."""
    return str(_info(wish, hub, reads)["sha"])


def make_lock(first: str, wishes: tuple[Wish, ...], hub: str, reads: Reads) -> str:
    """Return the text of a lock; ``first`` are its first lines."""
    lines = [first.rstrip("\n")] if first.strip() else []
    lines += [f"schema: {_SCHEMA}", "models:"]
    for wish in wishes:
        info = _info(wish, hub, reads)
        lines += [
            f"  - repo: {json.dumps(wish.repo)}",
            f"    revision: {json.dumps(wish.revision)}",
            f"    commit: {json.dumps(info['sha'])}",
            "    files:",
        ]
        files = sorted(_files(wish, info, hub, reads))
        if not files:
            wanted = ", ".join(wish.files) or "any"
            raise VaultbuildError(f"{wish.repo} has no file like {wanted} at {wish.revision}")
        for name, sha256, size in files:
            # In quotes: a digest may look like a number.
            entry = f"{{sha256: {json.dumps(sha256)}, size: {size}}}"
            lines.append(f"      {json.dumps(name, ensure_ascii=False)}: {entry}")
    return "\n".join(lines) + "\n"


def _info(wish: Wish, hub: str, reads: Reads) -> Mapping[str, Any]:
    revision = quote(wish.revision, safe="")
    url = f"{hub.rstrip('/')}/api/models/{wish.repo}/revision/{revision}?blobs=true"
    try:
        document = json.loads(reads.read(url, limit=_ANSWER_LIMIT).body)
    except ValueError as error:
        raise VaultbuildError(f"the hub's answer about {wish.repo} is not JSON") from error
    if not isinstance(document, dict) or "sha" not in document:
        raise VaultbuildError(f"the hub does not say which commit {wish.repo} is at")
    return document


def _files(
    wish: Wish, info: Mapping[str, Any], hub: str, reads: Reads
) -> Iterator[tuple[str, str, int]]:
    """Yield name, SHA-256 and size of each file that is wished for."""
    for each in info.get("siblings", ()):
        name = each["rfilename"]
        if wish.files and not any(fnmatch.fnmatch(name, pattern) for pattern in wish.files):
            continue
        if large := each.get("lfs"):
            yield name, large["sha256"], int(large["size"])
            continue
        url = f"{hub.rstrip('/')}/{wish.repo}/resolve/{info['sha']}/{quote(name)}"
        body = reads.read(url, limit=_ANSWER_LIMIT).body
        yield name, hashlib.sha256(body).hexdigest(), len(body)
