"""What moved upstream since images were made: values in, values out.

::

    what a stage brought (its record)   ─┐
    which lists it was taken from (lock) ├─► what apt would take instead, if it were built today
    those lists as they are today       ─┘

A package belongs to the first stage that has it in that version, and is compared with the lists
that this stage saw: its own and those of the stages below it. What the project pins cannot move by
itself. It is told as ``pinned`` where upstream has something newer, and builds nothing: the same
pin would give the same image, tonight and tomorrow night. ``vaultbuild lock`` is what moves a pin.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from builder.reasons import Reason
from builder.upstream import archive

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from builder.network import Handed
    from builder.upstream.archive import Package, Release

Kind = Literal["package", "image", "wheels", "model"]

# Of whom nobody takes a package unasked; where one was taken, its version says so.
_BACKPORT = "~bpo"
_PIN = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?=[0-9][0-9A-Za-z.+:~-]*")
SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Moved:
    """One thing that is not upstream what it was; ``pinned``: the project holds on to it."""

    stage: str
    kind: Kind
    what: str
    before: str
    after: str
    pinned: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as ``plan --refresh --json`` tells it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that could not be asked, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True, slots=True)
class Refresh:
    """What upstream said when it was asked, in UTC. ``stuck`` moved, but building does not help."""

    asked: str
    moved: tuple[Moved, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    stuck: tuple[Moved, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the part ``refresh`` of ``plan --refresh --json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Refresh:
        """Read what :meth:`to_json` wrote; raises KeyError or TypeError when it did not."""
        return cls(
            asked=document["asked"],
            moved=tuple(Moved(**one) for one in document["moved"]),
            unknown=tuple(Unknown(**one) for one in document["unknown"]),
            stuck=tuple(Moved(**one) for one in document["stuck"]),
        )

    def warnings(self) -> Iterator[str]:
        """Yield what a person must know that no plan says."""
        for unknown in self.unknown:
            yield f"upstream: {unknown}"
        for one in self.stuck:
            yield (
                f"upstream has {one.what} {one.after}, but {one.stage}, built since, kept "
                f"{one.before}: something holds it"
            )

    def lines(self) -> Iterator[str]:
        """Yield what was found out, as lines below a plan."""
        moved = [one for one in self.moved if not one.pinned]
        pinned = [one for one in self.moved if one.pinned]
        counts = [f"{len(moved)} moved" if moved else "nothing moved"]
        counts += [f"{len(pinned)} newer than pinned"] if pinned else []
        counts += [f"{len(self.unknown)} unknown"] if self.unknown else []
        yield f"upstream    asked {self.asked}: {', '.join(counts)}"
        for one in pinned:
            yield f"{'':<12}{one.what} {one.before} → {one.after} (vaultbuild lock takes it)"

    def about(self, stage: str) -> str:
        """Say in a line what was found out about one stage."""
        mine = [one for one in self.moved if one.stage == stage and not one.pinned]
        if not mine:
            return f"asked {self.asked}: nothing of it moved"
        first, more = mine[0], len(mine) - 1
        told = f"{first.what} {first.before} → {first.after}{f' and {more} more' if more else ''}"
        return f"asked {self.asked}: {told}"

    @property
    def reasons(self) -> dict[str, tuple[Reason, ...]]:
        """By stage, why it is to be built again."""
        found: dict[str, list[Reason]] = {}
        for one in self.moved:
            if not one.pinned:
                reason = Reason("upstream", one.what, one.before, one.after)
                found.setdefault(one.stage, []).append(reason)
        return {stage: tuple(reasons) for stage, reasons in found.items()}


@dataclass(frozen=True, slots=True)
class Built:
    """What is known of a stage as it was built.

    ``packages`` are those of its record, None where it has no image; ``handed`` is its network
    lock, None where there is none. For the root stage, ``source`` is the lock of its source.
    ``disk`` tells this image from another of the same key.
    """

    stage: str
    packages: Mapping[str, str] | None
    handed: tuple[Handed, ...] | None
    source: tuple[Handed, ...] | None = None
    disk: str = ""

    @property
    def all_handed(self) -> tuple[Handed, ...]:
        """Everything that the network gave for it."""
        return (*(self.source or ()), *(self.handed or ()))


@dataclass(frozen=True, slots=True)
class Pinned:
    """What the project says of versions: ``versions`` are all values that may be one."""

    names: frozenset[str] = frozenset()
    versions: frozenset[str] = frozenset()

    def holds(self, name: str, version: str) -> bool:
        """Whether a package stays as it is."""
        return name in self.names or version in self.versions


def pinned_by(settings: Mapping[str, Any], variables: Mapping[str, Any]) -> Pinned:
    """Return what a source's settings and a stage's variables hold on to.

    A variable whose value is the version of an installed package is what that package was asked for
    by: so every value with a digit is taken for one.
    """
    texts = [*settings.get("packages", ()), *_texts(variables)]
    named = {text.partition("=")[0] for text in texts if _PIN.fullmatch(text)}
    versions = {text for text in texts if any(character.isdigit() for character in text)}
    held = {*named, *settings.get("hold", ())}
    return Pinned(frozenset(name.partition(":")[0] for name in held), frozenset(versions))


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


@dataclass(slots=True)
class Suite:
    """A suite as a stage saw it: digests of its own file, and of its lists by their folder."""

    url: str
    digests: set[str] = field(default_factory=set)
    lists: dict[str, set[str]] = field(default_factory=dict)

    def outdated(self, release: Release) -> dict[str, set[str]]:
        """Return by folder what was seen of each list that a suite has otherwise now."""
        found: dict[str, set[str]] = {}
        for folder, seen in self.lists.items():
            if old := seen - {each.sha256 for each in release.packages_in(folder)}:
                found[folder] = old
        return found


# --- what a stage is made of ----------------------------------------------------------------------


def suites_of(handed: Iterable[Handed], below: Mapping[str, Suite]) -> dict[str, Suite]:
    """Return by URL the suites that a stage saw: in its own lock, else those of the stage below.

    A stage that went on from a checkpoint has seen older lists and newer ones: all of them count.
    """
    files = [(archive.behind_cache(each.url), each) for each in handed if each.cache == "apt"]
    found = {url: Suite(url) for url, _ in files if archive.is_release(url)}
    for url, each in files:
        if url in found:
            found[url].digests.add(each.sha256)
        for suite in found.values():
            folder = archive.folder_of_list(posixpath.dirname(suite.url), url)
            if folder is not None:
                suite.lists.setdefault(folder, set()).add(each.sha256)
    for url, suite in found.items():
        if url in below:
            suite.lists = {**below[url].lists, **suite.lists}
    return {**below, **found}


def brought(
    lineage: Sequence[Built], *, bootstrapped: bool
) -> Iterator[tuple[Built, dict[str, str]]]:
    """Yield each stage with the packages that came with it, in the version that they have there.

    Of a root that is no bootstrap (a cloud image, an ISO), only what came over the network: the
    rest came with the image and would come with it again.
    """
    below: Mapping[str, str] = {}
    for built in lineage:
        if built.packages is None:
            yield built, _by_file_names(built.all_handed)
            continue
        own = {name: v for name, v in built.packages.items() if below.get(name) != v}
        if not below and not bootstrapped:
            files = _by_file_names(built.all_handed)
            own = {
                name: v for name, v in own.items() if files.get(name) == archive.without_epoch(v)
            }
        yield built, own
        below = built.packages


def _by_file_names(handed: Iterable[Handed]) -> dict[str, str]:
    """Return name and version, without epoch, of the packages that were handed out."""
    found = (archive.package_file(each.url) for each in handed if each.cache == "apt")
    return {name: version for name, version, _ in filter(None, found)}


# --- what moved -----------------------------------------------------------------------------------


def moved_packages(
    stage: str,
    packages: Mapping[str, str],
    offers: Iterable[tuple[bool, Package]],
    pinned: Pinned,
    *,
    epochs: bool = True,
) -> list[Moved]:
    """Return the packages of which apt would take a newer version; offers are (optional, package).

    A list that offers less than is installed says nothing: the version came from elsewhere.
    ``epochs`` is false where versions are known from names of files, which have none.
    """
    installed = {name.partition(":")[0]: version for name, version in packages.items()}
    wanted = [
        offer
        for optional, offer in offers
        if offer.name in installed and (not optional or _BACKPORT in installed[offer.name])
    ]
    return [
        Moved(stage, "package", name, installed[name], offer.version)
        for name, offer in sorted(archive.newest(wanted).items())
        if not pinned.holds(name, installed[name])
        and archive.compare_versions(
            offer.version if epochs else archive.without_epoch(offer.version), installed[name]
        )
        > 0
    ]


def settle(found: Refresh, before: Refresh | None, renewed: Container[str]) -> Refresh:
    """Set aside what moved before as well, although its stage was made of newer lists since.

    ``renewed`` are the stages that were. Something holds these packages that this program does not
    see, and every further build would be in vain.
    """
    if before is None:
        return found
    known = {one for one in before.moved if one.stage in renewed} | set(before.stuck)
    stuck = tuple(one for one in found.moved if one in known and not one.pinned)
    moved = tuple(one for one in found.moved if one not in stuck)
    return Refresh(found.asked, moved, found.unknown, stuck)
