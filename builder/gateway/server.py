"""The gateway's servers: one port for each cache, each request handed on and written down.

A request is answered by the first of several sources that can: the cache, the cache asked for a
mirror's copy, the cache without its upstream. What never changes at its address is read on the disk
before it is handed out. The bytes pass through here, so their digest is known when the last of them
leaves; the journal has it before the guest does.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, cast

from builder.fetch.urls import redacted
from builder.gateway.answers import Body, BrokenError, Reply, ask
from builder.gateway.outside import relay
from builder.gateway.rules import Address, Asked, address_of, asked_for, authority
from builder.gateway.sources import Source
from builder.gateway.stock import digest_in, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.gateway.listener import Listener, Port


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
_TROUBLE = 500  # from here on it is not our fault (RFC 9110)
# What clients of a hub ask beside models, and do without.
_ASIDE = re.compile(r"/api/(?!models/)")
# How caches say, without an upstream, that they do not have something.
_MISSING = {404, 410, 500, 502, 503, 504}


class Handler(BaseHTTPRequestHandler):
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
        if self._has_body() or not self._port.forwards:
            self._say(400, "no tunnel begins so")
            return
        if address is None or not self._port.rules.beside_the_cache(address):
            self._refuse(address)
            return
        self._tunnel(address)

    def log_message(self, *_: object) -> None:
        """The journal has what there is to say."""

    # --- through a cache ---

    def _serve(self) -> None:
        if self._has_body():
            self._say(400, "a request to a cache has no body")
        elif self._port.forwards:
            self._forward()
        elif re.match(r"/(?!/)", self.path):
            self._from_cache(self.path)
        else:
            self._say(400, "this is no proxy")

    def _forward(self) -> None:
        asked = asked_for(self.path)
        way = self._port.rules.plain(asked.address) if asked else "refuse"
        if asked is None or way == "refuse":
            self._refuse(asked.address if asked else None)
        elif way == "direct" or self._is_signed(asked):
            self._serve_beside()
        else:
            self._from_cache(asked.url)

    def _is_signed(self, asked: Asked) -> bool:
        """Whether it was signed for one guest: no cache takes it, and its log has no secrets."""
        secret = redacted(asked.url) != asked.url
        return secret and self._port.rules.beside_the_cache(asked.address)

    def _has_body(self) -> bool:
        length = self.headers.get("Content-Length", "0").strip()
        return length != "0" or "Transfer-Encoding" in self.headers

    def _from_cache(self, url: str) -> None:
        before = None
        if keeper := self._port.keeper:
            keeper.inspect(url)
            before = keeper.state(url)
        started = time.monotonic()
        source, answer = self._answered(url, fetched=before is None)
        status = answer.status if answer else 503
        if self._port.rules.offline and status in _MISSING:
            self._missing(url)
        elif status >= _TROUBLE:
            self._broken(url, status)
        if answer is None:
            self._say(503, source)
            return
        address = address_of(url) if self._port.forwards else None
        if answer.status == _FORBIDDEN and address and self._port.rules.beside_the_cache(address):
            answer.close()
            self._serve_beside()
            return
        self._note_refusal(answer, address)

        def again() -> Reply | None:
            nonlocal source
            if keeper:
                keeper.inspect(url)
            source, reply = self._answered(url, fetched=False)
            return reply

        self._hand_back(
            answer, url, lambda: self._origin(url, before, source), started, again=again
        )

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
                # The cache itself does not answer, which says nothing of its upstream.
                answer, why = None, f"{type(error).__name__}: {error}"
                continue
            if answer.status < _TROUBLE:
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
        if source.login:
            headers["Authorization"] = source.login
        headers["Connection"] = "close"
        return ask(link, self.command, source.target, headers)

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
        asked = asked_for(self.path) if self._port.forwards else None
        if asked is None or not self._port.rules.beside_the_cache(asked.address):
            self._refuse(asked.address if asked else None)
            return
        length = self.headers.get("Content-Length", "0").strip()
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            self._say(400, "a body has a length here")
            return
        started = time.monotonic()
        try:
            answer = self._ask_beside(asked, int(length))
        except (OSError, http.client.HTTPException) as error:
            self._port.journal.write("failed", address=str(asked.address), status=502)
            self._say(502, f"{asked.address} does not answer: {error}")
            return
        # What was in the body is read or not: what follows is nobody's to understand.
        self.close_connection = self.close_connection or length != "0"
        # No names of a query either: what was signed for somebody is another address each time.
        where = redacted(asked.url.partition("?")[0])
        self._hand_back(answer, where, lambda: "upstream", started, cache="direct")

    def _ask_beside(self, asked: Asked, length: int) -> Reply:
        address = asked.address
        link = http.client.HTTPConnection(address.host, address.port, timeout=_SECONDS)
        link.sock = self._port.outside(address)
        host = str(address).removesuffix(":80")
        headers = {**self._headers_on(), "Host": host, "Connection": "close"}
        if length:
            headers["Content-Length"] = str(length)
        return ask(link, self.command, asked.path, headers, self._body(length))

    def _body(self, length: int) -> Iterator[bytes] | None:
        """Return what the guest sends, as it comes: it may be larger than memory."""
        return self._blocks(length) if length else None

    def _blocks(self, length: int) -> Iterator[bytes]:
        while length and (block := self.rfile.read(min(length, _BLOCK))):
            length -= len(block)
            yield block

    def _tunnel(self, address: Address) -> None:
        try:
            far = self._port.outside(address)
        except OSError as error:
            self._port.journal.write("failed", address=str(address), status=502)
            self._say(502, f"{address} does not answer: {error}")
            return
        opened, where = time.time(), str(address)
        with far:
            # Written down before a byte passes: a checkpoint may be made while it is open.
            self._port.journal.write("tunnel", at=opened, address=where)
            self.send_response_only(200, "Connection established")
            self.end_headers()
            self.wfile.flush()
            sent, received = relay(self.connection, far)
        self._port.journal.write("tunnel", at=opened, address=where, sent=sent, bytes=received)
        self.close_connection = True

    # --- back to the guest ---

    def _hand_back(
        self,
        reply: Reply,
        url: str,
        origin: Callable[[], str],
        started: float,
        cache: str | None = None,
        again: Callable[[], Reply | None] | None = None,
    ) -> None:
        """Pass an answer on, its last block only when the journal has the digest of the whole."""
        given = reply.status == 200 and self.command == "GET"  # noqa: PLR2004
        own = given and cache is None
        body = Body(reply, again if own else None, lambda sha256: own and self._denies(url, sha256))
        with contextlib.closing(body):
            chunked = self._begin(reply.answer)
            try:
                held = b""
                for block in body.blocks():
                    self._send(held, chunked=chunked)
                    held = block
            except (OSError, BrokenError):
                # The guest must see that it is broken: it asks again.
                self._broken(url, reply.status, cache)
                self.close_connection = True
                return
            if given:
                self._handed(url, body, origin(), started, cache)
            if own and self._port.keeper:
                modified = reply.answer.getheader("Last-Modified")
                self._port.keeper.handed(url, body.sha256, body.count, modified)
            if own and self._port.rules.offline and _is_empty_page(url, held):
                self._missing(url)
            self._send(held, chunked=chunked)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()

    def _denies(self, url: str, sha256: str) -> bool:
        """Whether the bytes that came are not those that an address must have."""
        if keeper := self._port.keeper:
            return keeper.denies(url, sha256) is not None
        named = digest_in(url)
        return named is not None and not sha256.startswith(named)

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

    def _missing(self, url: str) -> None:
        if not _ASIDE.match(url):
            self._port.journal.write("missing", cache=self._port.cache, url=self._shown(url))

    def _broken(self, url: str, status: int, cache: str | None = None) -> None:
        name = cache or self._port.cache
        self._port.journal.write("failed", cache=name, url=self._shown(url), status=status)

    def _shown(self, url: str) -> str:
        """Return an address as records have it.

        What stands before a host or behind a question mark may be a secret.
        """
        shown = redacted(url)
        return shown if self._port.forwards else shown.lstrip("/")

    def _handed(self, url: str, body: Body, origin: str, started: float, cache: str | None) -> None:
        seconds = time.monotonic() - started
        if (took := self._port.fresh.pop(body.sha256, None)) is not None:
            origin, seconds = "upstream", took
        self._port.journal.write(
            "handed", cache=cache or self._port.cache, url=self._shown(url), sha256=body.sha256,
            bytes=body.count, kind=kind_of(url), origin=origin, seconds=round(seconds, 4),
        )  # fmt: skip

    def _refuse(self, address: Address | None) -> None:
        where = str(address) if address else redacted(self.path)
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


def _is_empty_page(url: str, end: bytes) -> bool:
    """Whether a page of an index lists nothing: offline, devpi-server leaves out what it lacks."""
    return "/+simple/" in url and b"+f/" not in end
