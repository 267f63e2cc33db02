"""A port of the gateway: what is known there, and the server that listens."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from builder.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.gateway.journal import Journal
    from builder.gateway.rules import Address, Rules
    from builder.gateway.sources import Sources
    from builder.gateway.stock import Storekeeper

_log = logging.getLogger(__name__)
_PARTING = 2


@dataclass(frozen=True, slots=True)
class Port:
    """What the gateway does at one of its ports."""

    cache: str
    forwards: bool
    """Whether it is a proxy, which is asked for whole URLs."""
    sources: Sources
    keeper: Storekeeper | None
    rules: Rules
    journal: Journal
    outside: Callable[[Address], socket.socket]
    """Opens a connection past the caches."""
    fresh: dict[str, float]
    """Files that were fetched for whoever is given them first, and in how many seconds."""


class Listener(ThreadingHTTPServer):
    """A port of the host's loopback."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: Port, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__((LOOPBACK, 0), handler)
        self.port = port
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """The port's number."""
        return int(self.server_address[1])

    def handle_error(self, *_: object) -> None:
        """A guest that goes away is no event: programs end, machines are stopped."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("the gateway could not answer a request")

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Remember a connection for as long as it is open."""
        self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)

    def stop(self) -> None:
        """Answer nobody any more, and let those go who are still connected."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + _PARTING
        while self._open and time.monotonic() < deadline:
            time.sleep(0.01)
