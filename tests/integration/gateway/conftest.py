"""A cache, a host beside it and a guest, for the tests of the gateway between them."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from builder import gateway, network
from builder.gateway import Gateway, Pauses, Rules
from builder.gateway.rules import Address


class Cache:
    """A server whose answers a test writes: by target, each once, the last for ever."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        cache = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                cache.asked.append((self.command, self.path, dict(self.headers)))
                known = cache.answers.get(self.path, [(404, b"no such file", {})])
                status, body, headers = known.pop(0) if len(known) > 1 else known[0]
                if status == "drop":
                    self.connection.close()
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                self.close_connection = True

            do_HEAD = do_GET  # noqa: N815

            def do_POST(self):
                left = int(self.headers["Content-Length"])
                while left and (block := self.rfile.read(min(left, 65536))):
                    left -= len(block)
                self.do_GET()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def address(self):
        return Address("127.0.0.1", self.server.server_address[1])

    @property
    def url(self):
        return f"http://{self.address}"

    def gives(self, target, *answers):
        self.answers[target] = [
            answer if isinstance(answer, tuple) else (200, answer, {}) for answer in answers
        ]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Guest:
    """Somebody who knows the gateway and nothing else."""

    def __init__(self, urls, journal):
        self.urls = urls
        self._journal = journal

    def get(self, url, *, method="GET", headers=(), body=None):
        """Ask the proxy for a URL; return status and body."""
        request = urllib.request.Request(  # noqa: S310 - the tests' own URLs
            url, headers=dict(headers), method=method, data=body
        )
        handler = urllib.request.ProxyHandler({"http": self.urls["apt"]})
        try:
            with urllib.request.build_opener(handler).open(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def page(self, path):
        address = self.urls["pypi"].split("/")[2]
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
            return answer.read()

    def connect(self, target):
        host, port = self.urls["apt"].split("/")[2].split(":")
        link = socket.create_connection((host, int(port)), timeout=20)
        link.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        return link

    @property
    def journal(self):
        return network.read_journal(self._journal)

    def wrote(self, what):
        return [each for each in self.journal if each.what == what]


@pytest.fixture
def cache():
    found = Cache()
    yield found
    found.stop()


@pytest.fixture
def guest(cache, tmp_path):
    """Call it with what the gateway is to be like: returns a guest's requests through it."""
    with contextlib.ExitStack() as stack:

        def build(**said):
            said = {"pauses": Pauses(attempts=2, first=0), **said}
            rules = said.pop("rules", Rules(archives=frozenset({Address("mirror.example", 80)})))
            found = Gateway(
                urls={"apt": cache.url, "pypi": f"{cache.url}/root/pypi/+simple/"},
                rules=rules, var=tmp_path / "var", **said,
            )  # fmt: skip
            urls = stack.enter_context(gateway.opened(found, tmp_path / "network.jsonl"))
            return Guest(urls, tmp_path / "network.jsonl")

        yield build


@pytest.fixture
def site():
    """A host beside the caches."""
    found = Cache()
    yield found
    found.stop()


@pytest.fixture
def guest_of():
    """Call it with the gateway's URLs and its journal."""
    return Guest


@pytest.fixture
def another():
    """Call it for one more cache."""
    with contextlib.ExitStack() as stack:

        def start():
            found = Cache()
            stack.callback(found.stop)
            return found

        yield start


@pytest.fixture(name="raw")
def _raw():
    """Call it with the gateway's URL and a request as it stands."""
    return raw


def raw(url, text):
    """Send a request as it stands and return all that is said until the connection ends."""
    host, port = url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as link:
        link.sendall(text.encode())
        said = b""
        while block := link.recv(4096):
            said += block
    return said
