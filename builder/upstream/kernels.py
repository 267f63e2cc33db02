"""A newer kernel, taken with the driver's module that compiles for it, or held back.

Kernel and module are a pair: an image boots with the newest kernel for which the module of its
driver was seen to compile (``kernel_builds`` of ``stages/compatibility.yml``). A newer one for
which it does not, or for which nobody tried, is told and stays away. Variants that share a pin,
each with a flavour of its own, change together or not at all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.compat import hardware
from builder.kernel import Kernel
from builder.upstream.archive import compare_versions
from builder.upstream.pins import Edit, Note, is_kernel, kernel_key, kernel_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from builder.compat.stack import Stack
    from builder.compat.table import Table
    from builder.upstream.pins import Place


@dataclass(frozen=True, slots=True)
class Booting:
    """A variant as far as its kernel goes: which it has, what its archives offer, what it wants."""

    kernel: Kernel
    offers: Mapping[str, str]
    stack: Stack


def names_kernel(places: Iterable[Place]) -> bool:
    """Whether a kernel is pinned at one of these places."""
    return any(kernel_key(each.key) or (each.pin and is_kernel(each.pin[0])) for each in places)


def new_kernel(
    places: Iterable[Place], variants: Sequence[Booting], table: Table
) -> tuple[list[Edit], list[Note]]:
    """Return what to change so that variants have the newest kernel that their drivers go with.

    ``places`` are all that count for the first of them, where the pin stands; the others share it.
    """
    first = variants[0]
    notes: list[Note] = []
    for newer in _newer(first.kernel, first.offers):
        against = next(filter(None, (_against(newer, each, table) for each in variants)), None)
        if against is None:
            return list(_edits(places, first.kernel, newer)), notes
        notes.append(against)
    return [], notes


def _newer(pinned: Kernel, offers: Mapping[str, str]) -> list[Kernel]:
    """Return the newer kernels of the same kind, the newest first."""
    mine = kernel_parts(pinned.names[0])
    found = [
        Kernel(name.removeprefix(parts[1]), version)
        for name, version in offers.items()
        if (parts := kernel_parts(name)) and mine and (parts[1], parts[3]) == (mine[1], mine[3])
        if compare_versions(version, pinned.version) > 0
    ]
    order = functools.cmp_to_key(compare_versions)
    return sorted(found, key=lambda kernel: order(kernel.version), reverse=True)


def _against(newer: Kernel, variant: Booting, table: Table) -> Note | None:
    """Return why a variant cannot have a kernel in its flavour; None when its module compiles."""
    kernel = newer.like(variant.kernel)
    if variant.offers.get(kernel.names[0]) != kernel.version:
        return Note(str(kernel), "held back: no archive offers it")
    stack = replace(variant.stack, kernel=kernel.release)
    found = list(hardware.kernel_module(stack, table, ""))
    bad = [each for each in found if each.level != "ok"]
    return Note(str(kernel), f"held back: {bad[0].said}") if bad else None


def _edits(places: Iterable[Place], old: Kernel, new: Kernel) -> Iterator[Edit]:
    """Yield a change of every text that names the old kernel, by its release or its version."""
    for place in places:
        after = place.value
        if kernel_key(place.key):
            values = {old.bare.release: new.bare.release, old.version: new.version}
            after = values.get(place.value, place.value)
        elif old.release in place.value:
            after = place.value.replace(old.release, new.release)
            if place.pin:
                after = after.replace(f"={old.version}", f"={new.version}")
        elif place.value == old.version and "variables" in place.key:
            after = new.version
        if after != place.value:
            yield Edit(place, str(new), place.value, after)
