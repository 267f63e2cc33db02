"""What a guest may reach: decided from words alone, before anything is opened.

By default that is the package archives of its pipeline, through the caches. A stage names further
hosts, or opens the network as a whole; the record says so either way.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

Way = Literal["cache", "direct", "refuse"]

_PORTS = {"http": 80, "https": 443}
# apt-cacher-ng's way to name a mirror that speaks TLS: http://HTTPS///HOST/PATH
_TLS = re.compile(r"http://HTTPS/*(?P<rest>[^/].*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, as a request names them."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What one stage may reach.

    ``archives`` are addresses of package archives, ``hosts`` names that the stage declares: a name
    stands for each of its ports, ``*.example`` for all below it.
    """

    mode: Literal["caches", "hosts", "open"] = "caches"
    archives: frozenset[Address] = frozenset()
    hosts: frozenset[str] = frozenset()
    offline: bool = False

    def plain(self, address: Address) -> Way:
        """Decide about an unencrypted request: an archive's files come through the apt cache."""
        if address in self.archives or self.declared(address.host):
            return "cache"
        # In an open network too: what looks like a package is worth keeping.
        return "cache" if self.mode == "open" and not is_of_this_host(address.host) else "refuse"

    def beside_the_cache(self, address: Address) -> bool:
        """Whether what the apt cache does not take, a tunnel or any other file, may be fetched."""
        if self.offline:
            return False
        if self.declared(address.host):
            return True
        return self.mode == "open" and not is_of_this_host(address.host)

    def declared(self, host: str) -> bool:
        """Whether the stage names this host."""
        return any(_names(pattern, host) for pattern in self.hosts)


def address_of(url: str) -> Address | None:
    """Return where a URL leads, through apt-cacher-ng's way for TLS as well; None if nowhere."""
    if tls := _TLS.fullmatch(url):
        url = f"https://{tls['rest']}"
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    return Address(parts.hostname, port) if parts.hostname and port else None


def authority(text: str) -> Address | None:
    """Return the address in ``HOST:PORT``, what CONNECT asks for."""
    return address_of(f"https://{text}")


def archives_in(lines: Iterable[str]) -> frozenset[Address]:
    """Return where the archives are that lines of a sources.list name."""
    urls = (word for line in lines for word in line.split() if "://" in word)
    return frozenset(found for url in urls if (found := address_of(url)))


def is_of_this_host(host: str) -> bool:
    """Whether a name or number can only mean the host that builds, which no guest may reach."""
    if host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return is_private_to_a_host(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_private_to_a_host(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether a number is a loopback, link-local or unspecified address: cloud metadata, too."""
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast


def _names(pattern: str, host: str) -> bool:
    host, pattern = host.lower().rstrip("."), pattern.lower()
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern
