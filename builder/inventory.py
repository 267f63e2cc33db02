"""What the caches and the store hold, gave and give up, as the lines that a person is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.digest import short
from builder.report import duration, size, table

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from builder.caches import Holds, Status, kept
    from builder.fetch.breaker import State
    from builder.gateway import Sum
    from builder.holdings import Amount, Entry, StageShare
    from builder.prefetch import Warmed
    from builder.prune import Choice


def warm_lines(done: Warmed) -> Iterable[str]:
    """Yield what came of warming: what is not as the lock says, then a sum."""
    for one in done.found:
        if one.state not in {"present", "fetched"}:
            yield f"{one.state:<8}{one.want.cache:<6}{one.want.url}  {one.why}".rstrip()
    for url in done.beyond:
        yield f"beyond  {url}: no cache has what is fetched past them"
    for what in done.left:
        yield f"left    {what}: the budget is used up"
    counts: dict[str, int] = {}
    for one in done.found:
        counts[one.state] = counts.get(one.state, 0) + 1
    told = [f"{count} {state}" for state, count in counts.items()]
    told += [f"{len(house.wheels)} wheels" for house in done.provided.wheels]
    told += [f"model {model.repo}" for model in done.provided.models]
    told += [done.image.path.name] if done.image else []
    nothing = "nothing whole" if done.left else "nothing to warm"
    yield f"{', '.join(told) or nothing}; {size(done.received)} fetched"


def store_lines(entries: Sequence[Entry], current: Container[str], free: int) -> Iterable[str]:
    """Yield what the store holds, by variant and stage, and what stands alone."""
    from builder import holdings  # late: a plan does without

    layers = {entry.place: entry for entry in entries if entry.is_layer}
    rows = [_share_row(share, layers) for share in holdings.shares(entries, current)]
    head = ("variant", "stage", "images", "checkpoints", "old", "current")
    yield from table([head, *rows]) if rows else ()
    for kind in holdings.KINDS_ALONE:
        found = holdings.amount(entry for entry in entries if entry.kind == kind)
        if found.count:
            yield f"{kind:<12}{_amount(found)}"
    yield f"{'total':<12}{size(holdings.amount(entries).bytes)}, {size(free)} free"


def _share_row(share: StageShare, layers: Mapping[str, Entry]) -> tuple[str, ...]:
    from builder import holdings  # late: a plan does without

    current = ", ".join(
        f"{short(image.key)} {size(image.bytes)}"
        f" on {size(holdings.amount(holdings.chain(image, layers)).bytes)}"
        for image in share.current
    )
    counts = map(_amount, (share.images, share.checkpoints, share.old))
    return (share.variant, share.stage, *counts, current or "none")


def _amount(found: Amount) -> str:
    return f"{found.count}, {size(found.bytes)}" if found.count else "none"


def prune_lines(choices: Sequence[Choice], *, verbose: bool) -> Iterable[str]:
    """Yield what goes and what stays, and why; logs and verdicts that stay only when asked."""
    stay = [choice for choice in choices if choice.action == "keep"]
    stay.sort(key=lambda each: (each.entry.variant, each.entry.created, each.entry.place))
    shown = [each for each in stay if verbose or each.entry.kind not in {"logs", "verdicts"}]
    rows = [
        (choice.action, *_entry_cells(choice.entry), choice.reason)
        for choice in (*(each for each in choices if each.action == "remove"), *shown)
    ]
    yield from table(rows) if rows else ()


def _entry_cells(entry: Entry) -> tuple[str, ...]:
    if not entry.is_layer:
        kind, _, name = entry.place.rpartition("/")
        return (entry.kind, short(name) if kind == "verdicts" else name, "", size(entry.bytes))
    role = f", {entry.role}" if entry.role else ""
    return (
        entry.kind, short(entry.key), f"{entry.variant} {entry.stage}{role}", size(entry.bytes),
    )  # fmt: skip


def cache_lines(found: Sequence[Status], holds: Mapping[str, Holds]) -> Iterable[str]:
    """Yield the caches: what runs where, and what each keeps."""
    yield from table([_cache_row(status, holds[status.name]) for status in found])


def _cache_row(status: Status, holds: Holds) -> tuple[str, ...]:
    mode = f"{status.state}, offline" if status.offline else status.state
    if not holds.files:
        return (status.name, mode, status.url or "", "", "")
    count = f"{holds.files} file{'s' * (holds.files != 1)}"
    return (status.name, mode, status.url or "", count, size(holds.bytes))


def breaker_lines(breakers: Sequence[State]) -> Iterable[str]:
    """Yield the servers that are not asked for now, and since what."""
    for breaker in breakers:
        yield f"not asked for now: {breaker.endpoint} ({breaker.state}): {breaker.cause}"


def kept_lines(choices: Sequence[kept.Choice], *, verbose: bool) -> Iterable[str]:
    """Yield what goes and what stays of the caches: in numbers, and file by file when asked."""
    if verbose:
        rows = [(c.action, c.item.place, size(c.item.bytes), c.reason) for c in choices]
        yield from table(rows) if rows else ()
        return
    rows = []
    for name in dict.fromkeys(choice.item.cache for choice in choices):
        for action in ("remove", "keep"):
            found = [c for c in choices if (c.item.cache, c.action) == (name, action)]
            total = sum(choice.item.bytes for choice in found)
            files = f"{len(found)} file{'s' * (len(found) != 1)}"
            rows += [(action, name, files, size(total))] if found else []
    yield from table(rows) if rows else ()


def saving_lines(sums: Mapping[str, Sum]) -> Iterable[str]:
    """Yield what each cache gave since it is counted, and what that saved."""
    rows = []
    for name, one in sums.items():
        saved = one.saved(one.pace)
        rows.append(
            (
                name,
                f"{one.hits} hits, {size(one.cache_bytes)} from the cache",
                f"{one.misses} misses, {size(one.upstream_bytes)} from upstream",
                f"{duration(saved)} saved" if saved else "",
            )
        )
    yield from table(rows) if rows else ()
