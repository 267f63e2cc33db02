"""What was handed out before, under which address: a cache that gives other bytes is damaged.

Only of what never changes at its address. One line of JSON for each; may be lost at any time, and
then nothing is known until it is handed out again.
"""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, NamedTuple

from builder.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 100_000


class Known(NamedTuple):
    """The bytes at an address, as they were."""

    sha256: str
    bytes: int


class Ledger:
    """The file; runs at the same time may append to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Known] = {}
        lines = self._lines()
        for line in lines:
            try:
                cache, url, sha256, count = json.loads(line)
                self._known[cache, url] = Known(sha256, count)
            except ValueError:
                continue  # half a line, of a run that was killed
        if len(lines) > 2 * _MOST:
            self._rewrite()

    def known(self, cache: str, url: str) -> Known | None:
        """Return what an address gave before."""
        return self._known.get((cache, url))

    def learn(self, cache: str, url: str, sha256: str, count: int) -> None:
        """Remember what an address gives."""
        found = Known(sha256, count)
        with self._lock:
            if self._known.get((cache, url)) == found:
                return
            self._known[cache, url] = found
            # What cannot be remembered is only not known next time.
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([cache, url, sha256, count]) + "\n")

    def _lines(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _rewrite(self) -> None:
        """Keep the newest. What another run appends meanwhile is lost, and learned again."""
        newest = list(self._known.items())[-_MOST:]
        lines = (json.dumps([*place, *known]) + "\n" for place, known in newest)
        with contextlib.suppress(OSError):
            write_text(self._path, "".join(lines), durable=False)
