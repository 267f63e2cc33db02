"""What a stage calls a role: by its name, or by that and a name of this use's own.

A stage may use a role several times, with different variables: one environment for each framework.
Each use is told apart wherever roles are named - in keys, checkpoints, plans, events, the history -
by what the stage calls it: ``python_frameworks`` and ``python_frameworks:torch``.
"""

from __future__ import annotations

_BETWEEN = ":"


def called(role: str, own: str | None) -> str:
    """Return what a stage calls a role whose use has a name of its own, or none."""
    return f"{role}{_BETWEEN}{own}" if own else role


def role_of(name: str) -> str:
    """Return the role that a stage calls ``name``."""
    return name.partition(_BETWEEN)[0]


def as_folder(name: str) -> str:
    """Return ``name`` as a folder can have it: lists of paths are written with colons."""
    return name.replace(_BETWEEN, "-")
