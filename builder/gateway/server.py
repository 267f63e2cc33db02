"""The gateway's servers: one port for each cache, each request handed on and written down.

A request is answered by the first of several sources that can: the cache, the cache asked for a
mirror's copy, the cache without its upstream. What never changes at its address is read on the disk
before it is handed out. The bytes pass through here, so their digest is known when the last of them
leaves; the journal has it before the guest does.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import select
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

from builder.gateway.rules import Address, address_of, authority
from builder.gateway.stock import digest_in, kind_of
from builder.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.gateway.journal import Journal
    from builder.gateway.rules import Rules
    from builder.gateway.stock import Storekeeper

_BLOCK = 1 << 18
_SECONDS = 300
# Hop by hop (RFC 9110, 7.6.1), and what would bring a part of a thing, or no thing, or one that is
# packed: then nobody knew the digest of the whole.
_NOT_HANDED_ON = {
    "connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "range", "if-range", "if-modified-since", "if-none-match",
    "accept-encoding", "content-length",
}  # fmt: skip
_NOT_HANDED_BACK = {
    "connection", "keep-alive", "proxy-authenticate", "trailer", "transfer-encoding", "upgrade",
    "accept-ranges", "content-length",
}  # fmt: skip
_FORBIDDEN = 403
# How caches say, without an upstream, that they do not have something.
_MISSING = {404, 410, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Source:
    """One place that may answer a request: where it is, and what is asked there.

    ``upstream`` is the endpoint that the answer depends on beside the cache, for the breaker.
    """

    address: Address
    target: str
    host: str | None = None
    upstream: str | None = None
    stale: bool = False
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body is still to be read, and the connection that it comes over."""

    link: http.client.HTTPConnection
    answer: http.client.HTTPResponse

    @property
    def status(self) -> int:
        """The status (RFC 9110, 15)."""
        return self.answer.status

    def close(self) -> None:
        """Let both go."""
        self.answer.close()
        self.link.close()


def asked(
    link: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> Reply:
    """Send a request and return the answer; raise OSError or HTTPException when there is none."""
    try:
        link.request(method, target, body=body, headers=headers)
        return Reply(link, link.getresponse())
    except BaseException:
        link.close()
        raise


class Sources(Protocol):
    """Who knows the places that may answer."""

    def of(self, url: str) -> Iterator[Source]:
        """Yield them, the best first; each only when those before it failed."""

    def worked(self, source: Source) -> None:
        """A source answered."""

    def failed(self, source: Source, why: str) -> None:
        """A source did not answer, or only that it cannot."""


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

    def __init__(self, port: Port) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.port = port
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """The port's number."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A guest that goes away is no event: programs end, machines are stopped."""

    def stop(self) -> None:
        """Answer nobody any more."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection of a guest."""

    protocol_version = "HTTP/1.1"
    timeout = _SECONDS
    # What is small must not wait for the last thing to arrive: 40 ms for each.
    disable_nagle_algorithm = True

    @property
    def _port(self) -> Port:
        return cast("Listener", self.server).port

    def do_GET(self) -> None:
        """Hand on what is asked for."""
        self._serve()

    def do_HEAD(self) -> None:
        """Hand on what it is like."""
        self._serve()

    def do_POST(self) -> None:
        """Let through what the stage allows; caches take nothing."""
        self._serve_beside()

    do_PUT = do_POST  # noqa: N815 - the base class looks for it
    do_DELETE = do_POST  # noqa: N815 - the base class looks for it
    do_PATCH = do_POST  # noqa: N815 - the base class looks for it
    do_OPTIONS = do_POST  # noqa: N815 - the base class looks for it

    def do_CONNECT(self) -> None:
        """Open a tunnel, where the stage allows one."""
        address = authority(self.path)
        if address is None or not self._port.rules.beside_the_cache(address):
            self._refuse(address)
            return
        self._tunnel(address)

    def log_message(self, *_: object) -> None:
        """The journal has what there is to say."""

    # --- through a cache ---

    def _serve(self) -> None:
        port = self._port
        if not port.forwards:
            self._from_cache(self.path)
            return
        url = self.path if "://" in self.path else f"http:/{self.path}"
        address = address_of(url)
        if address is None or port.rules.plain(address) == "refuse":
            self._refuse(address)
            return
        self._from_cache(url)

    def _from_cache(self, url: str) -> None:
        before = None
        if keeper := self._port.keeper:
            keeper.inspect(url)
            before = keeper.state(url)
        started = time.monotonic()
        source, answer = self._answered(url, fetched=before is None)
        if self._port.rules.offline and (answer is None or answer.status in _MISSING):
            self._port.journal.write("missing", cache=self._port.cache, url=url)
        if answer is None:
            self._say(503, source)
            return
        address = address_of(url) if self._port.forwards else None
        if answer.status == _FORBIDDEN and address and self._port.rules.beside_the_cache(address):
            answer.close()
            self._serve_beside()
            return
        self._note_refusal(answer, address)
        self._hand_back(answer, url, lambda: self._origin(url, before, source), started)

    def _answered(self, url: str, *, fetched: bool) -> tuple[Source | str, Reply | None]:
        """Return the first good answer and who gave it; else why there is none.

        ``fetched``: the cache does not have it, so a good answer says that upstream is there.
        """
        why = "no source is left"
        answer: Reply | None = None
        for source in self._port.sources.of(url):
            if answer:
                answer.close()
            try:
                answer = self._ask(source)
            except (OSError, http.client.HTTPException) as error:
                answer, why = None, f"{type(error).__name__}: {error}"
                self._port.sources.failed(source, why)
                continue
            if answer.status < 500:  # noqa: PLR2004 - from here on it is not our fault (RFC 9110)
                if fetched:
                    self._port.sources.worked(source)
                return source, answer
            why = f"{answer.status} {answer.answer.reason}"
            self._port.sources.failed(source, why)
        return (source, answer) if answer else (why, None)

    def _ask(self, source: Source) -> Reply:
        address = source.address
        kind = http.client.HTTPSConnection if source.tls else http.client.HTTPConnection
        link = kind(address.host, address.port, timeout=_SECONDS)
        headers = self._headers_on()
        if source.host:
            headers["Host"] = source.host
        headers["Connection"] = "close"
        return asked(link, self.command, source.target, headers)

    def _headers_on(self) -> dict[str, str]:
        kept = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_HANDED_ON}
        return {**kept, "Accept-Encoding": "identity"}

    def _origin(self, url: str, before: object, source: Source | str) -> str:
        if isinstance(source, Source) and source.stale:
            return "stale"
        keeper = self._port.keeper
        if keeper is None or keeper.stock.place(url) is None:
            return "cache" if self._port.rules.offline or keeper is None else "upstream"
        return "cache" if before and before == keeper.state(url) else "upstream"

    def _note_refusal(self, answer: Reply, address: Address | None) -> None:
        if answer.status == _FORBIDDEN and address:
            self._port.journal.write("refused", address=str(address))

    # --- past the caches ---

    def _serve_beside(self) -> None:
        """Fetch what no cache takes from a host that the stage allows."""
        address = address_of(self.path) if self._port.forwards else None
        if address is None or not self._port.rules.beside_the_cache(address):
            self._refuse(address)
            return
        parts = urlsplit(self.path)
        target = parts._replace(scheme="", netloc="").geturl() or "/"
        length = int(self.headers.get("Content-Length") or 0)
        started = time.monotonic()
        link = http.client.HTTPConnection(address.host, address.port, timeout=_SECONDS)
        try:
            link.sock = self._port.outside(address)
            body = self.rfile.read(length) if length else None
            headers = {**self._headers_on(), "Host": parts.netloc, "Connection": "close"}
            answer = asked(link, self.command, target, headers, body)
        except (OSError, http.client.HTTPException) as error:
            self._port.journal.write("failed", address=str(address), status=502)
            self._say(502, f"{address} does not answer: {error}")
            return
        # What stands behind a question mark may be a token, which no record may have.
        where = self.path.partition("?")[0]
        self._hand_back(answer, where, lambda: "upstream", started, cache="direct")

    def _tunnel(self, address: Address) -> None:
        try:
            far = self._port.outside(address)
        except OSError as error:
            self._port.journal.write("failed", address=str(address), status=502)
            self._say(502, f"{address} does not answer: {error}")
            return
        with far:
            self.send_response_only(200, "Connection established")
            self.end_headers()
            self.wfile.flush()
            sent, received = relay(self.connection, far)
        self._port.journal.write("tunnel", address=str(address), sent=sent, bytes=received)
        self.close_connection = True

    # --- back to the guest ---

    def _hand_back(
        self,
        reply: Reply,
        url: str,
        origin: Callable[[], str],
        started: float,
        cache: str | None = None,
    ) -> None:
        """Pass an answer on, its last block only when the journal has the digest of the whole."""
        digest, count, answer = hashlib.sha256(), 0, reply.answer
        with contextlib.closing(reply):
            chunked = self._begin(answer)
            held = b""
            try:
                while block := answer.read(_BLOCK):
                    self._send(held, chunked=chunked)
                    digest.update(block)
                    count += len(block)
                    held = block
                whole = answer.length in {None, 0} or self.command == "HEAD"
            except (OSError, http.client.HTTPException):
                whole = False
            wanted = digest_in(url) if answer.status == 200 else None  # noqa: PLR2004
            if not whole or (wanted and count and not digest.hexdigest().startswith(wanted)):
                # The guest must see that it is broken: it asks again.
                self._port.journal.write(
                    "failed", cache=cache or self._port.cache, url=url, status=answer.status
                )
                self.close_connection = True
                return
            if answer.status == 200 and self.command == "GET":  # noqa: PLR2004
                self._handed(url, digest.hexdigest(), count, origin(), started, cache)
            self._send(held, chunked=chunked)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()

    def _begin(self, answer: http.client.HTTPResponse) -> bool:
        """Send the head of an answer; return whether its body goes in chunks."""
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _NOT_HANDED_BACK:
                self.send_header(name, value)
        length = answer.getheader("Content-Length")
        bare = self.command == "HEAD" or answer.status in {204, 304}
        chunked = length is None and not bare and self.request_version != "HTTP/1.0"
        if length is not None:
            self.send_header("Content-Length", length)
        elif chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif not bare:
            self.close_connection = True
        self.end_headers()
        return chunked

    def _send(self, block: bytes, *, chunked: bool) -> None:
        if not block:
            return
        self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)

    def _handed(
        self, url: str, sha256: str, count: int, origin: str, started: float, cache: str | None
    ) -> None:
        port, kind = self._port, kind_of(url)
        name, seconds = cache or port.cache, time.monotonic() - started
        if (took := port.fresh.pop(sha256, None)) is not None:
            origin, seconds = "upstream", took
        port.journal.write(
            "handed", cache=name, url=url if port.forwards else url.lstrip("/"), sha256=sha256,
            bytes=count, kind=kind, origin=origin, seconds=round(seconds, 4),
        )  # fmt: skip
        if kind == "file" and port.keeper and cache is None:
            port.keeper.ledger.learn(name, url, sha256, count)

    def _refuse(self, address: Address | None) -> None:
        where = str(address) if address else self.path
        self._port.journal.write("refused", address=where)
        text = f"vaultbuild: this stage may not reach {where}; see network in its stage.yml"
        self._say(_FORBIDDEN, text)

    def _say(self, status: int, text: Source | str) -> None:
        body = f"{text}\n".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True


def relay(near: socket.socket, far: socket.socket) -> tuple[int, int]:
    """Carry bytes both ways until one side closes; return how many went out and came in."""
    counts = {near: 0, far: 0}
    others: dict[socket.socket, socket.socket] = {near: far, far: near}
    open_sides: Sequence[socket.socket] = [near, far]
    while open_sides:
        ready, _, _ = select.select(open_sides, [], [], _SECONDS)
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
