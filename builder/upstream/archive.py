"""The index files of a Debian archive: what a suite lists, what a list offers, what is newer.

::

    ARCHIVE/dists/SUITE/InRelease                              names every list by its SHA-256
    ARCHIVE/dists/SUITE/main/binary-amd64/Packages.xz          what may be installed
    ARCHIVE/dists/SUITE/main/binary-amd64/by-hash/SHA256/...   the same, under a name that stays

Text in, values out. Whether a signature is good is not asked here: apt does, before it installs.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import itertools
import lzma
import posixpath
import re
import shlex
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

RELEASES: Final = ("InRelease", "Release")
# In the order in which they are wanted: the smallest first.
_PACKED: Final = ("Packages.xz", "Packages.gz", "Packages.bz2", "Packages")
_BY_HASH = "/by-hash/SHA256/"
# How apt-cacher-ng is told that the archive behind it speaks TLS.
_TLS_BEHIND = "http://HTTPS///"
_MAGIC = {b"\xfd7zXZ\x00": lzma.decompress, b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress}
_ENTRY_WORDS = 3


class ArchiveError(ValueError):
    """An index file is not what it should be."""


# --- versions -------------------------------------------------------------------------------------


def compare_versions(left: str, right: str) -> int:
    """Return -1, 0 or 1 as ``left`` is older than, the same as or newer than ``right``.

    As deb-version(7) says: epoch, upstream version, revision; in each, text and numbers in turn.
    """
    for mine, other in zip(_parts_of_version(left), _parts_of_version(right), strict=True):
        if found := _compare_part(mine, other):
            return found
    return 0


version_order = functools.cmp_to_key(compare_versions)


def without_epoch(version: str) -> str:
    """Return a version as it stands in the name of a package's file."""
    return version.partition(":")[2] if ":" in version else version


def _parts_of_version(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.strip().partition(":")
    if not colon:
        epoch, rest = "0", epoch
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "")


def _compare_part(left: str, right: str) -> int:
    """Compare runs of what is no digit and runs of digits, in turn."""
    mine, other = re.split(r"([0-9]+)", left), re.split(r"([0-9]+)", right)
    for at, (a, b) in enumerate(itertools.zip_longest(mine, other, fillvalue="")):
        found = _sign(int(a or 0), int(b or 0)) if at % 2 else _compare_text(a, b)
        if found:
            return found
    return 0


def _compare_text(left: str, right: str) -> int:
    for a, b in itertools.zip_longest(left, right, fillvalue=""):
        if found := _sign(_weight(a), _weight(b)):
            return found
    return 0


def _weight(character: str) -> int:
    """A tilde is less than the end, which is less than a letter, which is less than all others."""
    if character == "~":
        return -1
    if not character:
        return 0
    return ord(character) + (0 if character.isalpha() else 256)


def _sign(left: int, right: int) -> int:
    return (left > right) - (left < right)


# --- a suite --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as a suite lists it; ``path`` is relative to the suite's folder."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Release:
    """What an InRelease or Release file says. ``optional``: apt takes from there only what it must.

    Such are backports (``NotAutomatic``): without being told to, nobody gets a package from there.
    """

    suite: str
    codename: str
    date: str
    valid_until: str | None
    by_hash: bool
    optional: bool
    files: Mapping[str, Listed] = field(default_factory=dict)

    def packages_in(self, folder: str) -> tuple[Listed, ...]:
        """Return the forms in which the list of packages in ``folder`` is offered, best first."""
        paths = (posixpath.join(folder, name) for name in _PACKED)
        return tuple(self.files[path] for path in paths if path in self.files)


def read_release(text: str) -> Release:
    """Return what an InRelease or Release file says; its signature is left aside."""
    fields = _fields(_without_armour(text))
    if "SHA256" not in fields:
        raise ArchiveError("it lists no files with SHA-256")
    files = (_listed(line) for line in fields["SHA256"].splitlines() if line.strip())
    return Release(
        suite=fields.get("Suite", ""),
        codename=fields.get("Codename", ""),
        date=fields.get("Date", ""),
        valid_until=fields.get("Valid-Until"),
        by_hash=fields.get("Acquire-By-Hash", "").lower() == "yes",
        optional=fields.get("NotAutomatic", "").lower() == "yes",
        files={each.path: each for each in files},
    )


def _without_armour(text: str) -> str:
    """Return the signed text of a clear-signed message, or the text that is none."""
    if "-----BEGIN PGP SIGNED MESSAGE-----" not in text:
        return text
    _, _, rest = text.partition("-----BEGIN PGP SIGNED MESSAGE-----")
    _, _, body = rest.replace("\r\n", "\n").partition("\n\n")
    signed, _, _ = body.partition("-----BEGIN PGP SIGNATURE-----")
    # Lines that begin with a dash are escaped by "- ".
    return re.sub(r"^- ", "", signed, flags=re.MULTILINE)


def _fields(text: str) -> dict[str, str]:
    """Return the fields of one paragraph; the lines of a long one are kept."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1] in {" ", "\t"} and name:
            found[name] += f"\n{line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


def _listed(line: str) -> Listed:
    words = line.split()
    if len(words) != _ENTRY_WORDS or not words[1].isdigit():
        raise ArchiveError(f"it has a line that lists no file: {line[:80]}")
    return Listed(words[2], words[0].lower(), int(words[1]))


# --- a list of packages ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Package:
    """A package as a list offers it."""

    name: str
    version: str
    architecture: str
    file: str
    sha256: str
    bytes: int


def unpack(content: bytes) -> str:
    """Return the text of a list, whatever it is packed with; what it is, its first bytes tell."""
    for magic, unpacker in _MAGIC.items():
        if content.startswith(magic):
            try:
                return unpacker(content).decode(errors="replace")
            except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
                raise ArchiveError(f"it cannot be unpacked: {error}") from error
    return content.decode(errors="replace")


def read_packages(text: str) -> Iterator[Package]:
    """Yield the packages of a list."""
    for paragraph in text.split("\n\n"):
        if not paragraph.strip():
            continue
        fields = _few_fields(paragraph)
        try:
            yield Package(
                fields["Package"], fields["Version"], fields["Architecture"],
                fields["Filename"], fields.get("SHA256", ""), int(fields.get("Size", 0)),
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise ArchiveError(f"a package in it has no {error}") from error


_WANTED = re.compile(r"^(Package|Version|Architecture|Filename|SHA256|Size): *(\S+)", re.MULTILINE)


def _few_fields(paragraph: str) -> dict[str, str]:
    """Read only what is wanted: a list has 60 000 packages, and each 25 fields."""
    return dict(_WANTED.findall(paragraph))


def newest(packages: Iterable[Package]) -> dict[str, Package]:
    """Return by name what apt would install from lists of equal worth."""
    best: dict[str, Package] = {}
    for package in packages:
        other = best.get(package.name)
        if other is None or compare_versions(package.version, other.version) > 0:
            best[package.name] = package
    return best


# --- addresses ------------------------------------------------------------------------------------


def behind_cache(url: str) -> str:
    """Return the address that a client of apt-cacher-ng means by ``url``."""
    return f"https://{url.removeprefix(_TLS_BEHIND)}" if url.startswith(_TLS_BEHIND) else url


def is_release(url: str) -> bool:
    """Whether a URL is that of a suite's first file."""
    return posixpath.basename(urlsplit(url).path) in RELEASES


def folder_of_list(suite: str, url: str) -> str | None:
    """Return in which folder, below that of the suite, a list of packages lies; None if none.

    ``suite`` is the URL of the folder; the list may be asked for by its name or by its hash.
    """
    if not url.startswith(f"{suite}/"):
        return None
    path = url.removeprefix(f"{suite}/")
    if _BY_HASH in f"/{path}":
        folder = f"/{path}".partition(_BY_HASH)[0].removeprefix("/")
        # Translations and contents are kept by hash too, in folders of other names.
        return folder if re.search(r"(^|/)binary-[^/]+$", folder) or not folder else None
    return posixpath.dirname(path) if posixpath.basename(path) in _PACKED else None


def by_hash(suite: str, listed: Listed) -> str:
    """Return the URL at which a listed file keeps its bytes while the archive is renewed."""
    folder = posixpath.dirname(listed.path)
    return posixpath.join(suite, folder, f"by-hash/SHA256/{listed.sha256}")


def package_file(url: str) -> tuple[str, str, str] | None:
    """Return name, version without epoch, and architecture of a ``.deb``; None for other files."""
    name = unquote(posixpath.basename(urlsplit(url).path))
    words = name.removesuffix(".deb").split("_")
    if not name.endswith(".deb") or len(words) != _ENTRY_WORDS:
        return None
    return words[0], without_epoch(words[1]), words[2]


@dataclass(frozen=True, slots=True)
class Origin:
    """One line of sources.list: a suite's folder and which lists of it are meant."""

    suite: str
    """The URL of the folder that holds InRelease."""
    folders: tuple[str, ...]
    """Of the lists, below it: ``main/binary-amd64``; one empty name for a flat archive."""


def read_source(line: str, architecture: str) -> Origin | None:
    """Return what a line ``deb [options] URL SUITE COMPONENT…`` means; None for any other line."""
    text = re.sub(r"\[[^\]]*\]", " ", line.partition("#")[0])
    words = shlex.split(text)
    if len(words) < _ENTRY_WORDS or words[0] != "deb":
        return None
    _, root, suite, *components = words
    root = behind_cache(root).rstrip("/")
    if suite.endswith("/"):
        return Origin(_joined(root, suite), ("",))
    folders = (f"{component}/binary-{architecture}" for component in components)
    return Origin(f"{root}/dists/{suite.strip('/')}", tuple(folders))


def _joined(root: str, path: str) -> str:
    inner = posixpath.normpath(path).strip("/")
    return root if inner in {"", "."} else f"{root}/{inner}"
