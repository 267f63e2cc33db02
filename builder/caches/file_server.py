"""Serves guests the files of the caches of wheels, images and models. Nothing can be written.

::

    python -m builder.caches.file_server KIND FOLDER --host HOST --port PORT

=========  =========================================================================
wheels     ``/<lock sha256>/`` lists the wheels of a house, for pip and for uv
isos       ``/<sha256>/<name>``
models     what huggingface_hub needs of a hub: ``HF_ENDPOINT`` is the root
=========  =========================================================================

Only what somebody listed with its digest has an address here; a path is looked up, never joined, so
none leads out of the folder. A file is read through before it is sent, unless whoever put it there
just did: once for as long as it looks the same. What is not right is as good as not there, and the
log says so.
"""

from __future__ import annotations

import argparse
import html
import json
import logging
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import waitress
from webob import Request, Response
from webob.static import FileApp

from builder.caches import models, shelf, wheels
from builder.digest import digest_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_log = logging.getLogger(__name__)

KINDS = ("wheels", "isos", "models")
_THREADS = 8
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_RESOLVE = re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_INFO = re.compile(rf"/api/models/{_REPO}(/revision/(?P<revision>[^/]+))?/?")
_TREE = re.compile(rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.*))?")


class Files:
    """Sends files of the cache in ``folder``, each read through before it is sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._right: dict[tuple[object, ...], bool] = {}
        self._lock = threading.Lock()

    def answer(self, path: Path, sha256: str) -> Response | FileApp:
        """Return what sends a file, or the refusal."""
        try:
            right = self._is_right(path, sha256)
        except OSError:
            return missing("is not there")
        if not right:
            _log.warning("%s is not what its digest says: not served", path)
            return missing("is not what its digest says; vaultbuild fetches it again")
        return FileApp(str(path), content_type="application/octet-stream", etag=sha256)

    def _is_right(self, path: Path, sha256: str) -> bool:
        if shelf.was_read(self._folder, path, sha256):
            return True
        now = path.stat()
        look = (str(path), now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, sha256)
        # One at a time: two guests that ask for the same file need it read once.
        with self._lock:
            if look not in self._right:
                self._right[look] = digest_file(path) == sha256
            return self._right[look]


class Server:
    """The WSGI application of one kind of files below ``folder``."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind, self._folder, self._files = kind, folder, Files(folder)
        self._serve: Callable[[str], Response | FileApp] = {
            "wheels": self._wheels,
            "isos": self._isos,
            "models": self._models,
        }[kind]

    def __call__(self, environ: dict[str, object], start: object) -> Iterable[bytes]:
        """Answer one request."""
        # Waitress' own way to send a file knows no ranges: they would be read from the beginning.
        environ.pop("wsgi.file_wrapper", None)
        request = Request(environ)
        found = self._answer(request.method, request.path_info)
        answer: Response = request.get_response(found)
        _log.info("%s %s %s", request.method, quote(request.path_info), answer.status_int)
        return answer(environ, start)  # type: ignore[no-any-return]

    def _answer(self, method: str, path: str) -> Response | FileApp:
        if method not in {"GET", "HEAD"}:
            return Response(status=405, text="nothing can be written here\n", allow="GET, HEAD")
        if path == "/":
            # How whoever started it knows it again.
            return Response(text=f"vaultbuild {self._kind}\n", content_type="text/plain")
        return self._serve(path)

    def _wheels(self, path: str) -> Response | FileApp:
        _, lock, *rest = path.split("/")
        if not _DIGEST.fullmatch(lock) or len(rest) != 1:
            return missing("is no house of wheels: /<SHA-256 of the lock file>/")
        known = wheels.listing(self._folder / "houses" / lock)
        if rest == [""]:
            return page(known) if known else missing("is not there: `cache warm wheels` fetches it")
        if rest[0] not in known:
            return missing("is not in this house")
        return self._files.answer(*known[rest[0]])

    def _isos(self, path: str) -> Response | FileApp:
        _, sha256, *rest = path.split("/")
        if not _DIGEST.fullmatch(sha256) or len(rest) != 1 or not (self._folder / sha256).is_dir():
            return missing("is no image: /<SHA-256>/<name>")
        names = {each.name: each for each in (self._folder / sha256).iterdir()
                 if shelf.is_whole(each)}  # fmt: skip
        if rest[0] not in names:
            return missing("is not there")
        return self._files.answer(names[rest[0]], sha256)

    # --- the language of a hub --------------------------------------------------------------------

    def _models(self, path: str) -> Response | FileApp:
        if found := _RESOLVE.fullmatch(path):
            return self._resolve(found["repo"], found["revision"], found["path"])
        if found := _INFO.fullmatch(path):
            return self._info(found["repo"], found["revision"] or "main")
        if found := _TREE.fullmatch(path):
            return self._tree(found["repo"], found["revision"], found["path"] or "")
        return hub_error("EntryNotFound", "is no address of a hub")

    def _resolve(self, repo: str, revision: str, path: str) -> Response | FileApp:
        commit = self._commit(repo, revision)
        if isinstance(commit, Response):
            return commit
        found = models.snapshot_file(self._folder, repo, commit, path)
        if found is None:
            answer = hub_error("EntryNotFound", "is in no lock file of models")
            answer.headers["X-Repo-Commit"] = commit
            return answer
        place, file = found
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": str(file.size),
        }
        sent = self._files.answer(place, file.sha256)
        return Headed(sent, headers) if isinstance(sent, FileApp) else sent

    def _info(self, repo: str, revision: str) -> Response:
        commit = self._commit(repo, revision)
        if isinstance(commit, Response):
            return commit
        siblings = [{"rfilename": path} for path in self._pinned(repo, commit)]
        told = {"_id": commit, "id": repo, "modelId": repo, "sha": commit, "private": False}
        return document({**told, "gated": False, "tags": [], "siblings": siblings})

    def _tree(self, repo: str, revision: str, below: str) -> Response:
        commit = self._commit(repo, revision)
        if isinstance(commit, Response):
            return commit
        prefix = f"{below.strip('/')}/" if below.strip("/") else ""
        return document(
            [
                {
                    "type": "file",
                    "path": path,
                    "size": file.size,
                    "oid": file.sha256[:40],
                    "lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 0},
                }
                for path, file in self._pinned(repo, commit).items()
                if path.startswith(prefix)
            ]
        )

    def _pinned(self, repo: str, commit: str) -> dict[str, models.ModelFile]:
        name = "models--" + repo.replace("/", "--")
        return dict(sorted(models.pinned_files(self._folder / "pinned" / name / commit).items()))

    def _commit(self, repo: str, revision: str) -> str | Response:
        # A name with a slash is one quoted part of the path: refs%2Fpr%2F1.
        commit = models.commit_of(self._folder, repo, unquote(revision))
        if commit:
            return commit
        if models.pinned_commits(self._folder, repo):
            return hub_error("RevisionNotFound", "no lock file of models has this commit")
        return hub_error("RepoNotFound", "no lock file of models has this repository")


class Headed:
    """Sends a file with headers of ours besides."""

    def __init__(self, app: FileApp, headers: dict[str, str]) -> None:
        self._app, self._headers = app, headers

    def __call__(self, environ: dict[str, object], start: object) -> Iterable[bytes]:
        """Answer one request."""
        answer = Request(environ).get_response(self._app)
        answer.headers.update(self._headers)
        return answer(environ, start)  # type: ignore[no-any-return]


# --- answers --------------------------------------------------------------------------------------


def document(content: object) -> Response:
    """Return an answer with a JSON document."""
    return Response(body=json.dumps(content).encode() + b"\n", content_type="application/json")


def missing(text: str) -> Response:
    """Return the answer for what is not there."""
    return Response(status=404, text=f"this {text}\n", content_type="text/plain")


def hub_error(code: str, text: str) -> Response:
    """Return a refusal in a hub's language: its clients tell one from another by a header."""
    answer = missing(text)
    answer.headers["X-Error-Code"] = code
    answer.headers["X-Error-Message"] = text
    return answer


def page(known: dict[str, tuple[Path, str]]) -> Response:
    """Return the list of a house, in the form of PEP 503: links, each with its digest."""
    links = "".join(
        f'<a href="{html.escape(quote(name))}#sha256={digest}">{html.escape(name)}</a><br>\n'
        for name, (_, digest) in known.items()
    )
    head = "<!DOCTYPE html>\n<html><head><title>wheels</title></head><body>\n"
    return Response(text=f"{head}{links}</body></html>\n", content_type="text/html")


# --- the program ----------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Serve until somebody says stop."""
    parser = argparse.ArgumentParser(prog="builder.caches.file_server")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    waitress.serve(
        Server(chosen.kind, chosen.folder.resolve()),
        host=chosen.host,
        port=chosen.port,
        threads=_THREADS,
        ident="vaultbuild",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
