"""An upstream on the loopback: it gives what caches fetched before, and counts what it gives.

::

    python bench/network/upstream.py FOLDER PORT --latency 0.02 --pace 20

Below FOLDER is ``apt/HOST/PATH``, which it gives as a proxy for packages, and ``wheels/``, which it
gives as an index. Each answer waits for ``latency`` seconds and then comes at ``pace`` MB/s at most
per connection, as from a mirror that is near; a pace of 0 has no limit. ``FOLDER/given.jsonl`` gets
a line per answer. It dates files and knows ranges, as mirrors do.

It imports nothing of the driver: what it counts is counted by somebody else.
"""

from __future__ import annotations

import argparse
import email.utils
import hashlib
import html
import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

_BLOCK = 1 << 17


class Handler(BaseHTTPRequestHandler):
    """One connection of somebody who fetches."""

    protocol_version = "HTTP/1.1"
    # A body after its head must not wait until the head has arrived.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Give a file, a part of it, or the word that it is still the same."""
        time.sleep(self.server.latency)
        if self.path.startswith("/simple/"):
            self._page(self.path.rstrip("/").rpartition("/")[2])
            return
        place = self._place()
        if place is None or not place.is_file():
            self._head(404, 0)
            return
        self._file(place)

    do_HEAD = do_GET  # noqa: N815 - the base class looks for it

    def _place(self) -> Path | None:
        parts = urlsplit(self.path)
        words = [word for word in unquote(parts.path).split("/") if word]
        if ".." in words:
            return None
        if parts.hostname:
            return self.server.folder.joinpath("apt", parts.hostname, *words)
        return self.server.folder.joinpath("wheels", *words[1:]) if words[0] == "files" else None

    def _page(self, project: str) -> None:
        wheels = [
            f'<a href="/files/{quote(path.name)}#sha256={digest}">{html.escape(path.name)}</a><br>'
            for path, digest in self.server.wheels.items()
            if normal(path.name.partition("-")[0]) == project
        ]
        body = ("<!DOCTYPE html>\n<html><body>\n" + "\n".join(wheels) + "\n</body></html>").encode()
        status = 200 if wheels else 404
        self._head(status, len(body), **{"Content-Type": "text/html"})
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, place: Path) -> None:
        found = place.stat()
        date = email.utils.formatdate(int(found.st_mtime), usegmt=True)
        more = {"Last-Modified": date, "Accept-Ranges": "bytes"}
        if self.headers.get("If-Modified-Since") == date:
            self._head(304, 0, **more)
            return
        first, last = self._range(found.st_size, date)
        status = 200
        if (first, last) != (0, found.st_size - 1):
            status, more["Content-Range"] = 206, f"bytes {first}-{last}/{found.st_size}"
        self._head(status, last - first + 1, **more)
        if self.command == "GET":
            self._send(place, first, last - first + 1)

    def _range(self, size: int, date: str) -> tuple[int, int]:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None or self.headers.get("If-Range", date) != date:
            return 0, size - 1
        first = int(asked[1])
        last = min(int(asked[2] or size - 1), size - 1)
        return (first, last) if first <= last else (0, size - 1)

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()
        given = length if self.command == "GET" else 0
        # Before the body: whoever has it may ask at once what was given.
        self.server.note({"path": self.path, "status": status, "bytes": given})

    def _send(self, place: Path, first: int, count: int) -> None:
        began, pace = time.perf_counter(), self.server.pace
        with place.open("rb") as file:
            sent = 0
            while sent < count:
                step = min(_BLOCK if pace else count, count - sent)
                sent += os.sendfile(self.connection.fileno(), file.fileno(), first + sent, step)
                if pace:
                    time.sleep(max(0.0, began + sent / pace - time.perf_counter()))

    def log_message(self, *_: object) -> None:
        """The file of what was given says it."""


class Upstream(ThreadingHTTPServer):
    """The server of one folder."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, port: int, latency: float, pace: float) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.folder, self.latency, self.pace = folder, latency, pace * 1e6
        self.wheels = {
            path: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.glob("wheels/*.whl"))
        }
        self._lock, self._given = threading.Lock(), folder / "given.jsonl"

    def note(self, said: dict[str, object]) -> None:
        """Write down an answer."""
        with self._lock, self._given.open("a") as file:
            file.write(json.dumps(said) + "\n")

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away."""


def normal(name: str) -> str:
    """Return a project's name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Serve until somebody ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--latency", type=float, default=0)
    parser.add_argument("--pace", type=float, default=0, metavar="MB/S")
    said = parser.parse_args()
    Upstream(said.folder, said.port, said.latency, said.pace).serve_forever()


if __name__ == "__main__":
    main()
