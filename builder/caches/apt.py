"""The cache of packages: apt-cacher-ng, an HTTP proxy that keeps what passes through it.

Its configuration folder is vaultbuild's own: the tracked files of ``cache/etc/apt-cacher-ng/`` and,
after them, one file with what is particular to this host.

There may be two servers over the same files. The first asks upstream whether an index has moved
each time it is asked for, and has nothing to say when upstream is down, though the file is there
(measured with 3.7.4). The second runs in offline mode and answers with what is there. An offline
build uses it alone; an online one has it to fall back to.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import files, ports, process
from builder.caches import kept
from builder.caches.http import ask
from builder.caches.service import Launch
from builder.errors import CommandError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from builder.caches.kept import Item
    from builder.caches.state import Places, Terms

_SUPPORT = "/usr/lib/apt-cacher-ng"  # in Debian and Ubuntu
_HEAD = ".head"  # beside each file, what upstream said of it; without it, the file does not count
_DIGEST = re.compile(rb"\b[0-9a-f]{64}\b")
_RELEASES = ("InRelease", "Release")
_ARCHIVES = (".deb", ".udeb", ".ddeb", ".dsc", ".changes")


@dataclass(frozen=True, slots=True)
class Apt:
    """apt-cacher-ng. The URL is a proxy for ``http`` repositories."""

    name: str = "apt"

    @property
    def fetches(self) -> bool:
        """It asks the mirrors, unless it runs offline."""
        return True

    def prepare(self, places: Places, terms: Terms) -> Launch:
        """Render the configuration folder."""
        program = process.require("apt-cacher-ng")
        if terms.port > ports.HIGHEST:
            raise HostError(
                f"apt-cacher-ng cannot listen on port {terms.port}",
                hint=f"set caches.apt.port in stages/pipeline.yml to at most {ports.HIGHEST}",
            )
        # Private: the upstream proxy's address may hold a password.
        home(places).mkdir(mode=0o700, parents=True, exist_ok=True)
        etc = places.content / "etc"
        shutil.rmtree(etc, ignore_errors=True)
        places.content.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(places.etc / "apt-cacher-ng", etc)
        files.write_text(etc / "zz-this-host.conf", _this_host(places, terms), mode=0o600)
        return Launch([program, "-c", etc])

    def url(self, terms: Terms) -> str:
        """Return the proxy's URL."""
        return terms.root

    def answers(self, url: str) -> bool:
        """Ask for no file at all: the server answers with a page about itself."""
        return "apt-cacher" in ask(url.rstrip("/") + "/").text.lower()

    def settle(self, places: Places, terms: Terms) -> None:
        """Have what is there found by a server that cannot ask for it."""
        if terms.offline:
            mend(home(places) / "packages")

    def items(self, places: Places) -> Sequence[Item]:
        """Return each file with what upstream said of it. Indexes that are in force are current."""
        folder = home(places) / "packages"
        found = [path for path in kept.files_below(folder) if _is_kept(path, folder)]
        current = _listed(found)
        return kept.found_items(_item(path, places, current) for path in found)

    def drop(self, places: Places, item: Item) -> bool:
        """Remove a file and its head; apt-cacher-ng fetches it again, also while it runs."""
        return kept.drop(places.var, item)


def home(places: Places) -> Path:
    """Return the folder of both servers; the packages are in there once."""
    return places.var / "apt"


def _this_host(places: Places, terms: Terms) -> str:
    """Return the configuration that only holds here and now."""
    content = places.content
    settings = {
        "Port": str(terms.port),
        "BindAddress": terms.listen,
        "CacheDir": str(home(places) / "packages"),
        "LogDir": str(content / "log"),
        "PidFile": str(content / "pid"),
        "SupportDir": _SUPPORT,
    }
    if terms.offline:
        settings["Offlinemode"] = "1"
    elif proxy := upstream_proxy():
        settings["Proxy"] = proxy
    for folder in ("CacheDir", "LogDir"):
        content.joinpath(settings[folder]).mkdir(exist_ok=True)
    return "".join(f"{name}: {value}\n" for name, value in settings.items())


def upstream_proxy() -> str | None:
    """Return the proxy that this host's own apt goes through, if it has one."""
    try:
        said = process.run(
            ["apt-config", "dump", "--format", "%v%n", "Acquire::http::Proxy"],
            env={name: os.environ[name] for name in ("APT_CONFIG",) if name in os.environ},
        ).stdout
    except (HostError, CommandError):
        said = ""  # a host without apt can still serve packages to guests that have it
    configured = next(iter(said.split()), os.environ.get("http_proxy", ""))
    return None if configured.upper() in {"", "DIRECT", "FALSE"} else configured


# --- what upstream's errors leave behind ----------------------------------------------------------


def mend(packages: Path, url: str | None = None) -> int:
    """Put right what an upstream's error did to the cache; return how many files it was.

    When upstream answers with an error (404, 503) for an index that is kept, apt-cacher-ng 3.7.4
    leaves the index as it is, but forgets its date and its length, and offline it does not serve a
    file whose length it does not know. Here the length is put back. With ``url``, of that file
    alone: to be called before the server is asked that answers whatever upstream does.
    """
    if url is not None:
        path = place(packages, url)
        return int(path is not None and _mended(path))
    return sum(_mended(path) for path in kept.files_below(packages) if _is_kept(path, packages))


def place(packages: Path, url: str) -> Path | None:
    """Return where apt-cacher-ng keeps what is at a URL: it leaves out scheme and port.

    None for a URL that leads out of the folder: guests write them.
    """
    from urllib.parse import unquote, urlsplit  # late: `plan` needs none

    parts = urlsplit(url)
    if parts.hostname == "https" and parts.path.startswith("//"):  # http://HTTPS///HOST/PATH
        parts = urlsplit("http://" + parts.path.lstrip("/"))
    words = unquote(parts.path).split("/")
    if not parts.hostname or ".." in words or "\0" in parts.path:
        return None
    return packages.joinpath(parts.hostname, *(word for word in words if word))


def _mended(path: Path) -> bool:
    """Put the length back into a head that has no date, and a length that is wrong or none."""
    head = path.with_name(path.name + _HEAD)
    try:
        lines = head.read_text(encoding="latin-1").splitlines()
        size = path.stat().st_size
    except OSError:
        return False
    fields = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
    # One byte less: it asks for the last one only, to hear whether the file is still the same.
    if "last-modified" in fields or fields.get("content-length") not in {None, str(size - 1)}:
        return False
    rest = [line for line in lines[1:] if line and not line.lower().startswith("content-length:")]
    text = "\r\n".join([lines[0], f"Content-Length: {size}", *rest, "", ""])
    files.write_text(head, text, durable=False)
    return True


# --- what it keeps --------------------------------------------------------------------------------


def _is_kept(path: Path, folder: Path) -> bool:
    """Whether a file is something that was fetched; folders with an underscore are the server's."""
    top = path.relative_to(folder).parts[0]
    return not top.startswith("_") and path.suffix != _HEAD


def _listed(found: Sequence[Path]) -> set[str]:
    """Return the digests of the indexes that the releases in the cache name."""
    digests = set()
    for path in found:
        if path.name in _RELEASES:
            digests |= set(_digests(path))
    return digests


def _digests(path: Path) -> Iterator[str]:
    try:
        text = path.read_bytes()
    except OSError:
        return
    yield from (digest.decode() for digest in _DIGEST.findall(text))


def _item(path: Path, places: Places, current: set[str]) -> Item | None:
    head = path.with_name(path.name + _HEAD)
    return kept.item_of(
        "apt",
        places.var,
        path,
        current=_why_current(path, current),
        parts=(str(head.relative_to(places.var)),) if head.exists() else (),
    )


def _why_current(path: Path, current: set[str]) -> str | None:
    """Say why an index stays. Those by digest pile up; the others have one name for all times."""
    if path.suffix in _ARCHIVES or ".tar." in path.name or "pool" in path.parts:
        return None
    if "by-hash" in path.parts and path.name not in current:
        return None
    return "an index that is in force"
