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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.caches.pypi import server_folder
from builder.caches.state import Places
from builder.errors import host_error
from builder.gateway.journal import Journal
from builder.gateway.ledger import Ledger
from builder.gateway.listener import Listener, Port
from builder.gateway.lists import Lists
from builder.gateway.outside import connect
from builder.gateway.rules import (
    Address,
    Rules,
    address_of,
    address_of_setting,
    archives_in,
)
from builder.gateway.server import Handler
from builder.gateway.sources import AptSources, IndexSources, Pauses
from builder.gateway.stock import AptStock, PypiStock, Stock, Storekeeper
from builder.gateway.tally import Sum, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path
    from socket import socket

    from builder.fetch.breaker import Breakers
    from builder.gateway.sources import Sources

__all__ = [
    "Address", "Gateway", "Journal", "Pauses", "Rules", "Stock", "Sum", "Tally", "address_of",
    "address_of_setting",
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
    gateway = replace(gateway, told=_once(gateway.told))
    ledger = Ledger(gateway.var / "index/ledger.jsonl")
    book = Journal(journal)
    with contextlib.ExitStack() as stack:
        found: dict[str, str] = {}
        for name, url in gateway.urls.items():
            listener = Listener(_port(gateway, name, url, ledger, book), Handler)
            stack.callback(listener.stop)
            parts = urlsplit(url)
            found[name] = parts._replace(
                scheme="http", netloc=f"127.0.0.1:{listener.number}"
            ).geturl()
        yield found
    if book.trouble:
        raise host_error(book.trouble) or book.trouble


def _once(told: Callable[[str], None]) -> Callable[[str], None]:
    """Tell each thing once: a build asks for hundreds of packages."""
    said: set[str] = set()

    def tell(text: str) -> None:
        if text not in said:
            said.add(text)
            told(text)

    return tell


def _port(gateway: Gateway, name: str, url: str, ledger: Ledger, journal: Journal) -> Port:
    stock = stocks(gateway.var, gateway.own).get(name)
    keeper = None
    if stock:
        keeper = Storekeeper(
            name, stock, ledger, gateway.var / "quarantine", gateway.told,
            lists=Lists(stock.folder) if isinstance(stock, AptStock) else None,
            asks=not gateway.rules.offline,
        )  # fmt: skip

    def outside(address: Address) -> socket:
        return connect(address, declared=gateway.rules.may_lead_back(address))

    return Port(
        cache=name,
        forwards=name in _PROXIES,
        sources=_sources(gateway, name, url, keeper),
        keeper=keeper,
        rules=gateway.rules,
        journal=journal,
        outside=outside,
        fresh=gateway.fresh,
    )


def _sources(gateway: Gateway, name: str, url: str, keeper: Storekeeper | None) -> Sources:
    if name not in _PROXIES:
        return IndexSources(url, own=name in gateway.own, pauses=gateway.pauses)

    def alone(wanted: str) -> Address | None:
        if keeper:
            keeper.restore(wanted)
        return gateway.alone(wanted)

    where = address_of_setting(url)
    return AptSources(where, gateway.mirrors, gateway.breakers, alone, gateway.told, gateway.pauses)


def stocks(var: Path, own: Collection[str]) -> dict[str, Stock]:
    """Return where caches of our own keep their files, by name; of some nobody looks."""
    found: dict[str, Stock] = {
        "apt": AptStock(var / "apt/packages"),
        "pypi": PypiStock(server_folder(Places("pypi", var, var)) / "+files"),
    }
    return {name: stock for name, stock in found.items() if name in own}
