"""What is told of the files that a run fetched before its guests asked for them."""

from pathlib import Path

from builder.caches.models import ModelGot
from builder.network import Entry
from builder.provide import Provided


def wheel(sha256, origin, *, kind="file", what="handed"):
    return Entry(what, 1.0, cache="pypi", url="+f/x", sha256=sha256, kind=kind, origin=origin,
                 seconds=2.5)  # fmt: skip


def test_only_files_that_came_from_upstream_are_fresh():
    journal = [
        wheel("a", "upstream"),
        wheel("b", "cache"),
        wheel("c", "upstream", kind="index"),
        wheel("d", "upstream", what="failed"),
    ]
    model = ModelGot("org/name", "f" * 40, None, Path("/x"), 10, 7, (("e", 1.5),))
    assert Provided(models=[model]).fresh(journal) == {"a": 2.5, "e": 1.5}
