"""What a guest took of its host's memory, left in the run's logs by whoever ran it.

The largest process, not the sum of all: Linux keeps it for every tree of processes that ended, so
it costs nothing and needs no control group of memory. What a build needs is at least that.
"""

from __future__ import annotations

import json
import resource
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "usage.json"
_LARGEST: Final = "largest_process_bytes"


def write(logs: Path) -> None:
    """Write down the largest of the processes that ended below this one, at any depth."""
    kibibytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    (logs / FILE).write_text(json.dumps({_LARGEST: kibibytes * 1024}) + "\n")


def largest_process(logs: Path) -> int | None:
    """Return the bytes that the guest's largest process held; None when nobody counted."""
    try:
        return int(json.loads((logs / FILE).read_bytes())[_LARGEST])
    except (OSError, ValueError, KeyError, TypeError):
        return None
