"""What files held when they were built from: so that a plan can show the lines that changed.

::

    cache/var/texts/<sha256>     a small text, as it was in some snapshot

A cache like any other: without it a plan names the file and shows no lines. What no snapshot had
for a season is forgotten.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LARGEST = 64 << 10
# A role may carry thousands of files; the first time is no time to copy them all.
_MOST_FILES = 2000
_MOST_LINES = 12
_KEPT_SECONDS = 90 * 86400


def keep(var: Path, folder: Path, held: Mapping[str, str]) -> None:
    """Keep the small files of a snapshot in ``folder``; ``held`` tells what each holds."""
    texts = var / "texts"
    texts.mkdir(parents=True, exist_ok=True)
    for path, value in islice(held.items(), _MOST_FILES):
        if not value.startswith("link:"):
            _keep(folder / path, texts / _digest(value))
    _forget(texts)


def _keep(source: Path, place: Path) -> None:
    if place.exists():
        place.touch()
    elif source.stat().st_size <= _LARGEST:
        aside = place.with_suffix(f".{os.getpid()}")
        shutil.copyfile(source, aside)
        aside.replace(place)


def _forget(texts: Path) -> None:
    youngest = time.time() - _KEPT_SECONDS
    for text in texts.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if text.stat().st_mtime < youngest:
                text.unlink()


def changed_lines(var: Path, file: Path, before: str | None) -> Iterator[str]:
    """Yield the lines of ``file`` that are not as they were, as ``diff`` writes them.

    ``before`` is what the file held, as documents tell it. Yields nothing where the text is not
    kept, is no text, or was not there.
    """
    if before is None or before.startswith("link:"):
        return
    try:
        old = (var / "texts" / _digest(before)).read_text().splitlines()
        new = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    import difflib  # late: most plans show no lines

    lines = list(difflib.unified_diff(old, new, lineterm="", n=0))[2:]
    yield from lines[:_MOST_LINES]
    if len(lines) > _MOST_LINES:
        yield f"… and {len(lines) - _MOST_LINES} lines more"


def _digest(value: str) -> str:
    return value.partition(":")[2]
