"""The caches whose files lie in a folder of ``cache/var`` and are handed out by a small server.

The server is :mod:`builder.caches.file_server`. It asks no upstream: what is in the folder was
fetched, and read through, before a build looks for it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.caches import kept
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
        """Return the files, each as one item; what begins with a dot is half done."""
        return kept.found_items(
            kept.item_of(self.name, places.var, path)
            for path in kept.files_below(places.content)
            if not path.name.startswith(".")
        )

    def drop(self, places: Places, item: Item) -> bool:
        """Remove a file."""
        return kept.drop(places.var, item)
