"""Where the reference project lies, and which files belong to it: what ``vaultbuild init`` writes.

In a checkout it is the folders of the repository, which builds it from there. A wheel has the same
files inside the package, put there by ``setup.py``, which asks :func:`files` as well. Nobody else
needs to know which of the two it is.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder import process
from builder.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKED = "reference_project"
"""The folder beside this module that a wheel has."""

_PARTS = ("ansible", "cache/README.md", "cache/etc", "packer", "stages")
_KNOWN_BY = "stages/pipeline.yml"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a project; its path is relative to that."""

    path: Path
    content: bytes
    executable: bool = False


def place() -> Path:
    """Return the folder that the reference project lies in."""
    here = Path(__file__)
    for folder in (here.with_name(PACKED), here.parents[1]):
        if (folder / _KNOWN_BY).is_file():
            return folder
    raise HostError(
        f"this installation of vaultbuild lacks its reference project: no {here.with_name(PACKED)}",
        hint="install vaultbuild again, from a wheel or from a checkout",
    )


def files(folder: Path) -> list[Path]:
    """Return the paths of its files: in a checkout what git tracks, else all that is no clutter."""
    found = _tracked(folder) if (folder / ".git").exists() and shutil.which("git") else None
    paths = _walked(folder) if found is None else found
    return sorted(path for path in paths if (folder / path).is_file())


def read(folder: Path) -> list[File]:
    """Return its files with what they hold."""
    return [
        File(path, (folder / path).read_bytes(), executable=os.access(folder / path, os.X_OK))
        for path in files(folder)
    ]


def _tracked(folder: Path) -> list[Path]:
    # As root through sudo, git mistrusts a checkout that belongs to somebody else.
    git = ["git", "-c", f"safe.directory={folder}", "ls-files", "-z", "--", *_PARTS]
    listed = process.run(git, cwd=folder).stdout
    return [Path(name) for name in listed.split("\0") if name]


def _walked(folder: Path) -> Iterator[Path]:
    for part in _PARTS:
        within = folder / part
        for path in [within] if within.is_file() else within.rglob("*"):
            relative = path.relative_to(folder)
            if not any(_is_clutter(name) for name in relative.parts):
                yield relative


def _is_clutter(name: str) -> bool:
    """Whether a file or folder comes of using a project: byte code, above all."""
    return name.startswith(".") or name.endswith(".pyc") or name == "__pycache__"
