"""The gateway's journal: a line for each thing that a guest was given or refused, written at once.

:mod:`builder.network` reads it, in this process and in the one that makes checkpoints.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from builder.network import Entry

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """Appends to a file; many threads may. ``trouble`` is why a line could not be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: OSError | None = None
        self._lock = threading.Lock()

    def write(self, what: str, *, at: float | None = None, **said: Any) -> Entry:
        """Append one line, of now or of a moment ``at``; raise OSError when it cannot be."""
        entry = Entry(what, round(time.time() if at is None else at, 3), **said)
        empty = Entry(what, entry.time)
        told = {
            name: value
            for name, value in asdict(entry).items()
            if value != getattr(empty, name) or name in {"what", "time"}
        }
        with self._lock:
            try:
                self._append(f"{json.dumps(told)}\n".encode())
            except OSError as error:
                # Whoever builds must hear of it: a lock that lacks something is none.
                self.trouble = error
                raise
        return entry

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):
                os.truncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)
