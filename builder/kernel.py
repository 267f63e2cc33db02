"""The kernel of a root that is made of packages: pinned once, in the flavour that a variant wants.

From the pin and the flavour follow the packages, which of them are held, and what the role
``kernel_pin`` is told. So a variant changes one word to have another kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.schema import VariantPart

FLAVOURS: Final = {"cloud": "-cloud-amd64", "generic": "-amd64"}
"""How a release of each flavour ends, in Debian's names."""
VARIABLES: Final = {"release": "kernel_pin_release", "version": "kernel_pin_version"}
"""The variables of the role ``kernel_pin``, by the key of the pin that they come from."""
PIN: Final = ("source", "bootstrap", "kernel")
"""Where in a variant the pin stands."""
IMAGE: Final = "linux-image-"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's package: its release, as ``uname -r`` prints it, and its version."""

    release: str
    version: str

    def __str__(self) -> str:
        return f"{IMAGE}{self.release}={self.version}"

    @property
    def names(self) -> tuple[str, ...]:
        """The packages of the kernel and of its headers."""
        return (f"{IMAGE}{self.release}", f"linux-headers-{self.release}")

    @property
    def bare(self) -> Kernel:
        """The same without its flavour, as the pin has it."""
        for ending in FLAVOURS.values():  # the longer one first
            if self.release.endswith(ending):
                return replace(self, release=self.release.removesuffix(ending))
        return self

    def like(self, other: Kernel) -> Kernel:
        """Return this kernel in the flavour of another one."""
        ending = other.release.removeprefix(other.bare.release)
        return replace(self, release=f"{self.bare.release}{ending}")


def kernel_of(variant: VariantPart) -> Kernel | None:
    """Return the kernel that a variant's source pins; None where its packages name one."""
    pin = variant.source.bootstrap and variant.source.bootstrap.kernel
    return Kernel(pin.release + FLAVOURS[variant.kernel_flavour], pin.version) if pin else None


def kernel_among(packages: Iterable[str]) -> Kernel | None:
    """Return the kernel that a list of packages pins to a version."""
    for package in packages:
        name, _, version = package.partition("=")
        release = name.removeprefix(IMAGE)
        if version and release != name and release[:1].isdigit():
            return Kernel(release, version)
    return None


def settled(variant: VariantPart, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source's settings with the packages of the kernel in the place of its pin."""
    if variant.source.bootstrap is None:  # an ISO has a kernel of another kind
        return dict(settings)
    found = {key: value for key, value in settings.items() if key != PIN[-1]}
    if kernel := kernel_of(variant):
        packages = [f"{name}={kernel.version}" for name in kernel.names]
        found["packages"] = [*packages, *found["packages"]]
        found["hold"] = [*kernel.names, *found["hold"]]
    return found
