"""What the caches fetch from in their tests: a server on loopback, whose mood a test sets."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import shutil
import socket
import threading
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder import ports

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
MODIFIED = "Sun, 22 Nov 2026 10:00:00 GMT"


@dataclass
class Origin:
    """The files by path, how they are answered (``status``), and what was asked for.

    With ``user``, as ``name:password``, nobody else is served.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    user: str | None = None
    asked: list[str] = field(default_factory=list)

    def index(self, name: str, *wheels: str) -> None:
        """Have a simple page, and the wheels that it lists."""
        lines = []
        for wheel in wheels:
            data = made_wheel(name, wheel.split("-")[1], b"upstream")
            self.files[f"/files/{wheel}"] = data
            digest = hashlib.sha256(data).hexdigest()
            lines.append(f'<a href="../../files/{wheel}#sha256={digest}">{wheel}</a>')
        self.files[f"/simple/{name}/"] = f"<html><body>{''.join(lines)}</body></html>".encode()


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A server to fetch from."""
    with serving() as origin:
        yield origin


@pytest.fixture(name="made_wheel")
def _made_wheel():
    return made_wheel


@pytest.fixture
def home(tmp_path, origin) -> Path:
    """A folder with the tracked configuration, in which the origin counts as a mirror."""
    shutil.copytree(ROOT / "cache/etc", tmp_path / "home/cache/etc")
    configuration = tmp_path / "home/cache/etc/apt-cacher-ng/acng.conf"
    text = configuration.read_text()
    assert "AllowUserPorts: 80 443\n" in text
    port = origin.url.rpartition(":")[2]
    configuration.write_text(text.replace("AllowUserPorts: 80 443", f"AllowUserPorts: 80 {port}"))
    return tmp_path / "home"


@pytest.fixture(name="gone")
def _gone():
    return gone


def gone(pid: int, *, within: float = 10) -> bool:
    """Say whether a process ends within some seconds."""
    deadline = time.monotonic() + within
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        with contextlib.suppress(OSError):
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture(name="listening")
def _listening():
    return listening


def listening(port: int) -> set[str]:
    """The addresses that something listens at, as the kernel has them."""
    found = set()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            address, _, number = line.split()[1].rpartition(":")
            if int(number, 16) == port and line.split()[3] == "0A":
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


@contextlib.contextmanager
def serving() -> Iterator[Origin]:
    """Run such a server."""
    origin = Origin()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            origin.asked.append(self.path)
            status, body = origin.status, origin.files.get(self.path)
            if origin.user is not None and self.headers["Authorization"] != _basic(origin.user):
                status = 401
            elif status == 200 and body is None:
                status = 404
            data = body if status == 200 and body is not None else b"no"
            self.send_response(status)
            kind = "text/html" if self.path.startswith("/simple/") else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="origin"')
            if status == 200:
                self.send_header("Last-Modified", MODIFIED)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    # apt-cacher-ng reaches no port above 32767 either.
    with http.server.ThreadingHTTPServer(("127.0.0.1", ports.free()), Handler) as server:
        origin.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield origin
        finally:
            server.shutdown()
            thread.join()


def _basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()


def made_wheel(name: str, version: str, content: bytes) -> bytes:
    """Return a wheel that pip can install."""
    buffer = io.BytesIO()
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in {
            f"{name}.py": content,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": f"{name}.py,,\n",
        }.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return buffer.getvalue()
