"""Name the word that was probably meant."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MANY = 8


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """Return a hint: the nearest of the known words, else all of them when they are few."""
    import difflib  # late: only a mistake needs it

    words = sorted(set(known))
    if near := difflib.get_close_matches(word, words):
        # Of those that are near, people get the end wrong more often than the beginning.
        return f'did you mean "{max(near, key=lambda each: _alike(word, each))}"?'
    return f"known: {', '.join(words)}" if 0 < len(words) <= _MANY else None


def _alike(one: str, other: str) -> int:
    """Return how many letters two words begin with in common."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return len(list(pairs))
