"""Hash-locked requirements: what a lock file asks for, and asking an index through the fetcher.

The form is pip's: one requirement on a logical line, each with at least one ``--hash``. Options of
pip's command line that stand in such a file are pip's own affair and are passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import Problem, ProjectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from packaging.requirements import Requirement

    from builder.fetch import Answer, Fetcher

_HASH = re.compile(r"\s--hash[= ](\w+):([0-9a-fA-F]+)")
_COMMENT = re.compile(r"(^|\s)#.*$")
_INCLUDES = ("-r", "-c", "-e", "--requirement", "--constraint", "--editable")


@dataclass(frozen=True, slots=True)
class Locked:
    """One requirement: its text without the hashes, and the SHA-256 that may be installed."""

    text: str
    line: int
    sha256s: frozenset[str]
    requirement: Requirement

    @property
    def url(self) -> str | None:
        """The address that stands in the requirement itself, if one does."""
        return self.requirement.url

    def applies(self, environment: Mapping[str, str]) -> bool:
        """Whether a guest needs it at all: what its marker says."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate(dict(environment))


def is_lock(content: bytes) -> bool:
    """Whether a file is a hash-locked requirements file: each requirement has a hash."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    lines = [line for _, line in _logical_lines(text)]
    if any(line.startswith(_INCLUDES) for line in lines):
        return False
    wanted = [line for line in lines if not line.startswith("-")]
    return bool(wanted) and all(_HASH.search(line) for line in wanted)


def parse_lock(path: Path, content: bytes) -> tuple[Locked, ...]:
    """Return the requirements of a lock file; raise :class:`ProjectError` with all mistakes."""
    found: list[Locked] = []
    problems: list[Problem] = []
    for line, text in _logical_lines(content.decode(errors="replace")):
        if not text.startswith("-"):
            try:
                found.append(_locked(text, line))
            except ValueError as error:
                problems.append(Problem(path, str(error).splitlines()[0], line=line))
    if problems:
        hint = "a lock file lists every package with its hashes: vaultbuild lock writes one"
        raise ProjectError(problems, hint=hint)
    return tuple(found)


def _locked(text: str, line: int) -> Locked:
    # Late: packaging's grammar takes 30 ms, and `vaultbuild plan` needs none of it.
    from packaging.requirements import Requirement

    hashes = _HASH.findall(text)
    bare = _HASH.sub("", text).strip()
    if not hashes:
        raise ValueError(f"{bare} has no --hash")
    sha256s = frozenset(digest.lower() for kind, digest in hashes if kind == "sha256")
    return Locked(bare, line, sha256s, Requirement(bare))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line that says something, with its number, joined where a backslash goes on."""
    parts: list[str] = []
    first = 1
    for number, line in enumerate(text.splitlines(), 1):
        first = first if parts else number
        bare = _COMMENT.sub("", line)
        goes_on = bare.rstrip().endswith("\\") and bare == line
        parts.append(bare.rstrip().removesuffix("\\") if goes_on else bare)
        if not goes_on:
            if joined := " ".join(part.strip() for part in parts).strip():
                yield first, joined
            parts = []
    if joined := " ".join(part.strip() for part in parts).strip():
        yield first, joined


# --- for unearth ----------------------------------------------------------------------------------


class IndexSession:
    """Lets unearth ask an index through the fetcher. It never gets files: the fetcher does."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> IndexPage:
        """Return a page of the index."""
        return IndexPage.of(self._fetcher.read(url, headers=headers or {}))

    def head(self, url: str, *, headers: Mapping[str, str] | None = None) -> IndexPage:
        """Return what is said about a page."""
        return IndexPage.of(self._fetcher.head(url, headers=headers or {}))

    def get_stream(
        self, url: str, *, headers: Mapping[str, str] | None = None
    ) -> AbstractContextManager[IndexPage]:
        """Refuse: no file is fetched here."""
        raise NotImplementedError(url, headers)

    def iter_secure_origins(self) -> Iterable[tuple[str, str, str]]:
        """Trust every index: which one it is stands in the project, and every file is digested."""
        return [("*", "*", "*")]


@dataclass(slots=True)
class IndexPage:
    """An answer in the form that unearth reads. Not frozen, for its protocol is not."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    url: str | None
    encoding: str | None = "utf-8"
    reason_phrase: str = ""

    @classmethod
    def of(cls, answer: Answer) -> IndexPage:
        """Return an answer of the fetcher in that form."""
        headers = {name.title(): value for name, value in answer.headers.items()}
        return cls(answer.status, headers, answer.body, answer.url)

    def json(self) -> Any:
        """Refuse: unearth reads the content itself."""
        raise NotImplementedError

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Yield the page."""
        del chunk_size
        yield self.content

    def raise_for_status(self) -> None:
        """Do nothing: the fetcher raises."""
