"""What the caches keep, and what of it may go: decided first, with a reason for each, then done.

The time of an item's last use is that of its last reading, as far as the file system keeps it: most
do so once a day, which is enough for ages in days.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_BLOCK = 512
_DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a cache. ``place`` is relative to ``cache/var``, ``parts`` go with it.

    ``current`` says why it must stay though nobody used it: an index that is in force, a package
    that exists nowhere else.
    """

    cache: str
    place: str
    bytes: int
    used: float
    current: str | None = None
    held: bool = False
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Holds:
    """What a cache keeps, in numbers. ``oldest_use`` is in seconds since 1970."""

    files: int = 0
    bytes: int = 0
    oldest_use: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as ``cache status --json`` tells them."""
        told = self.oldest_use and dt.datetime.fromtimestamp(int(self.oldest_use), dt.UTC)
        oldest = told.isoformat().replace("+00:00", "Z") if told else None
        return {"files": self.files, "bytes": self.bytes, "oldest_use": oldest}


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked for. ``older_than``, in seconds, keeps what was used since.

    ``max_bytes`` is what all the caches that are pruned may take together.
    """

    now: float
    older_than: float | None = None
    max_bytes: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was asked for, so that nothing goes."""
        return self.older_than is None and self.max_bytes is None


@dataclass(frozen=True, slots=True)
class Choice:
    """What happens to an item, and why."""

    item: Item
    action: Literal["keep", "remove"]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the choice as ``cache prune --json`` tells it."""
        item = self.item
        told = {"cache": item.cache, "place": item.place, "bytes": item.bytes}
        return {"action": self.action, **told, "reason": self.reason}


def held(item: Item) -> Item:
    """Return the item of a cache that a run uses."""
    return replace(item, held=True)


def holds(items: Iterable[Item]) -> Holds:
    """Count what there is."""
    found = tuple(items)
    return Holds(
        files=len(found),
        bytes=sum(item.bytes for item in found),
        oldest_use=min((item.used for item in found), default=None),
    )


def decide(items: Iterable[Item], rules: Rules) -> tuple[Choice, ...]:
    """Say of each item whether it stays; what goes comes first, the longest unused before others.

    What is current or in use always stays. Where a size is asked for, what was not used for longest
    goes until the rest fits; an age that is asked for as well protects what was used since.
    """
    ordered = sorted(items, key=lambda item: (item.used, item.place))
    left = sum(item.bytes for item in ordered)
    choices = []
    for item in ordered:
        choice = _decided(item, rules, left)
        left -= item.bytes if choice.action == "remove" else 0
        choices.append(choice)
    return tuple(sorted(choices, key=lambda choice: choice.action == "keep"))


def _decided(item: Item, rules: Rules, left: int) -> Choice:
    age = rules.now - item.used
    if item.held or item.current:
        return Choice(item, "keep", item.current or "in use")
    if rules.empty:
        return Choice(item, "keep", "neither an age nor a size was asked for")
    if rules.older_than is not None and age < rules.older_than:
        return Choice(item, "keep", f"used {_days(age)} ago")
    if rules.max_bytes is None:
        return Choice(item, "remove", f"last used {_days(age)} ago")
    if left > rules.max_bytes:
        return Choice(item, "remove", f"last used {_days(age)} ago, and the caches are full")
    return Choice(item, "keep", "the caches fit")


def carry_out(choices: Iterable[Choice], drop: Callable[[Item], bool]) -> tuple[Choice, ...]:
    """Remove what is to go with ``drop``; return what became of each choice."""
    return tuple(_carried_out(choice, drop) for choice in choices)


def _carried_out(choice: Choice, drop: Callable[[Item], bool]) -> Choice:
    if choice.action == "keep":
        return choice
    try:
        gone = drop(choice.item)
    except OSError as error:
        return replace(choice, action="keep", reason=f"it cannot be removed: {error.strerror}")
    return choice if gone else replace(choice, action="keep", reason="used since this was decided")


def bytes_of(choices: Iterable[Choice], action: str) -> int:
    """Return what the items take that are kept, or that are removed."""
    return sum(choice.item.bytes for choice in choices if choice.action == action)


# --- files ----------------------------------------------------------------------------------------


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; what goes while one looks is left out."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def item_of(cache: str, var: Path, path: Path, **more: Any) -> Item | None:
    """Return a file as an item; None when it is gone by now."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        return Item(
            cache=cache,
            place=str(path.relative_to(var)),
            bytes=found.st_blocks * _BLOCK,
            used=max(found.st_atime, found.st_mtime),
            **more,
        )
    return None


def last_use(path: Path) -> float:
    """Return when a file was last read or written; 0 when it is gone."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        return max(found.st_atime, found.st_mtime)
    return 0.0


def drop(var: Path, item: Item) -> bool:
    """Remove an item's files unless it was used since it was looked at; say whether it is gone.

    The parts go after what they describe: half of it must never pass for the whole.
    """
    if last_use(var / item.place) > item.used:
        return False
    for place in (item.place, *item.parts):
        (var / place).unlink(missing_ok=True)
    _tidy((var / item.place).parent, var / item.cache)
    return True


def _tidy(folder: Path, root: Path) -> None:
    """Remove folders that are empty now, up to the cache's own."""
    while folder != root and root in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _days(seconds: float) -> str:
    count, unit = (int(seconds / _DAY), "day") if seconds >= _DAY else (int(seconds / 3600), "hour")
    return f"{count} {unit}{'s' * (count != 1)}"


def found_items(items: Iterable[Item | None]) -> Sequence[Item]:
    """Return the items that are still there."""
    return [item for item in items if item is not None]
