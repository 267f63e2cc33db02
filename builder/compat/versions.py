"""Comparing the versions of drivers, toolkits, kernels and wheels by their leading numbers.

A version is what stands before the first sign that is neither digit nor dot, without a Debian
epoch: ``1:550.163.01-2`` is 550.163.01, ``6.12.117+deb13-cloud-amd64`` is 6.12.117,
``12.4.127~12.4.1-2`` is 12.4.127. A driver that is one number alone is a branch, and stands for the
last driver of it.
"""

from __future__ import annotations

import re

_LEADING = re.compile(r"(?:\d+:)?v?(\d+(?:\.\d+)*)")


def plain(version: str) -> str:
    """Return the leading numbers of a version as text; the empty text where there are none."""
    found = _LEADING.match(version)
    return found[1] if found else ""


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    return tuple(int(part) for part in plain(version).split(".") if part)


def minor(version: str) -> str:
    """Return the first two numbers: ``12.4.127`` is of ``12.4``."""
    return ".".join(plain(version).split(".")[:2])


def major(version: str) -> str:
    """Return the first number: ``12.4.127`` is of ``12``, the driver 550.163.01 of branch 550."""
    return plain(version).split(".")[0]


def reaches(version: str, floor: str) -> bool:
    """Whether a version is the floor or later; a branch is judged as its last driver."""
    have, least = numbers(version), numbers(floor)
    return have[0] >= least[0] if len(have) == 1 and least else have >= least


def between(version: str, bounds: tuple[str, str]) -> bool:
    """Whether the first two numbers of a version lie in a range, both ends in it."""
    return numbers(bounds[0]) <= numbers(minor(version)) <= numbers(bounds[1])
