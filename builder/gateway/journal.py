"""The gateway's journal: a line for each thing that a guest was given or refused, written at once.

:mod:`builder.network` reads it, in this process and in the one that makes checkpoints.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from builder.network import Entry

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """Appends to a file; many threads may."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def write(self, what: str, **said: Any) -> Entry:
        """Append one line. The time is now."""
        entry = Entry(what, round(time.time(), 3), **said)
        empty = Entry(what, entry.time)
        told = {
            name: value
            for name, value in asdict(entry).items()
            if value != getattr(empty, name) or name in {"what", "time"}
        }
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
        return entry
