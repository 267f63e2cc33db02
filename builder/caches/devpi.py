"""The program that runs devpi-server, as builds need it in three respects.

::

    python -m builder.caches.devpi DEVPI-SERVER'S OPTIONS...

Whoever reaches a devpi-server may read the settings of its indexes, the upstream's URL with them:
so a password must not be in there. The server asks its plugins for credentials when upstream wants
some; here is such a plugin, which has them from its environment, which only this user's processes
can read.

An index in front of a mirror says "no such project" (404) when the mirror could not ask upstream
(502). Clients take that for an answer, and somebody looks for a mistake in a lock file. Here the
mirror is asked again in that case, and what it says is said; when it knows the project after all,
the index is asked once more.

A server whose last transaction brought a file does not start when that file is gone, though it
would fetch it again. Files go when they are pruned, and when their bytes changed. Here it starts.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

from builder.caches.pypi import CREDENTIALS, UPSTREAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PAGE = re.compile(r"/(?P<index>[^/+]+/[^/+]+)/\+simple/(?P<project>[^/+]+)/?")
_FOUND, _MISSING, _TROUBLE = 200, 404, 500
_AGAIN = "vaultbuild.again"


def main() -> int:
    """Run the server until it ends; return its status."""
    # Late: a second, which those who only need the names above do not have to pay.
    from devpi_server.config import get_pluginmanager, hookimpl
    from devpi_server.filestore_fs import FSIOFile
    from devpi_server.main import CommandRunner, _main

    upstream, credentials = os.environ.pop(UPSTREAM, ""), os.environ.pop(CREDENTIALS, "")

    class Plugin:
        """What devpi-server asks of this program."""

        @hookimpl  # type: ignore[untyped-decorator, unused-ignore]
        def devpiserver_get_mirror_auth(self, mirror_url: Any) -> str | None:
            """Return the header for the upstream they are for: there may be older mirrors."""
            asked = str(getattr(mirror_url, "url", mirror_url))
            return basic(credentials) if credentials and asked == upstream else None

        @hookimpl  # type: ignore[untyped-decorator, unused-ignore]
        def devpiserver_pyramid_configure(self, pyramid_config: Any) -> None:
            """See each answer when it is finished, and its transaction with it."""
            pyramid_config.add_tween(
                "builder.caches.devpi.honest",
                # Both, or what turns exceptions into answers comes to stand in the wrong place.
                under="INGRESS",
                over="devpi_server.views.tween_request_logging",
            )

    _start_without_files(FSIOFile)
    plugins = get_pluginmanager()
    plugins.register(Plugin())
    with CommandRunner(pluginmanager=plugins) as runner:
        runner.return_code = _main(runner.pluginmanager)  # type: ignore[no-untyped-call]
    return int(runner.return_code or 0)


def _start_without_files(store: Any) -> None:
    """Have a store of files finish its last transaction as far as the files are there."""
    finish = store._perform_crash_recovery  # noqa: SLF001 - it has no other name

    def finish_what_is_there(self: Any, files: Iterable[Any]) -> None:
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                finish(self, [file])

    store._perform_crash_recovery = finish_what_is_there  # noqa: SLF001 - likewise


def honest(handler: Callable[[Any], Any], registry: Any) -> Callable[[Any], Any]:
    """Return a handler that does not take an upstream in trouble for one that knows better."""

    def handle(request: Any) -> Any:
        response = handler(request)
        page = _PAGE.fullmatch(request.path_info)
        if page is None or response.status_code != _MISSING or request.method != "GET":
            return response
        if _AGAIN in request.environ:
            return response
        for mirror in mirrors_of(registry["xom"], page["index"]):
            asked = type(request).blank(
                f"/{mirror}/+simple/{page['project']}/", headers={"Accept": "text/html"}
            )
            told = request.invoke_subrequest(asked, use_tweens=True)
            if told.status_code >= _TROUBLE:
                return told
            if told.status_code == _FOUND:
                once_more = type(request).blank(
                    request.path_info,
                    environ={_AGAIN: True},
                    base_url=request.application_url,
                    headers=dict(request.headers),
                )
                return request.invoke_subrequest(once_more, use_tweens=True)
        return response

    return handle


def mirrors_of(server: Any, index: str) -> list[str]:
    """Return the mirrors that an index has in front of it."""
    with server.keyfs.read_transaction():
        stage = server.model.getstage(index)
        bases = stage.ixconfig.get("bases", ()) if stage else ()
        return [str(base) for base in bases]


def basic(credentials: str) -> str:
    """Return the header's value for ``user:password``."""
    return "Basic " + base64.b64encode(credentials.encode()).decode()


if __name__ == "__main__":
    raise SystemExit(main())
