"""The one way out of a guest: what the caches give passes here, is checked, and is written down.

::

    guest ──► forwarder of the engine ──► gateway (this process, a port for each cache) ──► caches
                                             │
                                             ├─ rules       may this stage reach it?
                                             ├─ stock       is what the cache has what it was?
                                             ├─ sources     mirrors, breakers, the cache by itself
                                             └─ journal     URL, size, SHA-256: the network lock

A gateway belongs to one stage that is built, and ends with it. Nothing of it is in a key.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.caches.pypi import server_folder
from builder.caches.state import Places
from builder.gateway.journal import Journal
from builder.gateway.ledger import Ledger
from builder.gateway.outside import connect
from builder.gateway.rules import Address, Rules, address_of, archives_in
from builder.gateway.server import Listener, Port
from builder.gateway.sources import AptSources, IndexSources, Pauses
from builder.gateway.stock import AptStock, PypiStock, Stock, Storekeeper
from builder.gateway.tally import Sum, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path
    from socket import socket

    from builder.fetch.breaker import Breakers
    from builder.gateway.server import Sources

__all__ = [
    "Address", "Gateway", "Journal", "Pauses", "Rules", "Stock", "Sum", "Tally", "address_of",
    "archives_in", "opened", "stocks",
]  # fmt: skip

_PROXIES = ("apt",)


def _nobody(_: str) -> Address | None:
    return None


def _hush(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """What a gateway leads to: the caches' URLs by name, and what is known of each.

    ``own`` are the caches that this project runs itself, whose files lie below ``var``; ``mirrors``
    and ``alone`` are those of :class:`~builder.gateway.sources.AptSources`. ``fresh`` names files
    by digest that were fetched for this run before a guest asked, with the seconds that it took:
    the first that is given one of them is told as who it was fetched for.
    """

    urls: Mapping[str, str]
    rules: Rules
    var: Path
    own: frozenset[str] = frozenset()
    mirrors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    breakers: Breakers | None = None
    alone: Callable[[str], Address | None] = _nobody
    told: Callable[[str], None] = _hush
    pauses: Pauses = field(default_factory=Pauses)
    fresh: dict[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def opened(gateway: Gateway, journal: Path) -> Iterator[dict[str, str]]:
    """Serve for the length of the block; yield the caches' URLs as they are at the gateway."""
    ledger = Ledger(gateway.var / "index/ledger.jsonl")
    book = Journal(journal)
    with contextlib.ExitStack() as stack:
        found: dict[str, str] = {}
        for name, url in gateway.urls.items():
            listener = Listener(_port(gateway, name, url, ledger, book))
            stack.callback(listener.stop)
            parts = urlsplit(url)
            found[name] = parts._replace(
                scheme="http", netloc=f"127.0.0.1:{listener.number}"
            ).geturl()
        yield found


def _port(gateway: Gateway, name: str, url: str, ledger: Ledger, journal: Journal) -> Port:
    stock = stocks(gateway.var, gateway.own).get(name)
    keeper = None
    if stock:
        keeper = Storekeeper(name, stock, ledger, gateway.var / "quarantine", gateway.told)

    def outside(address: Address) -> socket:
        return connect(address, declared=gateway.rules.declared(address.host))

    return Port(
        cache=name,
        forwards=name in _PROXIES,
        sources=_sources(gateway, name, url),
        keeper=keeper,
        rules=gateway.rules,
        journal=journal,
        outside=outside,
        fresh=gateway.fresh,
    )


def _sources(gateway: Gateway, name: str, url: str) -> Sources:
    if name not in _PROXIES:
        return IndexSources(url, own=name in gateway.own, pauses=gateway.pauses)
    address = address_of(url)
    assert address is not None, "settings and servers have whole URLs"  # noqa: S101
    return AptSources(
        address, gateway.mirrors, gateway.breakers, gateway.alone, gateway.told, gateway.pauses
    )


def stocks(var: Path, own: Collection[str]) -> dict[str, Stock]:
    """Return where caches of our own keep their files, by name; of some nobody looks."""
    found: dict[str, Stock] = {
        "apt": AptStock(var / "apt/packages"),
        "pypi": PypiStock(server_folder(Places("pypi", var, var)) / "+files"),
    }
    return {name: stock for name, stock in found.items() if name in own}
