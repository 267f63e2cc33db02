"""Connections past the caches, for the hosts that a stage may reach directly.

The way out is that of this host: its proxy where it has one. A name that leads back to this host is
refused whatever the stage says, unless the stage names it: its services are none of a guest's.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import select
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from builder.fetch.urls import proxy_for
from builder.gateway.rules import Address, is_private_to_a_host

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HTTP = 80
_SECONDS = 30
_SILENCE = 300
_BLOCK = 1 << 18
_MOST_OF_A_HEAD = 65536


def connect(
    address: Address,
    *,
    declared: bool,
    environment: Mapping[str, str] = os.environ,
) -> socket.socket:
    """Return an open connection; raise OSError that says why there is none."""
    scheme = "http" if address.port == _HTTP else "https"
    if proxy := proxy_for(f"{scheme}://{address}", environment):
        return _through(proxy, address)
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    numbers = dict.fromkeys(str(where[0]) for *_, where in found)
    allowed = [number for number in numbers if declared or not _leads_back(number)]
    if not allowed:
        raise OSError(f"{address} is this host itself, which a guest may not reach")
    return _first(allowed, address.port)


def _leads_back(number: str) -> bool:
    return is_private_to_a_host(ipaddress.ip_address(number.partition("%")[0]))


def _first(numbers: list[str], port: int) -> socket.socket:
    """Connect to the first of a host's numbers that answers."""
    *others, last = numbers
    for number in others:
        try:
            return socket.create_connection((number, port), timeout=_SECONDS)
        except OSError:
            continue
    return socket.create_connection((last, port), timeout=_SECONDS)


def _through(proxy: str, address: Address) -> socket.socket:
    """Open a tunnel through this host's proxy."""
    parts = urlsplit(proxy)
    tls = parts.scheme == "https"
    place = (parts.hostname or "", parts.port or (443 if tls else _HTTP))
    link = socket.create_connection(place, timeout=_SECONDS)
    try:
        if tls:
            link = ssl.create_default_context().wrap_socket(link, server_hostname=parts.hostname)
        request = f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{_login(proxy)}\r\n"
        link.sendall(request.encode())
        head = _head(link)
    except BaseException:
        link.close()
        raise
    if b" 200" not in head.split(b"\r\n", 1)[0]:
        link.close()
        raise OSError(f"this host's proxy does not lead to {address}")
    return link


def _login(proxy: str) -> str:
    user = unquote(urlsplit(proxy).netloc.rpartition("@")[0])
    return f"Proxy-Authorization: {basic(user)}\r\n" if user else ""


def basic(user: str) -> str:
    """Return what ``user:password`` is in a header (RFC 7617)."""
    return f"Basic {base64.b64encode(user.encode()).decode()}"


def _head(link: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MOST_OF_A_HEAD:
        block = link.recv(1)  # what follows belongs to the tunnel
        if not block:
            break
        head += block
    return head


def relay(near: socket.socket, far: socket.socket) -> tuple[int, int]:
    """Carry bytes both ways until one side closes; return how many went out and came in."""
    counts = {near: 0, far: 0}
    others: dict[socket.socket, socket.socket] = {near: far, far: near}
    open_sides: Sequence[socket.socket] = [near, far]
    while open_sides:
        ready, _, _ = select.select(open_sides, [], [], _SILENCE)
        if not ready:
            break
        for side in ready:
            try:
                block = side.recv(_BLOCK)
                others[side].sendall(block)
            except OSError:
                return counts[near], counts[far]
            counts[side] += len(block)
            if not block:
                open_sides = [each for each in open_sides if each is not side]
                try:
                    others[side].shutdown(socket.SHUT_WR)
                except OSError:
                    return counts[near], counts[far]
    return counts[near], counts[far]
