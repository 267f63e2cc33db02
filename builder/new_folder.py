"""A folder that is there whole, or not at all: what ``vaultbuild init`` makes.

A folder that does not exist yet comes by one rename. One that exists and is empty stays the one it
is, since somebody's shell may stand in it: what was made inside is moved up, the entry by which a
project is known last.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import ChoiceError
from builder.files import commit, sync, sync_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from builder.reference import File

_SHOWN = 3
_ANOTHER = "name a folder that does not exist yet, or an empty one"


def require_free(folder: Path) -> None:
    """Raise :class:`ChoiceError` when there is something in the folder, or no folder can be."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        if folder.is_symlink():
            raise ChoiceError(f"{folder} is a link that leads nowhere", hint=_ANOTHER) from None
        return
    except NotADirectoryError:
        raise ChoiceError(f"{folder} is no folder, or is in none", hint=_ANOTHER) from None
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ChoiceError(
            f"{folder} is not empty: it has {', '.join(names[:_SHOWN])}{more}", hint=_ANOTHER
        )


def write(
    folder: Path, files: Iterable[File], *, last: str, check: Callable[[Path], object]
) -> None:
    """Put files into a folder that is free, once ``check`` has found no fault with all of them.

    ``last`` is the entry that comes after all others where they come one by one.
    """
    require_free(folder)
    was_there = folder.is_dir()
    with _staging(folder) as staged:
        for file in files:
            _write(staged / file.path, file)
        check(staged)
        if was_there:
            _fill(folder, staged, last)
        elif not commit(staged, folder):
            require_free(folder)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield a new folder on the file system that ``folder`` is or will be on."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    aside = Path(tempfile.mkdtemp(prefix=".vaultbuild-init-", dir=above))
    try:
        staged = aside / "new"  # of the mode that folders have here; a temporary one is its maker's
        staged.mkdir()
        yield staged
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(path: Path, file: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)
    if file.executable:
        mode = path.stat().st_mode
        path.chmod(mode | (mode & 0o444) >> 2)  # whoever may read it


def _fill(folder: Path, staged: Path, last: str) -> None:
    sync_tree(staged)
    entries = sorted(staged.iterdir(), key=lambda entry: entry.name == last)
    try:
        for entry in entries:
            entry.rename(folder / entry.name)
    except BaseException:
        for entry in entries:
            if not entry.exists():
                (folder / entry.name).rename(entry)  # what was moved goes with the rest
        raise
    sync(folder)
