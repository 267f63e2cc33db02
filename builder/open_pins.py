"""Pins that nobody has filled in yet: a text that says what to type to know what to write there.

``sha256: "fill in: vaultbuild lock image"`` holds the place of a checksum. Such a text may stand
where a checksum or a variable of a role is wanted. The project is read and judged as if it were a
value, and a variant that has one is not planned.
"""

from __future__ import annotations

MARK = "fill in: "


def is_open(value: object) -> bool:
    """Whether a value is a pin that is not filled in."""
    return isinstance(value, str) and value.startswith(MARK) and value != MARK


def command(value: str) -> str:
    """Return what an open pin says to type."""
    return value.removeprefix(MARK)
