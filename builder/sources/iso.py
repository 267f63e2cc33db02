"""The parts of an unattended installation: the ISO's kernel, the answers, and what it must leave.

The kernel and the first file system are taken out of the ISO, so nothing is typed at a boot prompt.
A preseed is put into that first file system, where Debian's installer looks before it asks for
anything; what autoinstall reads lies on a disk of its own.

What a place decides - where packages come from - stands in the answers as a placeholder.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder import disks, process
from builder.errors import CommandError, StoreError
from builder.partitions import RootFileSystem
from builder.sources.bootstrap import host_mirrors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PRESEED = "preseed.cfg"
"""What Debian's installer looks for in its first file system."""
PROXY = "{apt_proxy}"
MIRROR = "{mirror}"
MIRROR_HOST = "{mirror_host}"
MIRROR_FOLDER = "{mirror_folder}"
_HEADER = "070701"  # a "newc" archive, as the kernel reads it
_FILE = 0o100644
_END = "TRAILER!!!"
_APT_CONF = "/etc/apt/apt.conf"


def extract(iso: Path, name: str, target: Path) -> None:
    """Copy the file ``name`` of an ISO to ``target``.

    Raises :class:`StoreError` when the ISO has no such file.
    """
    path = f"/{name.lstrip('/')}"
    argv: list[str | Path] = ["xorriso", "-osirrox", "on", "-indev", iso, "-extract", path, target]
    done = process.run(argv, check=False)
    if done.status or not target.is_file():
        last = next(iter(reversed(done.stderr.strip().splitlines())), "it says nothing")
        raise StoreError(
            f"the ISO has no file {path}\n       {last}",
            hint="see source.iso.kernel and source.iso.initrd in stages/pipeline.yml; "
            f"xorriso -indev {iso.name} -find / lists what is there",
        )
    target.chmod(0o644)


def filled(answers: str, *, apt_proxy: str | None, mirror: str | None) -> str:
    """Return the answers with their placeholders filled in.

    Without a ``mirror``, that is this host's own. Raises :class:`builder.errors.HostError` when it
    has none and the answers want one.
    """
    values = {PROXY: apt_proxy or ""}
    if any(name in answers for name in (MIRROR, MIRROR_HOST, MIRROR_FOLDER)):
        url = (mirror or host_archive()).rstrip("/")
        parts = urlsplit(url)
        values |= {MIRROR: url, MIRROR_HOST: parts.netloc, MIRROR_FOLDER: parts.path or "/"}
    for name, value in values.items():
        answers = answers.replace(name, value)
    return answers


def host_archive() -> str:
    """Return the URL of the archive that this host's own apt uses."""
    return host_mirrors("any", ["main"])[0].split()[1]


def add_preseed(initrd: Path, answers: str) -> None:
    """Put the answers into the first file system: the kernel unpacks archive after archive."""
    size = initrd.stat().st_size
    with initrd.open("ab") as file:
        file.write(bytes(-size % 4) + archive({PRESEED: answers.encode()}))


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return a cpio archive of files that root owns; the same bytes each time."""
    entries = [*files.items(), (_END, b"")]
    return b"".join(
        _entry(number, name, content) for number, (name, content) in enumerate(entries, 1)
    )


def _entry(inode: int, name: str, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    mode = _FILE if name != _END else 0
    # Inode, mode, user, group, links, time, size, four numbers of devices, length of name, none.
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = _HEADER.encode() + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def write_seed(folder: Path, answers: str, *, identity: str) -> tuple[Path, Path]:
    """Write what autoinstall finds on its disk to ``folder``; return where."""
    words, names = folder / "user-data", folder / "meta-data"
    words.write_text(answers)
    names.write_text(json.dumps({"instance-id": f"vaultbuild-{identity[:12]}"}) + "\n")
    return words, names


def require_installed(disk: Path, work: Path) -> str | None:
    """Raise :class:`CommandError` unless the disk has a root file system with a kernel.

    Returns what the installer left of this build that a later one trips over; None if nothing.
    """
    raw = work / "installed.raw"
    disks.unpack(disk, raw)
    try:
        return _require_root(raw)
    finally:
        raw.unlink()


def _require_root(raw: Path) -> str | None:
    root = RootFileSystem.find(raw)
    if root is None:
        raise CommandError("the installer left no ext4 root file system on the disk")
    names = root.names("/boot")
    if not any(name.startswith("vmlinuz") for name in names):
        found = ", ".join(names) or "nothing"
        raise CommandError(f"the installer left no kernel in /boot, but {found}")
    if "Acquire::http::Proxy" in root.read(_APT_CONF):
        return f"the installer left this build's proxy in {_APT_CONF}: let the answers remove it"
    return None
