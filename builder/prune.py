"""What of the store stays and what goes: decided first, with a reason for each, and then done.

Nothing goes that something kept stands on. What can never go: the images that runs would use as the
project's files are now, the last one made of each stage of each variant, what the next run goes on
from, what is in use, and all that these stand on. What stays unless the store must fit into a size:
the newest few images of each stage, and checkpoints that an edit may go on from.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from builder.digest import short
from builder.holdings import Entry, chain, last_change
from builder.scratch import remove_staging

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from builder.store import Store

DAY = 24 * 3600.0
_EVIDENCE_DAYS = 30
_FAILED_DAYS = 7

Reasons = dict[str, str]
"""By place: why something stays, or why it goes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked for, and what is known beside the store.

    ``current`` is by place what runs would use as the files are now, with the place of the image of
    its stage; None when that is not known. ``last`` are the places of the images that were used
    last. ``older_than``, in seconds, keeps what was used since; ``max_bytes`` is what may be left.
    """

    now: float
    current: Mapping[str, str] | None = None
    last: Collection[str] = ()
    keep: int = 3
    max_bytes: int | None = None
    older_than: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What happens to an entry, and why."""

    entry: Entry
    action: Literal["keep", "remove"]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the choice as ``cache prune --json`` tells it."""
        names = ("place", "kind", "key", "variant", "stage", "role", "bytes")
        told = {name: getattr(self.entry, name) for name in names}
        return {"action": self.action, **told, "reason": self.reason}


def decide(entries: Sequence[Entry], rules: Rules) -> tuple[Choice, ...]:
    """Say of each entry whether it stays; what goes comes first, in the order it is to go in."""
    layers = {entry.place: entry for entry in entries if entry.is_layer}
    fixed = _with_chains(dict(_fixed(entries, layers, rules)), layers)
    stays = _with_chains(dict(_wanted(layers, rules)), layers) | fixed
    goes = {entry.place: _not_needed(entry, rules) for entry in layers.values()}
    goes = {place: reason for place, reason in goes.items() if place not in stays}
    for entry in entries:
        if not entry.is_layer and entry.kind != "verdicts":
            _judge_alone(entry, layers, rules, stays, goes)
    _fit(entries, fixed, rules, goes)
    _judge_verdicts(entries, stays, goes)
    return (
        *(Choice(entry, "remove", goes[entry.place]) for entry in _furthest_first(entries, goes)),
        *(Choice(each, "keep", stays[each.place]) for each in entries if each.place not in goes),
    )


def bytes_of(choices: Iterable[Choice], action: str) -> int:
    """Return what the entries take that are kept, or that are removed."""
    return sum(choice.entry.bytes for choice in choices if choice.action == action)


# --- images and checkpoints -----------------------------------------------------------------------


def _fixed(
    entries: Iterable[Entry], layers: Mapping[str, Entry], rules: Rules
) -> Iterator[tuple[str, str]]:
    """Yield what stays whatever is asked for."""
    for entry in entries:
        if entry.kind == "failed" and not _is_over(entry, rules, _FAILED_DAYS) and entry.below:
            yield entry.below, f"the kept disk {entry.place} stands on it"
    for name, images, checkpoints in _by_stage(layers.values()):
        if newer := _newer(images, checkpoints):
            # In one second there may be two: the one on the longer chain came later.
            newest = max(newer, key=lambda each: (each.created, len([*chain(each, layers)])))
            yield newest.place, f"the next run of {name} may go on from it"
        if images:
            yield images[0].place, f"the last that was made of {name}"
    for entry in layers.values():
        yield from _fixed_by_runs(entry, layers, rules)
    yield from ((entry.place, "in use") for entry in layers.values() if entry.held)


def _fixed_by_runs(
    entry: Entry, layers: Mapping[str, Entry], rules: Rules
) -> Iterator[tuple[str, str]]:
    """Yield an entry that a run would use as the files are now, or that one used last."""
    if entry.place in rules.last:
        yield entry.place, "the last that a run used"
    image = (rules.current or {}).get(entry.place)
    if image == entry.place:
        yield entry.place, "current"
    elif image and image not in layers:
        yield entry.place, f"the next run of {entry.stage} goes on from it"


def _wanted(layers: Mapping[str, Entry], rules: Rules) -> Iterator[tuple[str, str]]:
    """Yield what stays while there is room."""
    for entry in layers.values():
        age = rules.now - entry.used
        if rules.older_than is not None and age < rules.older_than:
            yield entry.place, f"used {_days(age)} ago"
        if entry.kind == "checkpoint" and rules.current is None:
            yield entry.place, "whether it is current is not known"
        elif entry.place in (rules.current or {}):
            yield entry.place, "an edit of a later role goes on from it"
    for name, images, checkpoints in _by_stage(layers.values()):
        newer = _newer(images, checkpoints)
        yield from ((each.place, f"newer than the last image of {name}") for each in newer)
        newest = images[: rules.keep]
        yield from ((each.place, f"one of the newest {rules.keep} of {name}") for each in newest)


def _by_stage(layers: Iterable[Entry]) -> Iterator[tuple[str, list[Entry], list[Entry]]]:
    """Yield each stage of each variant with its images and checkpoints, the newest first."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(layers, key=lambda each: (-each.created, each.place)):
        found.setdefault((entry.variant, entry.stage), []).append(entry)
    for (_, stage), entries in sorted(found.items()):
        images = [entry for entry in entries if entry.kind == "image"]
        yield stage, images, [entry for entry in entries if entry.kind == "checkpoint"]


def _newer(images: Sequence[Entry], checkpoints: Iterable[Entry]) -> list[Entry]:
    """Return the checkpoints of attempts that came to no image, since the last that did."""
    made = images[0].created if images else float("-inf")
    return [each for each in checkpoints if each.created > made]


def _with_chains(reasons: Reasons, layers: Mapping[str, Entry]) -> Reasons:
    """Add all that the places in ``reasons`` stand on."""
    kept = [layers[place] for place in reasons if place in layers]
    below = {each.place: f"{entry} stands on it" for entry in kept for each in chain(entry, layers)}
    return below | reasons


def _not_needed(entry: Entry, rules: Rules) -> str:
    if entry.kind == "checkpoint":
        return "no image that is kept stands on it, and no run would go on from it"
    return f"older than the newest {rules.keep} of {entry.stage}"


# --- what stands alone ----------------------------------------------------------------------------


def _judge_alone(
    entry: Entry, layers: Mapping[str, Entry], rules: Rules, stays: Reasons, goes: Reasons
) -> None:
    """Say of quarantine, logs and the like whether it stays."""
    standing = [each for each in layers.values() if each.below == entry.place]
    limit = _FAILED_DAYS if entry.kind == "failed" else _EVIDENCE_DAYS
    if entry.held:
        stays[entry.place] = "in use"
    elif entry.kind == "staging":
        goes[entry.place] = "abandoned: its run is gone"
    elif standing:
        stays[entry.place] = f"{standing[0]} stands on it"
    elif _is_over(entry, rules, limit):
        goes[entry.place] = f"{_told(entry)}older than {limit} days"
    else:
        stays[entry.place] = f"{_told(entry)}{_days(rules.now - entry.used)} old"


def _is_over(entry: Entry, rules: Rules, days: int) -> bool:
    return not entry.held and rules.now - entry.used > days * DAY


def _told(entry: Entry) -> str:
    return f"does not count ({entry.broken}), " if entry.broken else ""


def _judge_verdicts(entries: Iterable[Entry], stays: Reasons, goes: Reasons) -> None:
    """Keep the verdicts on the images that stay."""
    there = {each.place for each in entries if each.kind in {"image", "broken"}} - goes.keys()
    for entry in entries:
        if entry.kind == "verdicts" and f"images/{entry.key}" in there:
            stays[entry.place] = "its image is kept"
        elif entry.kind == "verdicts":
            goes[entry.place] = "its image is gone"


def _days(seconds: float) -> str:
    count, unit = (int(seconds / DAY), "day") if seconds >= DAY else (int(seconds / 3600), "hour")
    return f"{count} {unit}{'s' * (count != 1)}"


# --- making it fit --------------------------------------------------------------------------------


def _fit(entries: Sequence[Entry], fixed: Reasons, rules: Rules, goes: Reasons) -> None:
    """Let more go until the rest fits: evidence first, then what was not used for longest."""
    if rules.max_bytes is None:
        return
    left = sum(entry.bytes for entry in entries if entry.place not in goes)
    while left > rules.max_bytes and (spare := _spare(entries, fixed, goes)):
        entry = min(spare, key=lambda each: (each.is_layer, each.used, each.place))
        goes[entry.place] = f"last used {_days(rules.now - entry.used)} ago, and the store is full"
        left -= entry.bytes


def _spare(entries: Sequence[Entry], fixed: Reasons, goes: Reasons) -> list[Entry]:
    """Return what may go: nothing that is left stands on it."""
    left = [entry for entry in entries if entry.place not in goes]
    carrying = {entry.below for entry in left}
    return [
        entry
        for entry in left
        if (entry.is_layer or entry.kind in {"quarantine", "broken"})
        and entry.place not in fixed
        and entry.place not in carrying
        and not entry.held
    ]


def _furthest_first(entries: Iterable[Entry], goes: Collection[str]) -> Iterator[Entry]:
    """Yield what goes: what stands alone, checkpoints before images, the oldest first.

    Nothing before what stands on it. Verdicts come last, when their images are truly gone.
    """
    left = {entry.place: entry for entry in entries if entry.place in goes}
    while left:
        carrying = {entry.below for entry in left.values()}
        free = [entry for entry in left.values() if entry.place not in carrying]
        entry = min(free, key=lambda each: (_ORDER.get(each.kind, 0), each.used, each.place))
        yield left.pop(entry.place)


_ORDER = {"checkpoint": 1, "image": 2, "verdicts": 3}


# --- doing it -------------------------------------------------------------------------------------


def carry_out(choices: Iterable[Choice], store: Store) -> tuple[Choice, ...]:
    """Remove what is to go; return what became of each choice.

    What somebody has begun to use since it was decided stays, and so does what that stands on.
    """
    return tuple(_carry_out(choice, store) for choice in choices)


def _carry_out(choice: Choice, store: Store) -> Choice:
    if choice.action == "keep":
        return choice
    remove = _REMOVERS.get(choice.entry.kind, _remove_held)
    try:
        obstacle = remove(choice.entry, store)
    except OSError as error:
        obstacle = f"it cannot be removed: {error.strerror}"
    return replace(choice, action="keep", reason=obstacle) if obstacle else choice


def _remove_held(entry: Entry, store: Store) -> str | None:
    """Remove what has a lock, under that lock; return what is in the way."""
    with store.try_locked(entry.key) as held:
        if not held:
            return "in use"
        if store.last_locked(entry.key) > entry.used:
            return "used since this was decided"
        if standing := store.standing_on(entry.place):
            kind, _, key = standing[0].partition("/")
            return f"{kind.removesuffix('s')} {short(key)} stands on it"
        store.remove(entry.place)
    return None


def _remove_failed(entry: Entry, store: Store) -> str | None:
    with store.try_locked(entry.key) as held:
        return _remove_alone(entry, store) if held else "in use"


def _remove_staging(entry: Entry, store: Store) -> str | None:
    folder = store.root / entry.place
    remove_staging(folder)
    return "in use" if folder.exists() else None


def _remove_verdicts(entry: Entry, store: Store) -> str | None:
    there = (store.root / "images" / entry.key).exists()
    return "its image is kept" if there else _remove_alone(entry, store)


def _remove_module(entry: Entry, store: Store) -> str | None:
    (store.root / entry.place).unlink()
    return None


def _remove_alone(entry: Entry, store: Store) -> str | None:
    folder = store.root / entry.place
    if last_change(folder) > entry.used:
        return "changed since this was decided"
    shutil.rmtree(folder)
    return None


_REMOVERS: dict[str, Callable[[Entry, Store], str | None]] = {
    "failed": _remove_failed,
    "staging": _remove_staging,
    "verdicts": _remove_verdicts,
    "quarantine": _remove_alone,
    "logs": _remove_alone,
    "modules": _remove_module,
}
