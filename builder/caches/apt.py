"""The cache of packages: apt-cacher-ng, an HTTP proxy that keeps what passes through it.

Its configuration folder is vaultbuild's own: the tracked files of ``cache/etc/apt-cacher-ng/`` and,
after them, one file with what is particular to this host.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from builder import files, ports, process
from builder.caches.http import ask
from builder.caches.service import Launch
from builder.errors import CommandError, HostError

if TYPE_CHECKING:
    from pathlib import Path

    from builder.caches.state import Places

_SUPPORT = "/usr/lib/apt-cacher-ng"  # in Debian and Ubuntu


class Apt:
    """apt-cacher-ng. The URL is a proxy for ``http`` repositories."""

    name = "apt"

    def prepare(self, places: Places, port: int) -> Launch:
        """Render the configuration folder."""
        program = process.require("apt-cacher-ng")
        if port > ports.HIGHEST:
            raise HostError(
                f"apt-cacher-ng cannot listen on port {port}",
                hint=f"set caches.apt.port in stages/pipeline.yml to at most {ports.HIGHEST}",
            )
        # Private: the upstream proxy's address may hold a password.
        places.content.mkdir(mode=0o700, parents=True, exist_ok=True)
        etc = places.content / "etc"
        shutil.rmtree(etc, ignore_errors=True)
        shutil.copytree(places.etc / "apt-cacher-ng", etc)
        files.write_text(etc / "zz-this-host.conf", _this_host(places, port), mode=0o600)
        return Launch([program, "-c", etc])

    def url(self, port: int) -> str:
        """Return the proxy's URL."""
        return f"http://{ports.LOOPBACK}:{port}"

    def answers(self, url: str) -> bool:
        """Ask for no file at all: the server answers with a page about itself."""
        return "apt-cacher" in ask(url + "/").text.lower()

    def settle(self, places: Places, port: int) -> None:
        """Nothing to do: all its state are files."""


def _this_host(places: Places, port: int) -> str:
    """Return the configuration that only holds here and now."""
    content: Path = places.content
    settings = {
        "Port": str(port),
        "CacheDir": str(content / "packages"),
        "LogDir": str(content / "log"),
        "PidFile": str(content / "pid"),
        "SupportDir": _SUPPORT,
    }
    if proxy := upstream_proxy():
        settings["Proxy"] = proxy
    for folder in ("CacheDir", "LogDir"):
        content.joinpath(settings[folder]).mkdir(exist_ok=True)
    return "".join(f"{name}: {value}\n" for name, value in settings.items())


def upstream_proxy() -> str | None:
    """Return the proxy that this host's own apt goes through, if it has one."""
    try:
        said = process.run(
            ["apt-config", "dump", "--format", "%v%n", "Acquire::http::Proxy"],
            env={name: os.environ[name] for name in ("APT_CONFIG",) if name in os.environ},
        ).stdout
    except (HostError, CommandError):
        said = ""  # a host without apt can still serve packages to guests that have it
    configured = next(iter(said.split()), os.environ.get("http_proxy", ""))
    return None if configured.upper() in {"", "DIRECT", "FALSE"} else configured
