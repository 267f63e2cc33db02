"""Name the word that was probably meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MANY = 8


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """Return a hint: the nearest of the known words, else all of them when they are few."""
    import difflib  # late: only a mistake needs it

    words = sorted(set(known))
    if near := difflib.get_close_matches(word, words, n=1):
        return f'did you mean "{near[0]}"?'
    return f"known: {', '.join(words)}" if 0 < len(words) <= _MANY else None
