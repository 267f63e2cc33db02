"""Versions that a project's files name, and replacing them at their place.

A YAML file is never written anew: what stands at a place is replaced there, so comments, quotes and
the order of lines stay as somebody wrote them. What comes out is read again before it counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from builder import yamlfile
from builder.errors import Problem, ProjectError
from builder.kernel import PIN
from builder.upstream.archive import compare_versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from builder.yamlfile import Key

_PIN = re.compile(r"([a-z0-9][a-z0-9+.-]+)((?::[a-z0-9]+)?)=([0-9][0-9A-Za-z.+:~-]*)")
_KERNEL = re.compile(r"(linux-(?:image|headers|modules)-(?:unsigned-)?)(\d+\.\d+\S*?)(-[a-z]\S*)?")


@dataclass(frozen=True, slots=True)
class Place:
    """A text in a YAML file: its key, and where it stands. Aliases of an anchor are one place."""

    path: Path
    key: Key
    value: str
    start: int
    end: int
    line: int

    @property
    def pin(self) -> tuple[str, str] | None:
        """Name and version where the text is ``name=version``."""
        found = _PIN.fullmatch(self.value)
        return (found[1], found[3]) if found else None


@dataclass(frozen=True, slots=True)
class Edit:
    """A text that becomes another, and why: ``what`` is the package or variable."""

    place: Place
    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something newer that is not taken, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


# --- places ---------------------------------------------------------------------------------------


def places_in(path: Path, text: str) -> list[Place]:
    """Return every text value of a YAML file, each once."""
    file, problems = yamlfile.parse(path, text.encode())
    if file is None or problems:
        raise ProjectError(problems or [Problem(path, "is not YAML")])
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    found: dict[int, Place] = {}
    for key, node in _scalars(file.root, ()):
        start, end = (starts[mark.line] + mark.column for mark in (node.start_mark, node.end_mark))
        line = node.start_mark.line + 1
        found.setdefault(start, Place(path, key, node.value, start, end, line))
    return list(found.values())


def _scalars(node: Node | None, key: Key) -> Iterator[tuple[Key, ScalarNode]]:
    if isinstance(node, ScalarNode):
        yield key, node
    elif isinstance(node, SequenceNode):
        for at, item in enumerate(node.value):
            yield from _scalars(item, (*key, at))
    elif isinstance(node, MappingNode):
        for name, value in node.value:
            yield from _scalars(value, (*key, str(name.value)))


def edited(path: Path, text: str, edits: Iterable[Edit]) -> str:
    """Return a file's text with edits made; everything else in it is as it was."""
    chosen = sorted(edits, key=lambda edit: edit.place.start, reverse=True)
    result = text
    for edit in chosen:
        place = edit.place
        raw = text[place.start : place.end]
        if raw.count(edit.before) != 1:
            raise ProjectError(
                [Problem(path, f"{edit.before} cannot be replaced in {raw}", line=place.line,
                         hint="write the value on one line, without escapes")]
            )  # fmt: skip
        new = raw.replace(edit.before, edit.after)
        result = result[: place.start] + new + result[place.end :]
    _require_only(path, text, result, chosen)
    return result


def _require_only(path: Path, before: str, after: str, edits: list[Edit]) -> None:
    """Make sure that the values of a file differ where they were edited and nowhere else."""
    wanted = {edit.place.key: edit.place.value.replace(edit.before, edit.after) for edit in edits}
    old, new = places_in(path, before), places_in(path, after)
    expected = [(one.key, wanted.get(one.key, one.value)) for one in old]
    if expected != [(one.key, one.value) for one in new]:
        raise ProjectError([Problem(path, "cannot be edited without changing what it means")])


# --- decisions ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scope:
    """What one variant knows: what its archives offer, what is held, what its images have.

    ``installed`` is by stage, parents first: name to version.
    """

    variant: str
    offers: Mapping[str, str]
    held: frozenset[str] = frozenset()
    installed: Mapping[str, Mapping[str, str]] | None = None


def new_pins(
    places: Iterable[Place], scopes: Iterable[Scope], chosen: frozenset[str] = frozenset()
) -> tuple[list[Edit], list[Note]]:
    """Return what to change so that the texts of one file name what archives offer now.

    ``scopes`` are all variants that the place counts for: they must agree. ``chosen``: only these
    packages and variables, and these also where they are held.
    """
    edits: list[Edit] = []
    notes: dict[Note, None] = {}
    among = list(scopes)
    for place in places:
        decided = _package(place, among, chosen) if place.pin else _variable(place, among, chosen)
        if isinstance(decided, Edit):
            edits.append(decided)
        elif decided:
            notes[decided] = None
    return edits, list(notes)


def _package(place: Place, scopes: list[Scope], chosen: frozenset[str]) -> Edit | Note | None:
    assert place.pin  # noqa: S101 - the caller asked
    name, version = place.pin
    if chosen and name not in chosen:
        return None
    if is_kernel(name):
        return newer_kernel(name, version, scopes)
    offered = {scope.offers[name] for scope in scopes if name in scope.offers}
    if not offered:
        return Note(name, f"{version} is pinned, and no archive of the pipeline offers the package")
    return _decided(place, name, version, offered, held=_held(name, scopes, chosen))


def _variable(place: Place, scopes: list[Scope], chosen: frozenset[str]) -> Edit | Note | None:
    """Change a variable whose value is the version of packages that all have one newer version."""
    name = _variable_name(place.key)
    if name is None or (chosen and name not in chosen) or not re.match(r"\d", place.value):
        return None
    offered: set[str] = set()
    packages: set[str] = set()
    for scope in scopes:
        names = _with_version(place.value, scope.installed or {})
        if any(map(is_kernel, names)):
            return None  # told where its packages stand
        packages |= names
        offered |= {scope.offers[package] for package in names if package in scope.offers}
    if not packages:
        return None
    held = any(_held(package, scopes, chosen | {name}) for package in packages)
    return _decided(place, name, place.value, offered, held=held and name not in chosen)


def _decided(
    place: Place, what: str, version: str, offered: set[str], *, held: bool
) -> Edit | Note | None:
    newer = {each for each in offered if compare_versions(each, version) > 0}
    if not newer:
        return None
    if len(offered) > 1:
        return Note(what, f"{version} stays: there are {', '.join(sorted(offered))}")
    after = newer.pop()
    if held:
        return Note(what, f"{version} is held; {after} is there (vaultbuild lock {what} takes it)")
    return Edit(place, what, version, after)


def _held(name: str, scopes: list[Scope], chosen: frozenset[str]) -> bool:
    return name not in chosen and any(name in scope.held for scope in scopes)


def _variable_name(key: Key) -> str | None:
    """Return the name of the variable that a place is the value of, or is an item of."""
    at = next((at for at, part in enumerate(key) if part == "variables"), None)
    return str(key[at + 1]) if at is not None and len(key) > at + 1 else None


def _with_version(version: str, installed: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Return the packages of the first stage that has some in this version."""
    for packages in installed.values():
        found = {name.partition(":")[0] for name, value in packages.items() if value == version}
        if found:
            return found
    return set()


# --- the kernel -----------------------------------------------------------------------------------


def is_kernel(name: str) -> bool:
    """Whether a package has the kernel's version in its name, so that a newer one is another."""
    return kernel_parts(name) is not None


def kernel_parts(name: str) -> re.Match[str] | None:
    """Return the parts of such a name: what it is, its version, its kind (``-cloud-amd64``)."""
    return _KERNEL.fullmatch(name)


def kernel_key(key: Key) -> bool:
    """Whether a variant's pin of a kernel stands at a key."""
    return key[:1] == ("variants",) and key[2:-1] == PIN


def newer_kernel(name: str, version: str, scopes: Iterable[Scope]) -> Note | None:
    """Tell of a newer kernel of the same kind; which one to take is for people to decide."""
    mine = _KERNEL.fullmatch(name)
    found: list[tuple[str, str]] = []
    for other, offered in ((o, v) for scope in scopes for o, v in scope.offers.items()):
        parts = _KERNEL.fullmatch(other)
        same = mine and parts and (parts[1], _flavour(parts)) == (mine[1], _flavour(mine))
        if same and compare_versions(offered, version) > 0:
            found.append((other, offered))
    if not found:
        return None
    best = found[0]
    for each in found:
        if compare_versions(each[1], best[1]) > 0:
            best = each
    return Note(name, f"{best[0]}={best[1]} is there; a kernel is changed by hand, with what is "
                "built for it")  # fmt: skip


def _flavour(parts: re.Match[str]) -> str:
    return parts[3] or ""


def summary(edit: Edit) -> dict[str, Any]:
    """Return an edit as ``vaultbuild lock --json`` tells it."""
    place = edit.place
    return {
        "file": str(place.path),
        "line": place.line,
        "what": edit.what,
        "before": edit.before,
        "after": edit.after,
    }
