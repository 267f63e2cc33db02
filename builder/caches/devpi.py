"""The program that runs devpi-server, and tells it what must not stand in its settings.

::

    python -m builder.caches.devpi DEVPI-SERVER'S OPTIONS...

Whoever reaches a devpi-server may read the settings of its indexes, the upstream's URL with them:
so a password must not be in there. The server asks its plugins for credentials when upstream wants
some; this program is such a plugin, and has them from its environment, which only this user's
processes can read.
"""

from __future__ import annotations

import base64
import os
from typing import Any

UPSTREAM = "VAULTBUILD_PYPI_UPSTREAM"
CREDENTIALS = "VAULTBUILD_PYPI_CREDENTIALS"
"""The variables with the upstream's URL and its ``user:password``."""


def main() -> int:
    """Run the server until it ends; return its status."""
    # Late: a second, which those who only need the names above do not have to pay.
    from devpi_server.config import get_pluginmanager, hookimpl
    from devpi_server.main import CommandRunner, _main

    upstream, credentials = os.environ.pop(UPSTREAM, ""), os.environ.pop(CREDENTIALS, "")

    class Credentials:
        """Answers when an upstream says that it wants to know who asks."""

        @hookimpl  # type: ignore[untyped-decorator, unused-ignore]
        def devpiserver_get_mirror_auth(self, mirror_url: Any) -> str | None:
            """Return the header for the upstream they are for: there may be older mirrors."""
            asked = str(getattr(mirror_url, "url", mirror_url))
            return basic(credentials) if credentials and asked == upstream else None

    plugins = get_pluginmanager()
    plugins.register(Credentials())
    with CommandRunner(pluginmanager=plugins) as runner:
        runner.return_code = _main(runner.pluginmanager)  # type: ignore[no-untyped-call]
    return int(runner.return_code or 0)


def basic(credentials: str) -> str:
    """Return the header's value for ``user:password``."""
    return "Basic " + base64.b64encode(credentials.encode()).decode()


if __name__ == "__main__":
    raise SystemExit(main())
