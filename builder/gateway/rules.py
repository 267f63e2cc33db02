"""What a guest may reach: decided from words alone, before anything is opened.

By default that is the package archives of its pipeline, through the caches. A stage names further
hosts, or opens the network as a whole; the record says so either way.

The words are a guest's, so they are read strictly: a URL that two programs could understand in two
ways leads nowhere. What is handed on is made anew from what was understood (:func:`asked_for`).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Way = Literal["cache", "direct", "refuse"]

_PORTS = {"http": 80, "https": 443}
# No user, no escapes, nothing that a browser or a proxy might mend.
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\])"
    r"(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!-~]*)?",
    re.IGNORECASE,
)
# apt-cacher-ng's way to name a mirror that speaks TLS: http://HTTPS///HOST/PATH
_TLS = "http://https///"
_MOST = 65535
_LOGIN = re.compile(r"(?<=:)//[^/@]*@")
# Where a cloud tells a machine who it is: AWS's has a number in IPv6 that is no link-local one.
_METADATA = {ipaddress.ip_address("fd00:ec2::254")}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, as a request names them; the host in small letters, without a last dot."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a URL asks for: where, over TLS or not, and what there. ``url`` is all of it, anew."""

    address: Address
    tls: bool
    path: str

    @property
    def url(self) -> str:
        """The URL, as apt-cacher-ng has to be asked for it."""
        port = _PORTS["https" if self.tls else "http"]
        place = str(self.address).removesuffix(f":{port}")
        return f"http://HTTPS///{place}{self.path}" if self.tls else f"http://{place}{self.path}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What one stage may reach.

    ``archives`` are addresses of package archives, and ``teams`` those of a team's caches. In
    ``hosts`` is what the stage declares: a name stands for its ports 80 and 443, ``name:port`` for
    that port, ``*.example`` for all below it.
    """

    mode: Literal["caches", "open"] = "caches"
    archives: frozenset[Address] = frozenset()
    hosts: frozenset[str] = frozenset()
    teams: frozenset[Address] = frozenset()
    offline: bool = False

    def plain(self, address: Address) -> Way:
        """Decide about an unencrypted request: what archives have comes through the apt cache."""
        if address in self.archives or self.declared(address):
            return "cache"
        return "direct" if self.beside_the_cache(address) else "refuse"

    def beside_the_cache(self, address: Address) -> bool:
        """Whether what the apt cache does not take, a tunnel or any other file, may be fetched."""
        if address in self.teams:
            return True
        if self.offline:
            return False
        if self.declared(address):
            return True
        return self.mode == "open" and not is_of_this_host(address.host)

    def declared(self, address: Address) -> bool:
        """Whether the stage names this address."""
        return any(_names(pattern, address) for pattern in self.hosts)

    def may_lead_back(self, address: Address) -> bool:
        """Whether it may be the host that builds: only where somebody named just that."""
        here = is_of_this_host(address.host)
        exact = any(not each.startswith("*") and _names(each, address) for each in self.hosts)
        return address in self.teams or (here and exact)


def asked_for(url: str) -> Asked | None:
    """Return what a URL asks for, through apt-cacher-ng's way for TLS as well; None if nothing."""
    tls = url[: len(_TLS)].lower() == _TLS
    found = _URL.fullmatch(f"https://{url[len(_TLS) :]}" if tls else url)
    if found is None:
        return None
    scheme = found["scheme"].lower()
    port = int(found["port"]) if found["port"] else _PORTS[scheme]
    host = found["host"].strip("[]").lower().rstrip(".")
    if not host or not 0 < port <= _MOST:
        return None
    return Asked(Address(host, port), scheme == "https", found["path"] or "/")


def address_of(url: str) -> Address | None:
    """Return where a URL leads; None if nowhere."""
    found = asked_for(url)
    return found.address if found else None


def address_of_setting(url: str) -> Address:
    """Return where a URL of the project's files or of a server of our own leads.

    It may hold a login, which is nobody's but the gateway's. It was validated with its file.
    """
    found = address_of(_LOGIN.sub("//", url))
    if found is None:
        raise ValueError(f"no URL of a cache: {_LOGIN.sub('//', url)}")
    return found


def authority(text: str) -> Address | None:
    """Return the address in ``HOST:PORT``, what CONNECT asks for."""
    return address_of(f"https://{text}") if "/" not in text else None


def archives_in(lines: Iterable[str]) -> frozenset[Address]:
    """Return where the archives are that lines of a sources.list name."""
    urls = (word for line in lines for word in line.split() if "://" in word)
    return frozenset(found for url in urls if (found := address_of(url)))


def is_of_this_host(host: str) -> bool:
    """Whether a name or number can only mean the host that builds, which no guest may reach."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return is_private_to_a_host(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_private_to_a_host(ip: IP) -> bool:
    """Whether a number is a loopback, link-local or unspecified address: cloud metadata, too."""
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None and is_private_to_a_host(inner):
            return True
    private = ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast
    return private or ip in _METADATA


def _names(pattern: str, address: Address) -> bool:
    name, port = pattern.lower(), ""
    if name.count(":") == 1 or "]:" in name:
        name, _, port = name.rpartition(":")
    if int(port) != address.port if port else address.port not in _PORTS.values():
        return False
    if name.startswith("*."):
        return address.host.endswith(name[1:])
    return address.host == name.strip("[]")
