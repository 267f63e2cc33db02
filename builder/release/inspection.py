"""What a published disk is asked before it is booted: the file, its file system, its packages.

A boot repairs a file system and fills a machine-id; only a look at the bytes that ship tells how
they are. The disk is unpacked beside itself for that, which needs neither root nor a mount.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from builder import disks
from builder.in_guest import DPKG_STATUS, VENVS, dpkg_packages
from builder.partitions import RootFileSystem
from builder.verify import CheckResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.disks import DiskInfo, Shape

UNREADABLE = "its root file system is none of ext2, ext3 and ext4, so nobody looked at its files"
_MOST_TOLD = 5


def inspect(
    disk: Path, raw: Path, packages: Mapping[str, Mapping[str, str]], *, made_of: Path, wanted: str
) -> tuple[CheckResult, ...]:
    """Look at ``disk``, of which ``raw`` is the unpacked copy; nothing is written to either.

    ``packages`` are those that its manifest lists, ``made_of`` is the image that was flattened, and
    ``wanted`` the compression that was asked for.
    """
    return (
        *file_results(disks.info(disk), disks.shape(disk), disks.info(made_of), wanted),
        *root_results(RootFileSystem.find(raw), packages),
    )


def file_results(
    found: DiskInfo, shape: Shape, made_of: DiskInfo, wanted: str
) -> Iterator[CheckResult]:
    """Say whether a QCOW2 is one that can be shipped."""
    yield result("disk::stands alone", "" if found.backing is None else f"on {found.backing}")
    sizes = f"{found.virtual_bytes} bytes, and {made_of.virtual_bytes} before"
    same = found.virtual_bytes == made_of.virtual_bytes
    yield result("disk::has the size of its image", "" if same else sizes)
    # What does not get smaller is kept as it is: compressed files, of which images are full.
    packed = shape.compressed > 0 and shape.compression == wanted
    kept = f"{shape.compressed} of {shape.allocated} clusters, with {shape.compression}"
    yield result("disk::is compressed", "" if packed else kept)
    extra = f"{shape.snapshots} snapshots, {shape.leaked} leaked clusters"
    yield result("disk::holds nothing else", extra if shape.snapshots or shape.leaked else "")


def root_results(
    root: RootFileSystem | None, packages: Mapping[str, Mapping[str, str]]
) -> Iterator[CheckResult]:
    """Say whether the root file system is whole, and has what the manifest lists."""
    if root is None:
        yield result("root::is clean", UNREADABLE)
        return
    yield result("root::is clean", root.complaints())
    yield result("root::has the packages of the manifest", differences(installed(root), packages))


def installed(root: RootFileSystem) -> dict[str, dict[str, str]]:
    """Return the packages in a file system, in the form of a record's ``packages``."""
    found = {"dpkg": dpkg_packages(root.read(f"/{DPKG_STATUS}"))}
    for venv in root.names(f"/{VENVS}"):
        found[f"python {venv}"] = dict(_distributions(root, f"/{VENVS}/{venv}/lib"))
    return found


def _distributions(root: RootFileSystem, folder: str) -> Iterator[tuple[str, str]]:
    for python in root.names(folder):
        for name in root.names(f"{folder}/{python}/site-packages"):
            if found := re.fullmatch(r"(.+)-([^-]+)\.dist-info", name):
                yield found[1], found[2]


def package_sources(root: RootFileSystem | None) -> list[str]:
    """Return the texts that tell the image's apt where packages are."""
    if root is None:
        return []
    listed = [f"/etc/apt/sources.list.d/{name}" for name in root.names("/etc/apt/sources.list.d")]
    return [root.read(path) for path in ("/etc/apt/sources.list", *listed)]


def differences(
    found: Mapping[str, Mapping[str, str]], listed: Mapping[str, Mapping[str, str]]
) -> str:
    """Say what one list of packages has and the other has not, in a few words."""
    there, wanted = _lines(found), _lines(listed)
    lines = [f"not listed: {line}" for line in sorted(there - wanted)]
    lines += [f"not there: {line}" for line in sorted(wanted - there)]
    more = f"; and {len(lines) - _MOST_TOLD} more" if len(lines) > _MOST_TOLD else ""
    return "; ".join(lines[:_MOST_TOLD]) + more


def _lines(packages: Mapping[str, Mapping[str, str]]) -> set[str]:
    """A folder's name and the metadata's may write a Python package differently."""
    return {
        f"{kind}: {canonicalize_name(name) if kind != 'dpkg' else name} {version}"
        for kind, versions in packages.items()
        for name, version in versions.items()
    }


def result(name: str, wrong: str) -> CheckResult:
    """Return a check that passed, or failed because of what is ``wrong``."""
    message = "\n".join(f"E {line}" for line in wrong.splitlines())
    return CheckResult(name, "failed" if wrong else "passed", 0.0, message)
