"""What of a build must be nowhere in the bytes that ship, and the search for it in all of them.

A file that was removed may still stand in blocks that are free, in a file system's journal, between
partitions. So what is searched is the whole disk, and not its files: once, for everything at once.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from builder.engines.nspawn import NspawnEngine
from builder.engines.qemu import GUEST_HOST
from builder.fetch.urls import is_loopback, redacted_text, secrets_in
from builder.partitions import data
from builder.release.inspection import result
from builder.supplies import GUEST_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from builder.partitions import RootFileSystem
    from builder.pipeline import Pipeline
    from builder.verify import CheckResult

KEY: Final = "leaks::no key of the build"
SECRET: Final = "leaks::no secret that a variable held"  # noqa: S105 - the name of a check
ADDRESS: Final = "leaks::no proxy and no cache of the build"
MIRROR: Final = "leaks::no mirror that is not the image's own"
_KINDS = (KEY, SECRET, ADDRESS, MIRROR)
# How variables are called whose values nobody else should read.
_SECRET = re.compile(
    r"(?:^|_)(?:token|password|passwd|passphrase|secret|credential|(?:api|access|private|secret)_key"
    r"|(?:dsa|ecdsa|ed25519|rsa)_private)s?$"
)
# Below this, cloud-init has passwords behind the names of users: "me:word".
_USERS = "chpasswd"
# What is shorter stands in any disk by chance.
_SHORTEST = 8
_MOST = 3
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
# A private key of OpenSSH begins with this, then comes the public key; all of it in base64.
_PRIVATE = b"openssh-key-v1\0" + 2 * b"\0\0\0\x04none" + bytes(4) + b"\0\0\0\x01\0\0\0\x33"
_PEM_LINE = 70
# What packages bring: a name that stands there is known to everybody.
_PUBLIC = re.compile(r"/usr/(?!local/)|/var/lib/dpkg/|.*/site-packages/")


@dataclass(frozen=True, slots=True)
class Needle:
    """Something to search for: its kind, what people are told of it, and its bytes."""

    kind: str
    what: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Hit:
    """A place on the disk that has a needle."""

    needle: Needle
    offset: int


def key_needles(logins: Iterable[str]) -> Iterator[Needle]:
    """Yield both halves of the SSH keys, whose public ones are ``logins``.

    A private key's file begins with the public half, so nobody has to keep the private one.
    """
    for login in dict.fromkeys(logins):
        blob = login.split()[1]
        yield Needle(KEY, "the public key of a build", blob.encode())
        file = base64.b64encode(_PRIVATE + base64.b64decode(blob))[_PEM_LINE:]
        # The last bytes stand in base64 together with what follows them.
        yield Needle(KEY, "the private key of a build", file[: len(file) // 4 * 4 - 4])


def pipeline_secrets(pipeline: Pipeline, stage: str) -> Iterator[Needle]:
    """Yield what a project's files hold that is secret, as far as a stage's image was made of it.

    Of every use of a role, those of all stages below too: where two are called the same, what the
    earlier one was given may be in the image as well.
    """
    for _, values in pipeline.every_use(stage):
        yield from secret_needles("variable ", values)
    yield from secret_needles("caches.", pipeline.caches)
    yield from secret_needles(f"source.{pipeline.source.kind}.", pipeline.source.settings)


def host_secrets(environment: Mapping[str, str], index: str | None) -> Iterator[Needle]:
    """Yield the logins of this host's proxies, and of the ``index`` of its pip."""
    for name, url in (*_proxies(environment), ("the index of this host's pip", index or "")):
        yield from _logins(name, url)


def secret_needles(place: str, document: Mapping[str, Any]) -> Iterator[Needle]:
    """Yield what a document holds under names that call it secret, and the logins in its URLs.

    However deep it lies, in mappings and in lists. ``place`` goes before the names.
    """
    for names, text in _texts(document):
        what = redacted_text(place + ".".join(names))
        if any(_SECRET.search(name) for name in names):
            yield _secret(what, text)
        elif _USERS in names:
            yield from (_secret(what, line.partition(":")[2]) for line in text.splitlines())
        yield from _logins(what, text)


def _logins(what: str, text: str) -> Iterator[Needle]:
    for login in secrets_in(text, _SECRET):
        yield _secret(f"the password in {what}", login)


def _secret(what: str, text: str) -> Needle:
    return Needle(SECRET, what, text.strip().encode())


def _texts(value: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the texts and numbers in a document, each with the names that lead there."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if "://" in str(name):
                yield names, str(name)
            yield from _texts(each, (*names, str(name)))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, names)
    elif value is not None and not isinstance(value, bool):
        yield names, str(value)


def address_needles(environment: Mapping[str, str]) -> Iterator[Needle]:
    """Yield where guests find the caches, and the proxies of this host."""
    for host in (GUEST_HOST, NspawnEngine.guest_host):
        for name, port in GUEST_PORTS.items():
            yield Needle(ADDRESS, f"the build's {name} cache", f"{host}:{port}".encode())
    for name, url in _proxies(environment):
        place = urlsplit(url).netloc.rpartition("@")[2]
        yield Needle(ADDRESS, f"the proxy in {name}", place.encode())


def _proxies(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in (*_PROXIES, *map(str.upper, _PROXIES)):
        if value := environment.get(name, "").strip():
            yield name, value if "://" in value else f"http://{value}"


def mirror_needles(
    caches: Mapping[str, Mapping[str, Any]], index: str | None, own: Iterable[str]
) -> Iterator[Needle]:
    """Yield the hosts that packages came from, but for those that the image's sources name.

    ``caches`` are the pipeline's settings, ``index`` is that of this host's pip, ``own`` are the
    texts of the image's package sources.
    """
    urls = [each["url"] for each in caches.values() if each.get("url")]
    mirrors = (caches.get("apt") or {}).get("mirrors") or {}
    urls += [*mirrors, *(url for others in mirrors.values() for url in others)]
    known = set(re.findall(r"://(?:[^/\s@]*@)?([^/\s:]+)", "\n".join(own)))
    hosts = {urlsplit(url).hostname or "" for url in (*urls, index or "")}
    for host in sorted(hosts - known):
        if host and not is_loopback(host):
            yield Needle(MIRROR, f"the host {host}", host.encode())


def search(raw: Path, needles: Iterable[Needle]) -> list[Hit]:
    """Return where the needles stand in a raw disk, a few places of each; holes are not read.

    What begins alike - the keys do, and the addresses - is searched for together: a pass costs
    what the beginnings cost that are different.
    """
    wanted = {each.value: each for each in needles if len(each.value) >= _SHORTEST}
    groups = _beginnings(wanted)
    longest = max(map(len, wanted), default=1)
    hits: list[Hit] = []
    with raw.open("rb", buffering=0) as file:
        before, expected = b"", 0
        for start, end in data(file.fileno(), 0, raw.stat().st_size):
            # What began in the piece before may end in this one.
            before = before[max(len(before) - longest + 1, 0) :] if start == expected else b""
            piece = before + os.pread(file.fileno(), end - start, start)
            for value, at in _in_piece(piece, groups, len(before)):
                hits.append(Hit(wanted[value], start - len(before) + at))
            before, expected = piece, end
    return _few(hits)


def _beginnings(values: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """Group values that begin alike, by how they begin."""
    groups: dict[bytes, list[bytes]] = {}
    for value in values:
        groups.setdefault(value[:_SHORTEST], []).append(value)
    return {_beginning(alike): alike for alike in groups.values()}


def _beginning(values: Sequence[bytes]) -> bytes:
    """Return what all values begin with: what the first and the last in order have in common."""
    first, last = min(values), max(values)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((at for at, (one, other) in pairs if one != other), len(first))]


def _in_piece(
    piece: bytes, groups: Mapping[bytes, list[bytes]], old: int
) -> Iterator[tuple[bytes, int]]:
    """Yield each value that ends behind the first ``old`` bytes, and where it begins."""
    for beginning, alike in groups.items():
        at = piece.find(beginning)
        while at >= 0:
            for value in alike:
                if at + len(value) > old and piece.startswith(value, at):
                    yield value, at
            at = piece.find(beginning, at + 1)


def _few(hits: Iterable[Hit]) -> list[Hit]:
    """A few places of each needle are enough to find its role."""
    kept: dict[Needle, list[Hit]] = {}
    for hit in hits:
        places = kept.setdefault(hit.needle, [])
        if len(places) < _MOST:
            places.append(hit)
    return [hit for places in kept.values() for hit in places]


def leak_results(hits: Sequence[Hit], root: RootFileSystem | None) -> Iterator[CheckResult]:
    """Say of each kind whether any was found, and in which files."""
    places = {hit: root.owner(hit.offset) if root else None for hit in hits}
    public = {hit.needle for hit, place in places.items() if place and _PUBLIC.match(place)}
    for kind in _KINDS:
        wrong = [
            f"{hit.needle.what} is in {place or f'no file, at byte {hit.offset} of the disk'}"
            for hit, place in places.items()
            if hit.needle.kind == kind and not (kind == MIRROR and hit.needle in public)
        ]
        yield result(kind, "\n".join(dict.fromkeys(wrong)))
