"""An archive that has the parts of one installer, whatever the archive behind it has.

Debian's network installer fetches its parts from the archive, and they are of its own point
release. A mirror that is behind, or in the middle of one, has some of this and some of that. Where
it does, somebody may keep the parts in a folder; they are served as a suite of their own, and all
else is handed on from the archive.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUITE = "parts"
INDEX = "main/debian-installer/binary-amd64/Packages.gz"
# The cache of packages asks port 80 and no other: so this is an address of its own.
_ADDRESS = "127.0.0.2"
_FOLDER = "/debian"
_HANDED_ON = ("Content-Length", "Content-Range", "Content-Type", "ETag", "Last-Modified")
_ASKED_ON = ("Range", "If-Modified-Since", "If-Range")
ANSWERS = f"""
# The parts come from a suite that nobody signed.
d-i mirror/udeb/suite string {SUITE}
d-i debian-installer/allow_unauthenticated boolean true
"""


@contextlib.contextmanager
def archive(parts: Path, behind: str) -> Iterator[str]:
    """Serve the ``*.udeb`` of a folder and, beside them, what the archive at ``behind`` has."""
    pages = _pages(sorted(parts.glob("*.udeb")))

    class Handler(_Handler):
        own = pages
        upstream = behind.rstrip("/")

    with http.server.ThreadingHTTPServer((_ADDRESS, 80), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{_ADDRESS}{_FOLDER}"
        finally:
            server.shutdown()
            thread.join()


def _pages(parts: list[Path]) -> dict[str, bytes]:
    files = {f"{_FOLDER}/pool/{SUITE}/{part.name}": part.read_bytes() for part in parts}
    entries = [_entry(part, content) for part, content in zip(parts, files.values(), strict=True)]
    index = gzip.compress("\n".join(entries).encode(), mtime=0)
    digest = hashlib.sha256(index).hexdigest()
    release = (
        "Suite: stable\nCodename: trixie\nArchitectures: all amd64\nComponents: main\n"
        f"SHA256:\n {digest} {len(index)} {INDEX}\n"
    )
    folder = f"{_FOLDER}/dists/{SUITE}"
    return {f"{folder}/Release": release.encode(), f"{folder}/{INDEX}": index, **files}


def _entry(part: Path, content: bytes) -> str:
    argv = ["dpkg-deb", "--field", part]
    fields = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.rstrip("\n")
    digest = hashlib.sha256(content).hexdigest()
    place = f"pool/{SUITE}/{part.name}"
    return f"{fields}\nFilename: {place}\nSize: {len(content)}\nSHA256: {digest}\n"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    own: dict[str, bytes]
    upstream: str

    def do_GET(self) -> None:
        content = self.own.get(unquote(self.path))
        if content is not None:
            self._say(200, {"Content-Length": str(len(content))}, content)
            return
        headers = {name: self.headers[name] for name in _ASKED_ON if name in self.headers}
        request = urllib.request.Request(  # noqa: S310
            self.upstream + self.path.removeprefix(_FOLDER), headers=headers
        )
        try:
            answer = urllib.request.urlopen(request)  # noqa: S310 - http, as in sources.list
        except urllib.error.HTTPError as error:
            self._say(error.code, {"Content-Length": "0"})
            return
        with answer:
            given = {name: answer.headers[name] for name in _HANDED_ON if name in answer.headers}
            self._say(answer.status, given)
            if self.command == "GET":
                shutil.copyfileobj(answer, self.wfile)

    do_HEAD = do_GET  # noqa: N815 - the base class looks for it

    def _say(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """What was asked for is in the network lock."""
