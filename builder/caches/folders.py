"""The caches whose files lie in a folder of ``cache/var`` and are handed out by a small server.

The server is :mod:`builder.caches.file_server`. It asks no upstream: what is in the folder was
fetched, and read through, before a build looks for it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.caches.http import ask
from builder.caches.service import Launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.caches.kept import Item
    from builder.caches.state import Places, Terms

PROGRAM = "builder.caches.file_server"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of files: wheels, disk images or models. The URL is the root of its server."""

    name: str
    program: str = PROGRAM

    @property
    def fetches(self) -> bool:
        """What is not in the folder is not there, online as offline."""
        return False

    def prepare(self, places: Places, terms: Terms) -> Launch:
        """Make the folder, which may be empty."""
        places.content.mkdir(parents=True, exist_ok=True)
        command: list[str] = [
            sys.executable, "-m", self.program, self.name, str(places.content),
            "--host", terms.listen, "--port", str(terms.port),
        ]  # fmt: skip
        return Launch(command)

    def url(self, terms: Terms) -> str:
        """Return the root of the server."""
        return terms.root

    def answers(self, url: str) -> bool:
        """Ask for the page that says what the server is."""
        return f"vaultbuild {self.name}" in ask(url.rstrip("/") + "/").text

    def settle(self, places: Places, terms: Terms) -> None:
        """Nothing to do: all its state are files."""

    def items(self, places: Places) -> Sequence[Item]:
        """Return what the folder keeps, by the digest that names it."""
        found: Sequence[Item] = _shelf(self.name).items(places.var)
        return found

    def drop(self, places: Places, item: Item) -> bool:
        """Remove one of those."""
        gone: bool = _shelf(self.name).drop(places.var, item)
        return gone


def _shelf(name: str) -> Any:
    """Return the module that knows how such a cache keeps things."""
    from builder.caches import isos, models, wheels  # late: who only starts a server needs none

    return {"wheels": wheels, "isos": isos, "models": models}[name]
