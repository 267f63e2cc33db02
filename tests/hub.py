"""A small hub of models on the loopback address, which speaks what huggingface_hub expects.

Files listed in ``lfs`` are where large ones are at a real hub: behind a redirect to another server,
which must never see the token. Everything that is asked is noted, and faults can be ordered.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

_RESOLVE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")
_INFO = re.compile(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/([^/?]+))?(?:\?.*)?")


def commit_id(*parts: object) -> str:
    """Return something that looks like a commit."""
    return hashlib.sha1(repr(parts).encode(), usedforsecurity=False).hexdigest()


def git_id(content: bytes) -> str:
    """Return the name that git gives to content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repo:
    """A repository: its files by commit, and where its branches stand."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    token: str | None = None  # without it: 401


@dataclass
class Fault:
    """What goes wrong for requests whose ``METHOD path`` has ``where`` in it, so many times."""

    where: str
    how: str  # "503", "truncated", "wrong", or another status
    times: int


@dataclass
class Asked:
    server: str
    method: str
    path: str
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Hub:
    """The hub and its file server; a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[Asked] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._servers = [_Server(self, name) for name in ("hub", "files")]
        self.url, self.files_url = (server.url for server in self._servers)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Go down: connections are refused from now on."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []

    def add(self, repo: str, files: dict[str, bytes], *, lfs=(), branch="main") -> str:
        """Commit files to a branch; return the commit."""
        one = self.repos.setdefault(repo, Repo())
        commit = commit_id(repo, sorted(files.items()), len(one.commits))
        one.commits[commit] = files
        one.refs[branch] = commit
        one.lfs |= set(lfs)
        return commit

    def lock(self, repo: str, commit: str, *, revision: str = "main") -> dict:
        """Return what a lock file says of a commit."""
        files = {
            path: {"sha256": sha256(content), "size": len(content)}
            for path, content in self.repos[repo].commits[commit].items()
        }
        return {"repo": repo, "revision": revision, "commit": commit, "files": files}

    def fail(self, where: str, how: str, times: int = 1) -> None:
        """Order a fault."""
        self._faults.append(Fault(where, how, times))

    def gets(self, part: str = "") -> list[str]:
        """Return what was got, of the hub and of its file server."""
        return [str(one) for one in self.asked if one.method == "GET" and part in one.path]

    def fault(self, method: str, path: str) -> str | None:
        """Take the fault that a request meets."""
        with self._lock:
            for fault in self._faults:
                if fault.times and fault.where in f"{method} {path}":
                    fault.times -= 1
                    return fault.how
        return None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.name = hub, name
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that went away is none of ours."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        hub.asked.append(Asked(self.server.name, self.command, self.path, dict(self.headers)))
        how = hub.fault(self.command, self.path)
        if how and how.isdigit():
            self._error(int(how), "ordered")
        elif self.server.name == "files":
            self._blob(how)
        elif found := _RESOLVE.fullmatch(self.path):
            self._resolve(found[1], unquote(found[2]), unquote(found[3]), how)
        elif found := _INFO.fullmatch(self.path):
            self._info(found[1], unquote(found[2] or "main"))
        else:
            self._error(404, "EntryNotFound")

    def _commit(self, repo: str, revision: str) -> str | None:
        """Return the commit, or answer that there is none."""
        one = self.server.hub.repos.get(repo)
        if one is None:
            self._error(401, "RepoNotFound")  # as a real hub does: it could be private
        elif one.token and self.headers.get("Authorization") != f"Bearer {one.token}":
            self._error(401, "GatedRepo")
        elif (commit := one.refs.get(revision, revision)) in one.commits:
            return commit
        else:
            self._error(404, "RevisionNotFound")
        return None

    def _info(self, repo: str, revision: str) -> None:
        if commit := self._commit(repo, revision):
            siblings = [{"rfilename": path} for path in self.server.hub.repos[repo].commits[commit]]
            told = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
            self._send(json.dumps(told).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo: str, revision: str, path: str, how: str | None) -> None:
        if not (commit := self._commit(repo, revision)):
            return
        one = self.server.hub.repos[repo]
        content = one.commits[commit].get(path)
        if content is None:
            self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit}
        if path in one.lfs:
            headers["X-Linked-Etag"] = f'"{sha256(content)}"'
            headers["X-Linked-Size"] = str(len(content))
            headers["Location"] = f"{self.server.hub.files_url}/{sha256(content)}?signature=secret"
            self._send(b"", headers, status=302)
        else:
            self._send(content, {**headers, "ETag": f'"{git_id(content)}"'}, how)

    def _blob(self, how: str | None) -> None:
        wanted = self.path.strip("/").partition("?")[0]
        for one in self.server.hub.repos.values():
            for commit in one.commits.values():
                for content in commit.values():
                    if sha256(content) == wanted:
                        self._send(content, {"ETag": f'"{wanted}"'}, how)
                        return
        self._error(404, "gone")

    def _send(
        self, content: bytes, headers: dict[str, str], how: str | None = None, status: int = 200
    ) -> None:
        if how == "wrong":
            content = bytes(byte ^ 1 for byte in content)
        begin = 0
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found and status == 200:
            begin = int(found[1])
            status = 206
            headers = {
                **headers,
                "Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}",
            }
        part = content[begin:]
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(OSError):
            self.wfile.write(part[: len(part) // 2] if how == "truncated" else part)
        if how == "truncated":
            self.close_connection = True

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"X-Error-Code": code, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
