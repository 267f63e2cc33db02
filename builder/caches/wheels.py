"""The cache of wheels: a house of them for each lock file, complete before a guest is started.

::

    cache/var/wheels/files/<sha256>/<name>.whl     each wheel once
    cache/var/wheels/houses/<lock sha256>/         links to those that a lock file needs, house.json

The lock file says which bytes may be installed, the target which of them fit: the Python, the C
library and the processor of the guest. For each requirement the best of its wheels is fetched
through the index of the pypi cache. pip and uv find them with ``--no-index --find-links URL``.

A requirement for which the lock lists no wheel that fits stays out, and the house says so: a guest
then needs the index as well.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from builder import files
from builder.caches import shelf
from builder.caches.requirements import parse_lock
from builder.caches.shelf import Shelf
from builder.digest import digest_bytes
from builder.fetch.transient import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from unearth import PackageFinder

    from builder.caches import kept
    from builder.caches.requirements import Locked
    from builder.fetch import Fetcher

_SCHEMA = 1
_HOUSE = "house.json"
# The Python and the C library of the releases that guests are made of.
_SUITES = {
    "bookworm": ("3.11", "2.36"),
    "trixie": ("3.13", "2.41"),
    "jammy": ("3.10", "2.35"),
    "noble": ("3.12", "2.39"),
}
# What a platform was called before it was named by its C library.
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OLDEST = 5  # glibc 2.5: the first that wheels for x86-64 were made for


@dataclass(frozen=True, slots=True)
class Target:
    """What a wheel must fit: the guest's Python and C library, such as 3.13 and 2.41."""

    python: str
    glibc: str
    machine: str = "x86_64"

    def __str__(self) -> str:
        return f"Python {self.python}, glibc {self.glibc}, {self.machine}"

    @property
    def name(self) -> str:
        """What a house calls it."""
        return f"cp{self.python}-glibc{self.glibc}-{self.machine}"

    @property
    def platforms(self) -> list[str]:
        """The platforms whose wheels run there, the best first."""
        major, minor = _numbers(self.glibc)
        found = []
        for old in range(minor, _OLDEST - 1, -1):
            found.append(f"manylinux_{major}_{old}_{self.machine}")
            if old in _OLD_NAMES:
                found.append(f"{_OLD_NAMES[old]}_{self.machine}")
        return [*found, f"linux_{self.machine}"]

    @property
    def environment(self) -> dict[str, str]:
        """What the markers of a requirement are asked about."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel of a house. ``received`` are the bytes that were fetched for it now."""

    requirement: str
    file: str
    sha256: str
    bytes: int
    received: int = 0


@dataclass(frozen=True, slots=True)
class Missing:
    """A requirement that a house has no wheel for: its line in the lock file, and why."""

    requirement: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.requirement} (line {self.line}): {self.reason}"


@dataclass(frozen=True, slots=True)
class House:
    """The wheels of one lock file for one target. Guests find it at ``<wheels URL>/<sha256>/``."""

    sha256: str
    folder: Path
    target: Target
    wheels: tuple[Wheel, ...]
    missing: tuple[Missing, ...]
    spoiled: int = 0

    @property
    def complete(self) -> bool:
        """Whether a guest needs no index besides."""
        return not self.missing

    @property
    def received(self) -> int:
        """The bytes that came over the network for it now."""
        return sum(wheel.received for wheel in self.wheels)

    @property
    def bytes(self) -> int:
        """The bytes of all its wheels."""
        return sum(wheel.bytes for wheel in self.wheels)

    def require(self, lock: str) -> None:
        """Raise :class:`~builder.caches.shelf.NotCachedError` that names what is missing."""
        if self.missing:
            what = f"wheels of {lock} for {self.target} are"
            raise shelf.not_cached(what, map(str, self.missing), cache="wheels")


def target_of(packages: Mapping[str, str] | None, suite: str | None) -> Target | None:
    """Return what wheels of a guest must fit; None when nobody can know yet.

    ``packages`` are the versions of the Debian packages of the image that the stage starts from,
    where there is one; else its ``suite`` tells.
    """
    installed = packages or {}
    python, glibc = installed.get("python3"), installed.get("libc6")
    if python and glibc:
        return Target(_short(python), _short(glibc))
    return Target(*_SUITES[suite]) if suite in _SUITES else None


def ensure(
    lock: Path,
    target: Target,
    *,
    index_url: str | None,
    fetcher: Fetcher | None,
    folder: Path,
    offline: bool = False,
    progress: Callable[[int], None] | None = None,
) -> House:
    """Have every wheel of a lock file that fits ``target``, read through, and return their house.

    ``folder`` is the project's ``cache/var``. Nothing is asked of anybody when all is there. What
    could not be had offline is among the ``missing``, as is what has no wheel that fits; what could
    not be fetched raises what the fetcher raises.
    """
    content = lock.read_bytes()
    digest, wanted = digest_bytes(content), parse_lock(lock, content)
    store = Shelf("wheels", folder)
    place = store.folder / "houses" / digest
    with store.locked(digest, f"the wheels of {lock.name}"):
        known = _known(place, target)
        index = None
        if not offline and fetcher is not None and index_url is not None:
            index = _Index(index_url, fetcher, target)
        keeper = _Keeper(store, target, index, known)
        fits = [one for one in wanted if one.applies(target.environment)]
        found = shelf.side_by_side(keeper.keep, fits, progress)
        house = House(
            sha256=digest,
            folder=place,
            target=target,
            wheels=tuple(one for one in found if isinstance(one, Wheel)),
            missing=tuple(one for one in found if isinstance(one, Missing)),
            spoiled=keeper.spoiled,
        )
        _furnish(store, house)
    return house


class _Keeper:
    """Collects the wheels of one house; many threads may ask it."""

    def __init__(
        self,
        store: Shelf,
        target: Target,
        index: _Index | None,
        known: Mapping[str, Wheel],
    ) -> None:
        self._store, self._target, self._index = store, target, index
        self._known = known
        self._spoiled: list[str] = []

    @property
    def spoiled(self) -> int:
        """How many wheels were there with other bytes."""
        return len(self._spoiled)

    def keep(self, wanted: Locked, told: Callable[[int], None]) -> Wheel | Missing:
        """Have the wheel of one requirement, or say why not."""
        known = self._known.get(wanted.text)
        if known and known.sha256 in wanted.sha256s and (there := self._there(known)):
            return there
        if wanted.url:
            return _miss(wanted, "it is fetched from an address of its own, not from the index")
        if self._index is None:
            return _miss(wanted, "not in the cache")
        return self._from_index(wanted, self._index, told)

    def _from_index(
        self, wanted: Locked, index: _Index, told: Callable[[int], None]
    ) -> Wheel | Missing:
        try:
            found = index.best(wanted)
        except PermanentError as error:
            return _miss(wanted, error.message)  # the index has no such project
        if found is None:
            return _miss(wanted, f"the lock lists no wheel that fits {self._target}")
        name, url, sha256 = found
        wheel, growth = Wheel(wanted.text, name, sha256, 0), shelf.growing(told)
        kept = self._store.obtain(
            _file(self._store, wheel),
            sha256,
            lambda path: index.fetcher.file(url, path, sha256=sha256, progress=growth),
        )
        assert kept is not None  # noqa: S101 - for the type checker: there was a way to fetch
        if kept.spoiled:
            self._spoiled.append(wheel.file)
        return replace(wheel, bytes=kept.bytes, received=kept.received)

    def _there(self, wheel: Wheel) -> Wheel | None:
        path = _file(self._store, wheel)
        spoiled = path.is_file()
        kept = self._store.obtain(path, wheel.sha256, None)
        if kept is None:
            if spoiled:
                self._spoiled.append(wheel.file)
            return None
        return replace(wheel, bytes=kept.bytes, received=0)


def _miss(wanted: Locked, reason: str) -> Missing:
    return Missing(wanted.text, wanted.line, reason)


# --- the index ------------------------------------------------------------------------------------


class _Index:
    """A package index, asked through the fetcher: with its retries, breakers and messages."""

    def __init__(self, url: str, fetcher: Fetcher, target: Target) -> None:
        self.fetcher = fetcher
        self._url, self._target = url, target

    @cached_property
    def _finder(self) -> PackageFinder:
        # Late, and not at all where every wheel is there: unearth takes 0.2 s to import.
        from unearth import PackageFinder, TargetPython

        from builder.caches.requirements import IndexSession

        numbers = _numbers(self._target.python)
        return PackageFinder(
            IndexSession(self.fetcher),
            index_urls=[self._url],
            target_python=TargetPython(
                py_ver=numbers,
                abis=["cp" + "".join(map(str, numbers))],
                impl="cp",
                platforms=self._target.platforms,
            ),
            only_binary=[":all:"],
        )

    def best(self, wanted: Locked) -> tuple[str, str, str] | None:
        """Return name, URL and digest of the best wheel whose digest the lock lists."""
        # Not by its own `hashes`: that fetches whole files where an index tells no digest.
        for package in self._finder.find_matches(wanted.requirement, allow_prereleases=True):
            hashes = package.link.hash_option or {}
            for digest in hashes.get("sha256", ()):
                if digest in wanted.sha256s:
                    return package.link.filename, package.link.url_without_fragment, digest
        return None


# --- houses ---------------------------------------------------------------------------------------


def listing(house: Path) -> dict[str, tuple[Path, str]]:
    """Return the files of a house by name, each with the digest it must have."""
    found: dict[str, tuple[Path, str]] = {}
    for one in _document(house).get("targets", {}).values():
        for wheel in one["wheels"]:
            place = house.parent.parent / "files" / wheel["sha256"] / wheel["file"]
            found[wheel["file"]] = (place, wheel["sha256"])
    return dict(sorted(found.items()))


def items(folder: Path) -> list[shelf.Item]:
    """Return each wheel; ``folder`` is the project's ``cache/var``."""
    store = Shelf("wheels", folder)
    return [_item(store, path) for path in sorted(store.folder.glob("files/*"))]


def drop(folder: Path, item: kept.Item) -> bool:
    """Remove a wheel, and the houses that have none left; say whether it is gone.

    A house that has others is filled again when a build asks for it.
    """
    store = Shelf("wheels", folder)
    gone = shelf.drop(store, item, [PurePath(item.place).name])
    for house in store.folder.glob("houses/*") if gone else ():
        with files.try_lock(store.lock_file(house.name)) as alone:
            if alone and not any(path.is_file() for path, _ in listing(house).values()):
                shutil.rmtree(house)
    return gone


def _item(store: Shelf, place: Path) -> shelf.Item:
    whole = [path for path in place.iterdir() if shelf.is_whole(path)]
    begun = shelf.partial_bytes(place)
    return shelf.Item(
        cache="wheels",
        place=str(place.relative_to(store.var)),
        digest=place.name,
        bytes=sum(path.stat().st_size for path in whole) + begun,
        used=shelf.last_used(*(whole or [place]), store.lock_file(place.name)),
        partial_bytes=begun,
        held=files.is_locked(store.lock_file(place.name)),
    )


def _furnish(store: Shelf, house: House) -> None:
    """Write down what a house has, beside what it has for other targets, and link to it."""
    document = _document(house.folder)
    one = {
        "target": asdict(house.target),
        "wheels": [_told(wheel) for wheel in house.wheels],
        "missing": [asdict(each) for each in house.missing],
    }
    targets = {**document.get("targets", {}), house.target.name: one}
    new = {"schema": _SCHEMA, "targets": targets}
    for wheel in house.wheels:
        shelf.relative_link(house.folder / wheel.file, _file(store, wheel))
    if new != document:
        files.write_json(house.folder / _HOUSE, new, durable=False)
    named = listing(house.folder)
    for path in house.folder.iterdir():
        if path.is_symlink() and path.name not in named:
            path.unlink()


def _known(house: Path, target: Target) -> dict[str, Wheel]:
    """Return the wheels that a house had for a target, by requirement."""
    one = _document(house).get("targets", {}).get(target.name, {})
    return {each["requirement"]: Wheel(**each) for each in one.get("wheels", ())}


def _document(house: Path) -> dict[str, Any]:
    try:
        document = json.loads((house / _HOUSE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    usable = isinstance(document, dict) and document.get("schema") == _SCHEMA
    return document if usable else {}


def _told(wheel: Wheel) -> dict[str, Any]:
    return {"requirement": wheel.requirement, "file": wheel.file, "sha256": wheel.sha256,
            "bytes": wheel.bytes}  # fmt: skip


def _file(store: Shelf, wheel: Wheel) -> Path:
    return store.folder / "files" / wheel.sha256 / wheel.file


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _short(version: str) -> str:
    """Return the first two numbers of a Debian version: ``3.13`` of ``3.13.5-1``."""
    upstream = version.rpartition(":")[2].partition("-")[0].partition("+")[0]
    return ".".join(upstream.split(".")[:2])
