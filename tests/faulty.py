"""An upstream on the loopback that fails as it is told to, and remembers what it was asked.

::

    with Upstream({"/pool/hello.deb": b"..."}) as upstream:
        upstream.reset("/pool/hello.deb", after=100, times=2)
        ...                                         # fetch upstream.url + "/pool/hello.deb"
        assert [request.status for request in upstream.requests] == [200, 206, 206]

It serves files as a good mirror does: ``ETag``, ``Last-Modified``, ranges, conditional requests,
``HEAD``, connections that stay open. A fault is set for a path and, with ``times``, for so many
requests; without, for all. Faults of a path happen in the order in which they were set, one for
each request. ``ANY`` stands for every path that has no fault of its own.

It also answers as an HTTP proxy would, with what it has under the path of the URL, so that a test
can see who came by that way. Tests get one from the fixtures ``upstream`` and ``upstreams``.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.server
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

ANY = "*"
LONG_AGO = 1_700_000_000.0  # what was modified then can be asked for by that time
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
_BLOCK = 1 << 16


@dataclass
class Request:
    """One request as it came, and what became of it. ``sent`` counts bytes of the body."""

    method: str
    path: str  # as asked: with its query, and absolute where the server was taken for a proxy
    headers: Mapping[str, str]  # names in small letters
    status: int = 0  # 0: the connection was cut before any answer
    sent: int = 0


@dataclass
class File:
    """What is served at a path. ``etag`` None: none is sent; likewise ``modified``."""

    data: bytes
    etag: str | None
    modified: float | None
    ranges: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What happens to a request instead of, or on the way to, a good answer."""

    times: int | None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reset_after: int | None = None  # bytes of the body; -1: before the status line
    close_after: int | None = None  # likewise, but with an orderly end of the connection
    data: bytes | None = None
    becomes: bytes | None = None  # the path's content from the next request on
    drip: tuple[int, float] | None = None  # bytes at a time, seconds between them
    hang: bool = False
    ignores_ranges: bool = False
    ignores_if_range: bool = False


class Upstream:
    """A server on 127.0.0.1 with ``files``; start it with ``with``, or :meth:`start`/:meth:`stop`.

    ``tls`` makes it speak HTTPS; ``port`` 0 is any. ``url`` has no slash at its end.
    """

    def __init__(
        self, files: Mapping[str, bytes] | None = None, *,
        tls: ssl.SSLContext | None = None, port: int = 0,
    ) -> None:  # fmt: skip
        self.requests: list[Request] = []
        self.files: dict[str, File] = {}
        self._faults: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()
        self._tls = tls
        self._port = port
        self._server: http.server.ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._released = threading.Event()
        for path, data in (files or {}).items():
            self.put(path, data)

    # --- its life ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Listen; again on the same port after a :meth:`stop`."""
        self._released.clear()
        self._server = _Server(("127.0.0.1", self._port), _handler(self))
        self._port = self._server.server_address[1]
        if self._tls:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def stop(self) -> None:
        """Cut all connections and refuse new ones."""
        if self._server is None:
            return
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()
        self._thread.join()
        self._server = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://{self.address}"

    # --- what it has ------------------------------------------------------------------------------

    def put(
        self,
        path: str,
        data: bytes,
        *,
        etag: str | None = "auto",
        modified: float | None = LONG_AGO,
        ranges: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Serve ``data`` at ``path``; return its SHA-256.

        The ETag follows from the data, unless one is given with its quotation marks, or None.
        """
        digest = hashlib.sha256(data).hexdigest()
        tag = f'"{digest[:16]}"' if etag == "auto" else etag
        with self._lock:
            self.files[path] = File(data, tag, modified, ranges, headers or {})
        return digest

    def remove(self, path: str) -> None:
        """Answer 404 at ``path``."""
        with self._lock:
            del self.files[path]

    def asked(self, path: str) -> list[Request]:
        """Return the requests for a path, in their order."""
        return [request for request in self.requests if request.path == path]

    @property
    def sent(self) -> int:
        """Return how many bytes of bodies were sent in all."""
        return sum(request.sent for request in self.requests)

    # --- faults -----------------------------------------------------------------------------------

    def heal(self, path: str | None = None) -> None:
        """Forget the faults of a path, or all of them."""
        with self._lock:
            if path is None:
                self._faults.clear()
            else:
                self._faults.pop(path, None)

    def status(
        self,
        path: str,
        status: int,
        *,
        retry_after: str | int | None = None,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
    ) -> None:
        """Answer with a status (503, 429, 404, ...), with a ``Retry-After`` where one is given."""
        more = dict(headers or {})
        if retry_after is not None:
            more["Retry-After"] = str(retry_after)
        self._add(path, Fault(times, status=status, headers=more))

    def redirect(self, path: str, to: str, *, times: int | None = None) -> None:
        """Send a client elsewhere."""
        self.status(path, 302, headers={"Location": to}, times=times)

    def reset(self, path: str, *, after: int = -1, times: int | None = None) -> None:
        """Cut the connection hard (RST), before any answer or after so many bytes of the body."""
        self._add(path, Fault(times, reset_after=after))

    def truncate(self, path: str, *, after: int, times: int | None = None) -> None:
        """End the connection in good order before the body has as many bytes as were announced."""
        self._add(path, Fault(times, close_after=after))

    def corrupt(self, path: str, data: bytes | None = None, *, times: int | None = None) -> None:
        """Serve other bytes; without ``data``, the right ones with one bit turned."""
        if data is None:
            right = self.files[path].data
            data = bytes([right[0] ^ 1]) + right[1:]
        self._add(path, Fault(times, data=data))

    def drip(
        self, path: str, *, count: int = 1, seconds: float = 0.05, times: int | None = None
    ) -> None:
        """Send ``count`` bytes, wait, and so on."""
        self._add(path, Fault(times, drip=(count, seconds)))

    def hang(self, path: str, *, after: int | None = None, times: int | None = None) -> None:
        """Never answer, or say nothing more after so many bytes; until the server is stopped."""
        self._add(path, Fault(times, hang=True, close_after=after))

    def refuse_ranges(self, path: str, *, times: int | None = None) -> None:
        """Give all of a file to who asks for a part of it."""
        self._add(path, Fault(times, ignores_ranges=True))

    def ignore_if_range(self, path: str, *, times: int | None = None) -> None:
        """Give the part that is asked for whatever version it was to be of."""
        self._add(path, Fault(times, ignores_if_range=True))

    def change(self, path: str, data: bytes, *, after: int) -> None:
        """Cut a download after so many bytes and serve another version from then on."""
        self._add(path, Fault(1, reset_after=after, becomes=data))

    def _add(self, path: str, fault: Fault) -> None:
        with self._lock:
            self._faults.setdefault(path, []).append(fault)

    # --- for the handler --------------------------------------------------------------------------

    def take(self, path: str) -> tuple[File | None, Fault]:
        """Return what is served at a path, and what happens to this request."""
        bare = path.partition("?")[0]
        with self._lock:
            file = self.files.get(path) or self.files.get(bare)
            fault = self._next(path) or self._next(bare) or self._next(ANY) or Fault(None)
            if fault.becomes is not None and file:
                digest = hashlib.sha256(fault.becomes).hexdigest()
                changed = File(fault.becomes, f'"{digest[:16]}"', LONG_AGO + 3600)
                self.files[path if path in self.files else bare] = changed
        return file, fault

    def _next(self, path: str) -> Fault | None:
        for fault in self._faults.get(path, []):
            if fault.times is None:
                return fault
            if fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def note(self, request: Request) -> None:
        """Remember a request."""
        with self._lock:
            self.requests.append(request)

    def wait_for_the_end(self) -> None:
        """Return when the server is stopped."""
        self._released.wait()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, *arguments) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request, client_address) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        self.cut()  # first: closing waits for the threads of all connections
        super().server_close()

    def cut(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address) -> None:
        """Clients that go away are part of the tests."""


def _handler(upstream: Upstream) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each small answer waits 40 ms for an acknowledgement

        def do_GET(self) -> None:
            headers = {name.lower(): text for name, text in self.headers.items()}
            request = Request(self.command, self.path, headers)
            upstream.note(request)  # before the answer, after which a test may look at once
            try:
                _Exchange(self, upstream, request).answer()
            except OSError:
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


class _Exchange:
    """One request and its answer."""

    def __init__(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        upstream: Upstream,
        request: Request,
    ) -> None:
        self._handler = handler
        self._upstream = upstream
        self._request = request

    def answer(self) -> None:
        parts = urlsplit(self._handler.path)
        path = parts._replace(scheme="", netloc="").geturl() or "/"
        file, fault = self._upstream.take(path)
        if fault.reset_after == -1:
            self._cut()
        elif fault.hang and fault.close_after is None:
            self._upstream.wait_for_the_end()
            self._handler.close_connection = True
        elif fault.status is not None:
            self._begin(fault.status, {"Content-Length": "0", **fault.headers})
        elif file is None:
            self._begin(404, {"Content-Length": "0"})
        else:
            self._file(file, fault)

    def _file(self, file: File, fault: Fault) -> None:
        data = file.data if fault.data is None else fault.data
        headers = _headers(file)
        asked = self._handler.headers
        if _not_modified(file, asked):
            self._begin(304, headers)
            return
        same = fault.ignores_if_range or asked.get("If-Range") in {None, *_validators(file)}
        usable = file.ranges and not fault.ignores_ranges and same
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.get("Range", "")) if usable else None
        if not found:
            self._begin(200, {**headers, "Content-Length": str(len(data))})
            self._body(data, fault)
            return
        first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
        if first >= len(data):
            self._begin(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
            return
        part = data[first : last + 1]
        place = f"bytes {first}-{last}/{len(data)}"
        self._begin(206, {**headers, "Content-Range": place, "Content-Length": str(len(part))})
        self._body(part, fault)

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self._request.status = status
        self._handler.send_response(status)
        for name, text in headers.items():
            self._handler.send_header(name, text)
        self._handler.end_headers()

    def _body(self, data: bytes, fault: Fault) -> None:
        if self._handler.command == "HEAD":
            return
        end = fault.reset_after if fault.reset_after is not None else fault.close_after
        rest = data if end is None else data[:end]
        step, pause = fault.drip or (_BLOCK, 0)
        for at in range(0, len(rest), step):
            block = rest[at : at + step]
            self._request.sent += len(block)
            self._handler.wfile.write(block)
            time.sleep(pause)
        if end is None:
            return
        self._handler.close_connection = True
        if fault.hang:
            self._upstream.wait_for_the_end()
        elif fault.reset_after is not None:
            self._cut()

    def _cut(self) -> None:
        time.sleep(0.02)  # what was written before shall arrive
        self._handler.close_connection = True
        connection = self._handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.close()
        # The server's own files of this connection would keep it open.
        for file in (self._handler.rfile, self._handler.wfile):
            with contextlib.suppress(OSError):
                file.close()


def _headers(file: File) -> dict[str, str]:
    headers = {"Accept-Ranges": "bytes" if file.ranges else "none", **file.headers}
    if file.etag:
        headers["ETag"] = file.etag
    if file.modified is not None:
        headers["Last-Modified"] = email.utils.formatdate(file.modified, usegmt=True)
    return headers


def _validators(file: File) -> set[str]:
    """Return what ``If-Range`` may say of this version: a weak tag is none."""
    headers = _headers(file)
    etag = headers.get("ETag", "W/")
    return {text for text in (etag, headers.get("Last-Modified")) if text and text[:2] != "W/"}


def _not_modified(file: File, asked: Mapping[str, str]) -> bool:
    if tags := asked.get("If-None-Match"):
        weak = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
        return "*" in weak or (file.etag or "").removeprefix("W/") in weak
    if (since := asked.get("If-Modified-Since")) and file.modified is not None:
        return file.modified <= email.utils.parsedate_to_datetime(since).timestamp()
    return False
