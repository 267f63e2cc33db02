"""The network lock: what the caches handed out while an image was built, byte for byte.

A guest gets everything through the gateway, which writes a line into a journal for each thing. When
the stage is done, the journal becomes ``network.json`` beside the image's record: each file once,
with its SHA-256 and the role that asked for it. A checkpoint has the lock up to its role, so that a
stage that goes on after it still knows all that is inside.

======== ===================================================================================
in lock  meaning
======== ===================================================================================
handed   what came through a cache. ``kind`` is ``file`` where an address always gives the same
         bytes (a package, a wheel), ``index`` where upstream may have moved since (InRelease).
         ``from`` is ``cache``, ``upstream``, or ``stale`` where upstream could not be asked
refused  addresses that a role asked for and was not let to
tunnels  addresses that a role spoke to directly, because its stage allows it: nobody knows what
         they said, so no build without a network can repeat it
======== ===================================================================================
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from builder.errors import Cause
from builder.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.errors import VaultbuildError
    from builder.events import Event

LOCK: Final = "network.json"
"""The file's name, beside a record."""
JOURNAL: Final = "network.jsonl"
"""The gateway's file, among a run's logs."""
SCHEMA: Final = 1
_OF_THE_NETWORK = {
    "name-not-resolved", "network-unreachable", "apt-cache-refused", "connection-lost",
    "pip-connection-lost", "pip-index-refused", "apt-connection-lost",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Handed:
    """One thing that a cache handed out.

    ``url`` is absolute for apt and for images, relative to the cache's own URL otherwise. ``role``
    is None for what the root's source is made of.
    """

    cache: str
    url: str
    sha256: str
    bytes: int
    kind: str
    origin: str
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """An address that a role was not let to, and how often it asked."""

    address: str
    role: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An address that a role spoke to directly, and the bytes each way."""

    address: str
    role: str | None
    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a run's network cost. ``saved`` is in seconds, None where no download was ever timed."""

    hits: int = 0
    misses: int = 0
    cache_bytes: int = 0
    upstream_bytes: int = 0
    saved: float | None = None

    def __add__(self, other: Traffic) -> Traffic:
        known = [each.saved for each in (self, other) if each.saved is not None]
        return Traffic(
            self.hits + other.hits,
            self.misses + other.misses,
            self.cache_bytes + other.cache_bytes,
            self.upstream_bytes + other.upstream_bytes,
            sum(known) if known else None,
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Traffic:
        """Return the traffic in a record's ``network``; nothing where it has none."""
        found = document.get("traffic") or {}
        return cls(**found)


@dataclass(frozen=True, slots=True)
class NetworkLock:
    """Everything that came over the network into an image, beyond what stands below it."""

    mode: str
    offline: bool = False
    handed: tuple[Handed, ...] = ()
    refused: tuple[Refused, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the document that :meth:`from_json` reads."""
        return {
            "schema": SCHEMA,
            "mode": self.mode,
            "offline": self.offline,
            "handed": [_told(one) for one in self.handed],
            "refused": [asdict(one) for one in self.refused],
            "tunnels": [asdict(one) for one in self.tunnels],
        }

    @classmethod
    def from_json(cls, document: Any) -> NetworkLock:
        """Read a document; raise ValueError that says why it is none."""
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"it is no network lock of schema {SCHEMA}")
        try:
            return cls(
                mode=document["mode"],
                offline=document["offline"],
                handed=tuple(_handed(one) for one in document["handed"]),
                refused=tuple(Refused(**one) for one in document.get("refused", ())),
                tunnels=tuple(Tunnel(**one) for one in document.get("tunnels", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is incomplete: {error}") from error


def _told(one: Handed) -> dict[str, Any]:
    return {"from" if name == "origin" else name: value for name, value in asdict(one).items()}


def _handed(document: Mapping[str, Any]) -> Handed:
    one = Handed(**{"origin" if name == "from" else name: v for name, v in document.items()})
    texts = one.cache, one.url, one.sha256, one.kind, one.origin, one.role or ""
    if not isinstance(one.bytes, int) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"what it says of {one.url} is no text, or its size no number")
    return one


def read(path: Path) -> NetworkLock | None:
    """Return the lock in ``path``; None when there is none, or none that can be read."""
    try:
        return NetworkLock.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None


def write(path: Path, lock: NetworkLock) -> None:
    """Write a lock; who commits the folder makes it durable."""
    write_json(path, lock.to_json(), durable=False)


def merge(locks: Iterable[NetworkLock]) -> NetworkLock:
    """Return one lock of several: that of a release is what all its stages got."""
    found = list(locks)
    modes = {lock.mode for lock in found}
    return NetworkLock(
        mode=modes.pop() if len(modes) == 1 else "open" if "open" in modes else "mixed",
        offline=any(lock.offline for lock in found),
        handed=_each_once(one for lock in found for one in lock.handed),
        refused=tuple(one for lock in found for one in lock.refused),
        tunnels=tuple(one for lock in found for one in lock.tunnels),
    )


# --- from the gateway's journal -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal. ``time`` is in seconds since the epoch, ``seconds`` what it took."""

    what: str
    time: float
    cache: str = ""
    url: str = ""
    sha256: str = ""
    bytes: int = 0
    kind: str = ""
    origin: str = ""
    seconds: float = 0
    address: str = ""
    sent: int = 0
    status: int = 0


def read_journal(path: Path) -> tuple[Entry, ...]:
    """Return what the gateway wrote so far; a last line that is not finished does not count."""
    try:
        *whole, _ = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return ()
    return tuple(entry for line in whole if (entry := _entry(line)))


def _entry(line: str) -> Entry | None:
    """Return a line's entry; None for one that a full disk cut short, which the gateway told."""
    try:
        return Entry(**json.loads(line))
    except (ValueError, TypeError):
        return None


def lock_of(
    journal: Sequence[Entry],
    *,
    mode: str,
    offline: bool,
    events: Iterable[Event] = (),
    before: NetworkLock | None = None,
) -> NetworkLock:
    """Return the lock of a run; ``before`` is that of the checkpoint it went on from.

    Who asked is told by the clock: ``events`` say which role ran when, and one runs at a time.
    """
    started = [(each.time, each.role) for each in events if each.event == "role_started"]
    handed = (
        Handed(each.cache, each.url, each.sha256, each.bytes, each.kind, each.origin,
               _role_at(each.time, started))
        for each in journal
        if each.what == "handed"
    )  # fmt: skip
    old = before or NetworkLock(mode)
    return NetworkLock(
        mode=mode,
        offline=offline or old.offline,
        handed=_each_once((*old.handed, *handed)),
        refused=(*old.refused, *_refusals(journal, started)),
        tunnels=(*old.tunnels, *_tunnels(journal, started)),
    )


def refused_since(journal: Sequence[Entry], moment: float) -> tuple[str, ...]:
    """Return the addresses that were asked for in vain since a moment, each once."""
    found = (each.address for each in journal if each.what == "refused" and each.time >= moment)
    return tuple(dict.fromkeys(found))


def blame(
    error: VaultbuildError,
    journal: Sequence[Entry],
    since: float = 0,
    *,
    stage: str | None = None,
    role: str = "",
) -> None:
    """Give an error the cause that something was asked for in vain, where something was.

    ``stage`` is None for the root's source, which may reach the archives of the pipeline only.
    """
    refused, missing = refused_since(journal, since), missing_since(journal, since)
    if missing:
        first, *others = missing
        more = f" and {len(others)} more" if others else ""
        error.cause = Cause("not-cached", f"Offline, and no cache has {first}{more}.")
        # What else is told of it is about mirrors, and nobody asked one.
        error.hint = None
        ways = [
            "while the network is there: vaultbuild cache warm, and --variant as in this run",
            "or build without --offline",
            "where no image was built yet: vaultbuild cache warm --lock dist/NAME/network.json",
        ]
    elif refused and stage and not _explained(error):
        asked = f"Role {role} asked for {', '.join(refused)}, which stage {stage} may not reach."
        error.cause = Cause("network-refused", asked)
        ways = _ways(refused, stage)
    elif (broken := broken_since(journal, since)) and not (error.cause and error.cause.passes):
        # pip takes half a file for a whole one with a wrong digest, and silence for a no.
        first, *others = broken
        more = f" and {len(others)} more" if others else ""
        said = f"{first}{more} broke off, came wrong, or not at all, as often as it was asked for."
        error.cause = Cause("download-broken", said, passes=True)
        ways = ["run it again; `vaultbuild cache status` says which servers are not asked now"]
    else:
        return
    error.hint = "\n".join((*ways, *((error.hint,) if error.hint else ())))


def _explained(error: VaultbuildError) -> bool:
    """Whether something else is known to lie behind it; a name without an answer is this."""
    return error.cause is not None and error.cause.rule not in _OF_THE_NETWORK


def _ways(refused: Iterable[str], stage: str) -> list[str]:
    hosts = dict.fromkeys(_as_named(address) for address in refused)
    where = f"in stages/{stage}/stage.yml"
    return [
        f'to allow just that, write "hosts: [{", ".join(hosts)}]" {where}',
        f'to allow all, write "network: open" {where}; no offline build can repeat that',
    ]


def _as_named(address: str) -> str:
    """Return an address as ``hosts`` names it: with its port where that is none of the usual."""
    return address.removesuffix(":443").removesuffix(":80")


def missing_since(journal: Sequence[Entry], moment: float) -> tuple[str, ...]:
    """Return what no cache had, in an offline run, since a moment, each once."""
    found = (each.url for each in journal if each.what == "missing" and each.time >= moment)
    return tuple(dict.fromkeys(found))


def broken_since(journal: Sequence[Entry], moment: float) -> tuple[str, ...]:
    """Return what failed to come since a moment, and did not come after that either."""
    found: dict[str, None] = {}
    for each in journal:
        if each.time < moment:
            continue
        if each.what == "failed":
            found[each.url or each.address] = None
        elif each.what == "handed":
            found.pop(each.url, None)
    return tuple(found)


def _role_at(moment: float, started: Sequence[tuple[float, str]]) -> str | None:
    return next((role for time, role in reversed(started) if time <= moment), None)


def _each_once(handed: Iterable[Handed]) -> tuple[Handed, ...]:
    """Return each thing once, as it came first: a second time it mostly came from the cache."""
    found: dict[tuple[str, str, str], Handed] = {}
    for one in handed:
        found.setdefault((one.cache, one.url, one.sha256), one)
    return tuple(found.values())


def _refusals(journal: Sequence[Entry], started: Sequence[tuple[float, str]]) -> Iterator[Refused]:
    counts: dict[tuple[str, str | None], int] = {}
    for each in journal:
        if each.what == "refused":
            asked = (each.address, _role_at(each.time, started))
            counts[asked] = counts.get(asked, 0) + 1
    yield from (Refused(address, role, count) for (address, role), count in counts.items())


def _tunnels(journal: Sequence[Entry], started: Sequence[tuple[float, str]]) -> Iterator[Tunnel]:
    sums: dict[tuple[str, str | None], tuple[int, int]] = {}
    for each in journal:
        if each.what == "tunnel":
            asked = (each.address, _role_at(each.time, started))
            sent, received = sums.get(asked, (0, 0))
            sums[asked] = sent + each.sent, received + each.bytes
    yield from (Tunnel(*asked, *amounts) for asked, amounts in sums.items())
