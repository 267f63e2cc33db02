"""The cache of Python packages: devpi-server with its mirror index ``root/pypi``.

The mirror's upstream is the index that this host's own pip uses. There is one server folder per
upstream: what two indexes say about one project must never be mixed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import files, ports, process
from builder.caches.http import Answer, ask
from builder.caches.service import Launch
from builder.errors import CommandError, HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.caches.state import Places

_log = logging.getLogger(__name__)

_INDEX = "root/pypi"


class Pypi:
    """devpi-server. The URL is a package index for pip and uv."""

    name = "pypi"

    def prepare(self, places: Places, port: int) -> Launch:
        """Make the server's folder on first use."""
        settings = pip_settings()
        upstream = settings.get("index-url")
        folder = places.content / _folder_name(upstream)
        configuration = places.etc / "devpi-server.yml"
        environment = _certificates(settings)
        if not (folder / ".nodeinfo").exists():
            _initialise(folder, environment)
        # For settle(), also that of another run: asking pip again would cost it 0.4 s.
        serving = {"folder": folder.name, "upstream": upstream}
        files.write_json(_serving(places), serving, durable=False)
        command: list[str | Path] = [
            _program("devpi-server"), "--configfile", configuration, "--serverdir", folder,
            "--host", ports.LOOPBACK, "--port", str(port),
        ]  # fmt: skip
        return Launch(command, environment)

    def url(self, port: int) -> str:
        """Return the index's URL."""
        return f"http://{ports.LOOPBACK}:{port}/{_INDEX}/+simple/"

    def answers(self, url: str) -> bool:
        """Ask for the description of the interface, which needs no upstream."""
        return bool(ask(_server(url) + "/+api").json().get("type") == "apiconfig")

    def settle(self, places: Places, port: int) -> None:
        """Point the mirror at its upstream, where it does not yet."""
        serving = json.loads(_serving(places).read_text(encoding="utf-8"))
        server = _server(self.url(port))
        present = ask(f"{server}/{_INDEX}?no_projects=").json().get("result", {})
        if wrong := _wrong(present, serving["upstream"]):
            _change(server, places.content / serving["folder"], wrong)


def pip_settings() -> dict[str, str]:
    """Return how this host's pip reaches its index: ``index-url`` and ``cert``, where set."""
    # `pip config` does not count variables of the environment among what `get` finds.
    variables = {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
    try:
        listing = process.run(
            [sys.executable, "-m", "pip", "config", "list"], env=variables, timeout=30
        ).stdout
    except CommandError as error:
        _log.debug("this Python has no pip, so its configuration is not asked: %s", error)
        listing = ""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in found and option in {"index-url", "cert"}:
            found[section][option] = value.strip("'\"")
    # The order in which pip itself lets one overrule the other.
    return found["global"] | found["install"] | found[":env:"]


def _certificates(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which devpi-server trusts whom pip trusts."""
    return {"REQUESTS_CA_BUNDLE": settings["cert"]} if "cert" in settings else {}


def _folder_name(upstream: str | None) -> str:
    return hashlib.sha256(upstream.encode()).hexdigest()[:12] if upstream else "default"


def _serving(places: Places) -> Path:
    return places.content / "serving.json"


def _server(url: str) -> str:
    """Return the root of the server whose index is at ``url``."""
    return (
        url.removesuffix("/").removesuffix("+simple").removesuffix("/").removesuffix(f"/{_INDEX}")
    )


def _program(name: str) -> Path:
    """Return a program that was installed beside the Python that runs now."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise HostError(
            f"this Python has no {name}", hint=f"{sys.executable} -m pip install devpi-server"
        )
    return path


def _initialise(folder: Path, environment: Mapping[str, str]) -> None:
    """Make a server folder aside and move it into place: a half-made one would never start."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    password = secrets.token_urlsafe(32)
    process.run(
        [_program("devpi-init"), "--serverdir", aside],
        # Not as an argument: every user of the host can read those.
        env={**environment, "DEVPISERVER_ROOT_PASSWD": password},
    )
    files.write_text(aside / "root.secret", password, mode=0o600)
    aside.rename(folder)


def _wrong(present: Mapping[str, Any], upstream: str | None) -> dict[str, Any]:
    """Return the settings of the mirror that must change."""
    # Without this, the first request fetches the names of all projects there are: 11 s instead of
    # 0.2 s, for a list that pip never asks for.
    wanted: dict[str, Any] = {"mirror_no_project_list": True}
    if upstream:
        wanted["mirror_url"] = upstream.rstrip("/") + "/"
    return {name: value for name, value in wanted.items() if present.get(name) != value}


def _change(server: str, folder: Path, settings: Mapping[str, Any]) -> None:
    password = (folder / "root.secret").read_text(encoding="utf-8")
    login = _done(
        ask(server + "/+login", method="POST", body={"user": "root", "password": password})
    )
    token = f"root:{login.json()['result']['password']}".encode()
    _done(
        ask(
            f"{server}/{_INDEX}",
            method="PATCH",
            # A list changes what it names; a document would replace everything.
            body=[f"{name}={value}" for name, value in settings.items()],
            headers={"X-Devpi-Auth": base64.b64encode(token).decode()},
        )
    )


def _done(answer: Answer) -> Answer:
    if answer.status != 200:  # noqa: PLR2004 - the one status that means done
        raise CommandError(
            f"devpi-server refuses its settings (status {answer.status})\n{answer.text[:500]}",
            hint="it keeps nothing of value: delete cache/var/pypi and try again",
        )
    return answer
