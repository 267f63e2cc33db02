"""Try a stage again whose failure passes by itself: a mirror in sync, a connection that broke.

Only that. A stage goes on from its last checkpoint, so the unit that is repeated is the role that
failed, on the disk as it was before. What fails for good, and what nobody can tell, is told at once
(docs/decisions/0010-retries-and-breakers.md).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from builder.errors import VaultbuildError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a stage is tried, for how long after its first failure, and the pauses between.

    Seconds; a pause is anything up to what is said here, which doubles, and at least the least:
    what is out of order in a mirror is rarely right in the next moment.
    """

    attempts: int = 3
    total: float = 900
    least: float = 2
    first: float = 10
    most: float = 60

    def pause(self, failures: int) -> float:
        """Return how long to wait after so many failures."""
        longest = min(self.most, self.first * 2 ** (failures - 1))
        return random.uniform(self.least, max(self.least, longest))  # noqa: S311 - no secret


def persevere(
    work: Callable[[], _T],
    patience: Patience,
    told: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> _T:
    """Return what ``work`` returns, after as many attempts as its failures are worth.

    Raises what its last attempt raised.
    """
    began: float | None = None
    for number in range(1, patience.attempts + 1):
        try:
            return work()
        except VaultbuildError as error:
            began = clock() if began is None else began
            pause = patience.pause(number)
            late = clock() + pause - began > patience.total
            if not passes(error) or number == patience.attempts or late:
                raise
            of = f"attempt {number + 1} of {patience.attempts}"
            told(f"{_first_line(error)}; {error.cause}; {of} in {pause:.0f} s")
        sleep(pause)
    raise ValueError("patience for no attempt at all")


def passes(error: VaultbuildError) -> bool:
    """Whether what failed mostly works a little later."""
    from builder.fetch.transient import TransientError  # late: only failures need it

    known = error.cause is not None and error.cause.passes
    return known or isinstance(error, TransientError)


def _first_line(error: VaultbuildError) -> str:
    return error.message.splitlines()[0]
