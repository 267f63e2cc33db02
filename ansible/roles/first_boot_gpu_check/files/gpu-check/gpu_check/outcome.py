"""What a check says: an outcome, a sentence, and what it saw.

A check is a function of the machine. It returns what it said, or raises one of two exceptions: it
``Failed``, or it was ``Skipped`` since it could not look. One that stumbles has failed: it is not
known that the machine is right.
"""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_check.machine import Machine

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
# Of what a program printed, so much is kept: a table of eight GPUs fits, a dump does not.
MAX_EVIDENCE = 8000


@dataclass(frozen=True)
class Said:
    """What a check that passed said. ``evidence`` is what it saw, as text."""

    message: str
    evidence: str = ""


class Failed(Exception):  # noqa: N818 - an outcome, as the others are
    """The machine is not as it must be."""

    def __init__(self, message: str, evidence: str = "") -> None:
        super().__init__(message)
        self.evidence = evidence


class Skipped(Exception):  # noqa: N818 - an outcome, as the others are
    """Nobody could look; the text says why."""


@dataclass(frozen=True)
class Check:
    """A question to the machine. ``id`` never changes: results are compared by it."""

    id: str
    title: str
    ask: Callable[[Machine], Said]


@dataclass(frozen=True)
class Result:
    """What one check said. ``outcome`` is passed, failed or skipped."""

    id: str
    title: str
    outcome: str
    message: str
    evidence: str = ""
    seconds: float = 0.0


def carry_out(check: Check, machine: Machine) -> Result:
    """Ask one check; whatever happens is its result."""
    started = time.monotonic()
    result = _asked(check, machine)
    seconds = round(time.monotonic() - started, 2)
    return replace(result, seconds=seconds, evidence=result.evidence[:MAX_EVIDENCE])


def _asked(check: Check, machine: Machine) -> Result:
    try:
        said = check.ask(machine)
    except Skipped as reason:
        return Result(check.id, check.title, SKIPPED, str(reason))
    except Failed as error:
        return Result(check.id, check.title, FAILED, str(error), error.evidence)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        message = f"the check itself broke: {error!r}"
        return Result(check.id, check.title, FAILED, message, traceback.format_exc())
    return Result(check.id, check.title, PASSED, said.message, said.evidence)
