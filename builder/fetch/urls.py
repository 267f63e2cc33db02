"""What can be read off a URL: the endpoint it asks, the proxy that leads there, what may be shown.

A URL can hold a password before its host and a token in its query. Neither may reach a message, a
log or a record, so whatever is shown of a URL passes :func:`redacted` first.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PORTS = {"http": 80, "https": 443}
# How long a name of a user is at least that is a token: people and machines have shorter ones.
_TOKEN = 16
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


def endpoint(url: str) -> str:
    """Return what of a URL names the server, ``http://mirror.example:80``: no path, no password."""
    parts = urlsplit(url)
    return f"{parts.scheme.lower()}://{place(url)}"


def place(url: str) -> str:
    """Return host and port of a URL, as messages name them: ``mirror.example:80``."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{_port(parts)}"


def redacted(url: str) -> str:
    """Return a URL that may be shown: nothing of its user, and no values of its query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"  # it cannot be told what is a password in it
    names = [item.partition("=")[0] for item in parts.query.split("&") if item]
    shown = "&".join(f"{name}=…" for name in names)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query=shown, fragment="").geturl()


def redacted_text(text: str) -> str:
    """Return a text that may be shown: its URLs redacted."""
    return _URL.sub(lambda found: redacted(found.group()), text)


def secrets_in(text: str, names: re.Pattern[str]) -> Iterator[str]:
    """Yield the secrets of the URLs in a text, as they stand there and as a server is told them.

    They are passwords, values in queries whose names match ``names``, and long names of users
    without a password: these are tokens.
    """
    for found in _URL.findall(text):
        for secret in _secrets_of(found, names):
            yield from dict.fromkeys((secret, unquote(secret)))


def _secrets_of(url: str, names: re.Pattern[str]) -> Iterator[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return  # what is no URL leads to no server
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    if password or len(user) >= _TOKEN:
        yield password or user
    for name, _, value in (item.partition("=") for item in parts.query.split("&")):
        if names.search(name):
            yield value


def is_loopback(host: str) -> bool:
    """Whether a host is this one: nothing for a proxy, which would look at its own loopback."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """Return the proxy that the environment has for a URL; None: go there directly.

    ``NO_PROXY`` holds names (``example.com`` stands for those below it as well), addresses, each
    with a port or without, networks (``192.0.2.0/24``) and ``*``.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if is_loopback(host):
        return None
    if _excepted(host, _port(parts), _variable("no_proxy", environment)):
        return None
    own = _variable(f"{parts.scheme.lower()}_proxy", environment)
    proxy = (own or _variable("all_proxy", environment)).strip()
    return (proxy if "://" in proxy else f"http://{proxy}") if proxy else None


def _variable(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name) or environment.get(name.upper(), "")


def _excepted(host: str, port: int, no_proxy: str) -> bool:
    return any(_excepts(entry.strip().lower(), host, port) for entry in no_proxy.split(","))


def _excepts(entry: str, host: str, port: int) -> bool:
    if entry in {"", "*"}:
        return entry == "*"
    address = _address(host)
    if "/" in entry:
        network = _network(entry)
        return address is not None and network is not None and address in network
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdigit() and ("]" in name or ":" not in name):
        if int(wanted) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").removeprefix(".")
    if address is not None:
        return address == _address(entry)
    return host == entry or host.endswith(f".{entry}")


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or _PORTS.get(parts.scheme.lower(), 0)
    except ValueError:
        return 0  # no number, or too large a one; who connects says so


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(name, strict=False)
    except ValueError:
        return None
