"""Keep an answer that was worked out from a project's files for as long as they look the same.

Parsing and validating a project costs far more than reading its few small files. So whoever works
out an answer looks at the project through a :class:`Tree`, which writes down all that was seen:
the digest of each file, the absence of each file that was not there, the entries of each folder.
The answer holds while a second look would see the same. Digests of content, not time stamps, so
that nothing can be missed and a touched file costs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DIGEST_LENGTH = 64


class Tree:
    """A project's folder, and what was seen in it. Paths are relative, with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, str | None] = {}
        self._present: dict[str, bool] = {}
        self._folders: dict[str, list[str]] = {}

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None when there is no such file."""
        content = _content(self.root, path)
        self._files[path] = _digest(content)
        return content

    def is_file(self, path: str) -> bool:
        """Say whether there is such a file; its content does not matter."""
        self._present[path] = present = _is_file(self.root, path)
        return present

    def folders(self, path: str) -> tuple[str, ...]:
        """Return the names of the folders in a folder, sorted; none when it does not exist."""
        self._folders[path] = names = _folders(self.root, path)
        return tuple(names)

    @property
    def seen(self) -> dict[str, Any]:
        """All that was seen so far, as a JSON document."""
        return {"files": self._files, "present": self._present, "folders": self._folders}


def program_digest(modules: Iterable[Path]) -> str:
    """Return the digest of the program's own files that work out an answer."""
    return hashlib.sha256(b"\0".join(module.read_bytes() for module in modules)).hexdigest()


def keep(cache: Path, tree: Tree, answer: Mapping[str, Any], *, program: str) -> None:
    """Keep ``answer``; a cache that cannot be written is no cache, and no error."""
    from builder.files import write_text  # late: the answer is read far more often than written

    document = {"program": program, "seen": tree.seen, "answer": answer}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    with contextlib.suppress(OSError):
        write_text(cache, f"{_text_digest(text)}{text}", durable=False)


def recall(cache: Path, root: Path, *, program: str) -> dict[str, Any] | None:
    """Return the kept answer, or None when a second look at the project may give another one."""
    try:
        text = cache.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if _text_digest(text[_DIGEST_LENGTH:]) != text[:_DIGEST_LENGTH]:
        return None
    document = json.loads(text[_DIGEST_LENGTH:])
    answer: dict[str, Any] = document["answer"]
    same = document["program"] == program and _unchanged(root, document["seen"])
    return answer if same else None


def _unchanged(root: Path, seen: Mapping[str, Any]) -> bool:
    try:
        return (
            all(_digest(_content(root, path)) == digest for path, digest in seen["files"].items())
            and all(_is_file(root, path) == present for path, present in seen["present"].items())
            and all(_folders(root, path) == names for path, names in seen["folders"].items())
        )
    except OSError:
        return False  # whoever looks again will say what cannot be read


def _content(root: Path, path: str) -> bytes | None:
    try:
        with open(f"{root}/{path}", "rb") as file:  # noqa: PTH123 - half the time of Path.read_bytes
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_file(root: Path, path: str) -> bool:
    return Path(f"{root}/{path}").is_file()


def _folders(root: Path, path: str) -> list[str]:
    try:
        with os.scandir(f"{root}/{path}") as entries:
            return sorted(
                e.name for e in entries if e.is_dir() and not e.name.startswith((".", "_"))
            )
    except (FileNotFoundError, NotADirectoryError):
        return []


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
