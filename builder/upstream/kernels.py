"""A newer kernel, taken with the driver's module that compiles for it, or held back.

Kernel and module are a pair: an image boots with the newest kernel for which the module of its
driver was seen to compile (``kernel_builds`` of ``stages/compatibility.yml``). A newer one for
which it does not, or for which nobody tried, is told and stays away.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.compat import hardware
from builder.upstream.archive import compare_versions
from builder.upstream.pins import Edit, Note, kernel_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.compat.stack import Stack
    from builder.compat.table import Table
    from builder.upstream.pins import Place

_IMAGE = "linux-image-"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's package: its release, as ``uname -r`` prints it, and its version."""

    release: str
    version: str

    def __str__(self) -> str:
        return f"{_IMAGE}{self.release}={self.version}"


def new_kernel(
    places: Iterable[Place], offers: Mapping[str, str], stack: Stack, table: Table
) -> tuple[list[Edit], list[Note]]:
    """Return what to change so that a variant has the newest kernel that its driver goes with.

    ``places`` are all that count for the variant, ``offers`` what its archives have.
    """
    known = list(places)
    pinned = pinned_in(known)
    if pinned is None:
        return [], []
    notes: list[Note] = []
    for newer in _newer(pinned, offers):
        against = _against(newer, stack, table)
        if against is None:
            return list(_edits(known, pinned, newer)), notes
        notes.append(Note(str(newer), f"held back: {against}"))
    return [], notes


def pinned_in(places: Iterable[Place]) -> Kernel | None:
    """Return the kernel that a variant pins, None where it pins none."""
    return next((found for place in places if (found := _pinned(place))), None)


def _pinned(place: Place) -> Kernel | None:
    if place.pin is None or not place.pin[0].startswith(_IMAGE) or not kernel_parts(place.pin[0]):
        return None
    name, version = place.pin
    return Kernel(name.removeprefix(_IMAGE), version)


def _newer(pinned: Kernel, offers: Mapping[str, str]) -> list[Kernel]:
    """Return the newer kernels of the same kind, the newest first."""
    mine = kernel_parts(f"{_IMAGE}{pinned.release}")
    found = [
        Kernel(name.removeprefix(_IMAGE), version)
        for name, version in offers.items()
        if (parts := kernel_parts(name)) and mine and (parts[1], parts[3]) == (mine[1], mine[3])
        if compare_versions(version, pinned.version) > 0
    ]
    order = functools.cmp_to_key(compare_versions)
    return sorted(found, key=lambda kernel: order(kernel.version), reverse=True)


def _against(kernel: Kernel, stack: Stack, table: Table) -> str | None:
    """Return why a kernel is not to be had with the driver; None when its module compiles."""
    found = list(hardware.kernel_module(replace(stack, kernel=kernel.release), table, ""))
    bad = [each for each in found if each.level != "ok"]
    return bad[0].said if bad else None


def _edits(places: Iterable[Place], old: Kernel, new: Kernel) -> Iterator[Edit]:
    """Yield a change of every text that names the old kernel, by its release or its version."""
    for place in places:
        if old.release in place.value:
            after = place.value.replace(old.release, new.release)
            if place.pin:
                after = after.replace(f"={old.version}", f"={new.version}")
            yield Edit(place, str(new), place.value, after)
        elif place.value == old.version and "variables" in place.key:
            yield Edit(place, str(new), place.value, new.version)
