"""The cache of Python packages: devpi-server with a mirror and an index of this project's own.

The mirror's upstream is the index that this host's own pip uses. There is one mirror per upstream:
what two indexes say about one project must never be mixed. In front of the mirror stands
``vaultbuild/private``, which is what guests are given: what was uploaded there is found there
alone, whatever upstream has under the same name, and everything else comes from the mirror.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from builder import files, process
from builder.caches import kept
from builder.caches.http import Answer, ask
from builder.caches.service import Launch
from builder.errors import CommandError, HostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.caches.kept import Item
    from builder.caches.state import Places, Terms

_log = logging.getLogger(__name__)

USER = "vaultbuild"
INDEX = f"{USER}/private"
"""The index that guests use."""
_MIRROR = "root/pypi"
_FOLDER = "server"
_SERVER = "builder.caches.devpi"
# What that program finds in its environment: the URL of its upstream, and `user:password` for it.
UPSTREAM = "VAULTBUILD_PYPI_UPSTREAM"
CREDENTIALS = "VAULTBUILD_PYPI_CREDENTIALS"


@dataclass(frozen=True, slots=True)
class Pypi:
    """devpi-server. The URL is a package index for pip and uv."""

    name: str = "pypi"

    @property
    def fetches(self) -> bool:
        """It asks the upstream index, unless it runs offline."""
        return True

    def prepare(self, places: Places, terms: Terms) -> Launch:
        """Make the server's folder on first use."""
        settings = pip_settings()
        upstream = Upstream.of(settings.get("index-url"))
        folder = server_folder(places)
        environment = _certificates(settings)
        if not (folder / ".nodeinfo").exists():
            _initialise(folder, environment)
        # For settle(), also that of another run: asking pip again would cost it 0.4 s.
        serving = {"mirror": upstream.mirror, "url": upstream.url}
        files.write_json(_serving(places), serving, durable=False)
        _program("devpi-server")
        command: list[str | Path] = [
            sys.executable, "-m", _SERVER,
            "--configfile", places.etc / "devpi-server.yml", "--serverdir", folder,
            "--host", terms.listen, "--port", str(terms.port),
        ]  # fmt: skip
        if terms.offline:
            return Launch([*command, "--offline-mode"], environment)
        # Not as an argument: every user of the host can read those.
        secret = {UPSTREAM: upstream.url or "", CREDENTIALS: upstream.credentials}
        return Launch(command, {**environment, **secret})

    def url(self, terms: Terms) -> str:
        """Return the index's URL."""
        return f"{terms.root}/{INDEX}/+simple/"

    def answers(self, url: str) -> bool:
        """Ask for the description of the interface, which needs no upstream."""
        return bool(ask(server_of(url) + "/+api").json().get("type") == "apiconfig")

    def settle(self, places: Places, terms: Terms) -> None:
        """Make the indexes what they must be, where they are not yet."""
        serving = json.loads(_serving(places).read_text(encoding="utf-8"))
        _Settling(terms.root, server_folder(places)).bring(serving["mirror"], serving["url"])

    def items(self, places: Places) -> Sequence[Item]:
        """Return the files that the mirrors fetched, and what was uploaded, which stays."""
        return kept.found_items(
            kept.item_of(
                self.name, places.var, path,
                current=None if path.relative_to(folder).parts[0] == "root" else "uploaded here",
            )
            # There were folders by upstream once.
            for folder in places.content.glob("*/+files")
            for path in kept.files_below(folder)
        )  # fmt: skip

    def drop(self, places: Places, item: Item) -> bool:
        """Remove a file; devpi-server fetches it again, also while it runs."""
        return kept.drop(places.var, item)


@dataclass(frozen=True, slots=True)
class Upstream:
    """The index that a mirror copies from: its URL as everybody may know it, and the secret part.

    A URL of None is the upstream that devpi-server comes with.
    """

    url: str | None = None
    credentials: str = ""

    @classmethod
    def of(cls, index: str | None) -> Upstream:
        """Take a URL apart."""
        if not index:
            return cls()
        parts = urlsplit(index)
        secret, _, host = parts.netloc.rpartition("@")
        if parts.query:
            raise HostError(
                "pip's index-url has a query, which devpi-server cannot send",
                hint="pip config list shows it; a mirror needs a URL that ends with a path",
            )
        plain = parts._replace(netloc=host).geturl().rstrip("/") + "/"
        return cls(plain, unquote(secret))

    @property
    def mirror(self) -> str:
        """The name of the index that copies from it."""
        if self.url is None:
            return _MIRROR
        return f"{_MIRROR}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}"


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


def server_folder(places: Places) -> Path:
    """Return where the server keeps everything."""
    return places.content / _FOLDER


def secret_file(places: Places) -> Path:
    """Return the file with the password of the user who may upload."""
    return server_folder(places) / f"{USER}.secret"


def _serving(places: Places) -> Path:
    return places.content / "serving.json"


def server_of(url: str) -> str:
    """Return the root of the server whose index is at ``url``."""
    path, simple, _ = url.rstrip("/").rpartition("/+simple")
    return path.rsplit("/", 2)[0] if simple else url.rstrip("/")


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
    files.write_text(aside / f"{USER}.secret", secrets.token_urlsafe(32), mode=0o600)
    aside.rename(folder)


class _Settling:
    """Brings a server's users and indexes into the state that builds need."""

    def __init__(self, server: str, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._headers: dict[str, str] = {}

    def bring(self, mirror: str, upstream: str | None) -> None:
        """Have the mirror, the user, and the index in front of the mirror."""
        # Without this, the first request fetches the names of all projects there are: 11 s instead
        # of 0.2 s, for a list that pip never asks for.
        wanted: dict[str, Any] = {"mirror_no_project_list": True}
        if upstream:
            wanted["mirror_url"] = upstream
        self._index(mirror, {"type": "mirror", **wanted, "volatile": False})
        if ask(f"{self._server}/{USER}").status == _MISSING:
            password = self._folder.joinpath(f"{USER}.secret").read_text(encoding="utf-8")
            self._send("PUT", USER, {"password": password})
        private = {
            "type": "stage",
            "bases": [mirror],
            # What was uploaded once is never another thing under the same name.
            "volatile": False,
            "acl_upload": [USER],
            # Anybody's, by default.
            "acl_toxresult_upload": [USER],
            # No project is taken from both: a higher version upstream would win.
            "mirror_whitelist": [],
        }
        self._index(INDEX, private)

    def _index(self, name: str, wanted: Mapping[str, Any]) -> None:
        """Make an index, or change of it what is not as it must be."""
        answer = ask(f"{self._server}/{name}?no_projects=")
        if answer.status == _MISSING:
            self._send("PUT", name, wanted)
            return
        present = _done(answer).json().get("result", {})
        if wrong := {key: value for key, value in wanted.items() if present.get(key) != value}:
            # A list changes what it names; a document would replace everything.
            self._send("PATCH", name, [f"{key}={_word(value)}" for key, value in wrong.items()])

    def _send(self, method: str, path: str, body: Any) -> None:
        if not self._headers:
            self._headers = self._login()
        _done(ask(f"{self._server}/{path}", method=method, body=body, headers=self._headers))

    def _login(self) -> dict[str, str]:
        password = (self._folder / "root.secret").read_text(encoding="utf-8")
        told = {"user": "root", "password": password}
        answer = _done(ask(self._server + "/+login", method="POST", body=told))
        token = f"root:{answer.json()['result']['password']}".encode()
        return {"X-Devpi-Auth": base64.b64encode(token).decode()}


_MISSING = 404


def _word(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _done(answer: Answer) -> Answer:
    if answer.status not in {200, 201}:
        raise CommandError(
            f"devpi-server refuses its settings (status {answer.status})\n{answer.text[:500]}",
            hint="what it fetched is only time: save what was uploaded to it, delete "
            "cache/var/pypi and try again",
        )
    return answer
