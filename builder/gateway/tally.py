"""What the caches gave and saved, by cache: of one run, and of all runs so far.

Time that was saved is what the same bytes would have taken at the pace of the downloads that were
timed, less what the cache took. Before anything was timed, nobody knows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from builder import files
from builder.network import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from builder.network import Entry


@dataclass(frozen=True, slots=True)
class Sum:
    """What one cache gave: how often, how many bytes, in how many seconds, and from where."""

    hits: int = 0
    misses: int = 0
    cache_bytes: int = 0
    upstream_bytes: int = 0
    cache_seconds: float = 0
    upstream_seconds: float = 0

    def __add__(self, other: Sum) -> Sum:
        mine, others = asdict(self), asdict(other)
        return Sum(**{name: mine[name] + others[name] for name in mine})

    def saved(self, pace: float | None) -> float | None:
        """Return the seconds that hits saved at ``pace``, bytes per second; never less than 0."""
        if not self.cache_bytes:
            return 0.0
        return max(0.0, self.cache_bytes / pace - self.cache_seconds) if pace else None

    @property
    def pace(self) -> float | None:
        """Bytes per second of what came from upstream."""
        return self.upstream_bytes / self.upstream_seconds if self.upstream_seconds else None


class Tally:
    """The sums of all runs, in a file that may be lost."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Sum]:
        """Return the sums by cache; what cannot be read is nothing."""
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            return {name: Sum(**each) for name, each in document["caches"].items()}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def add(self, journal: Iterable[Entry]) -> Traffic:
        """Count what a run was given; return it, with the time that it saved."""
        run = sums(journal)
        with files.lock(self._path.with_suffix(".lock")):
            before = self.read()
            total = {name: before.get(name, Sum()) + run.get(name, Sum()) for name in before | run}
            document = {"schema": 1, "caches": {name: asdict(each) for name, each in total.items()}}
            files.write_json(self._path, document, durable=False)
        return traffic(run, total)


def sums(journal: Iterable[Entry]) -> dict[str, Sum]:
    """Return what each cache gave, by its name."""
    found: dict[str, Sum] = {}
    for each in journal:
        if each.what == "handed":
            found[each.cache] = found.get(each.cache, Sum()) + _sum(each)
    return found


def traffic(run: Mapping[str, Sum], total: Mapping[str, Sum]) -> Traffic:
    """Return a run's sums as one; ``total`` has the pace of all downloads that were timed."""
    saved = [each.saved(total[name].pace) for name, each in run.items()]
    known = [seconds for seconds in saved if seconds is not None]
    whole = sum(run.values(), Sum())
    found = Traffic(whole.hits, whole.misses, whole.cache_bytes, whole.upstream_bytes)
    return replace(found, saved=round(sum(known), 1) if len(known) == len(saved) else None)


def _sum(entry: Entry) -> Sum:
    if entry.origin == "upstream":
        return Sum(misses=1, upstream_bytes=entry.bytes, upstream_seconds=entry.seconds)
    return Sum(hits=1, cache_bytes=entry.bytes, cache_seconds=entry.seconds)
