"""The same image by the tools that a user would take instead.

::

    python -m bench.peers

A plain Debian 12 (cloud kernel, sshd, Python, Docker, NumPy; no recommended packages) through a
warm package proxy: cold, unchanged, and with one file changed in the last step.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from bench import measure
from bench.measure import Figure, median, say
from bench.peers.tools import (
    SUITE,
    Mkosi,
    Mmdebstrap,
    PackerAnsible,
    Peer,
    Vaultbuild,
    Vmdb2,
    missing,
    own_project,
)
from builder import caches
from builder.pipeline import load_pipeline
from builder.sources.bootstrap import host_mirrors

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PEERS: Final[dict[str, type[Mmdebstrap | Mkosi | Vmdb2 | PackerAnsible]]] = {
    "mmdebstrap": Mmdebstrap,
    "mkosi": Mkosi,
    "vmdb2": Vmdb2,
    "packer": PackerAnsible,
}
_GOALS: Final[dict[str, float]] = {"cold": 60, "unchanged": 1, "one file changed": 10}


def main() -> None:
    """Measure and print."""
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--only", nargs="*", default=[*_PEERS, "vaultbuild"], metavar="TOOL")
    options = parser.parse_args()
    with measure.folder(options.scratch) as scratch:
        figures, before = _measure(scratch, options)
    measure.show(figures, as_json=options.json, load_before=before)


def _measure(scratch: Path, options: argparse.Namespace) -> tuple[list[Figure], float]:
    rounds = options.rounds or 1
    ours = Vaultbuild(own_project(scratch / "vaultbuild"))
    say("warming the proxy")
    ours.cold()
    figures: list[Figure] = []
    with _proxy(ours.project) as proxy:
        peers = list(_prepared(scratch, proxy, [name for name in options.only if name in _PEERS]))
        measure.wait_until_calm(options.calm)
        before = measure.load()
        for peer in peers:
            figures += _three(peer, rounds, {})
    if "vaultbuild" in options.only:
        measure.wait_until_calm(options.calm)
        figures += _three(ours, rounds, _GOALS)
    return figures, before


@contextlib.contextmanager
def _proxy(project: Path) -> Iterator[str]:
    """Serve packages from the cache of our own project: all tools get them from one place."""
    pipeline = load_pipeline(project, None)
    with caches.running(pipeline.caches, project) as endpoints:
        yield endpoints.apt


def _prepared(scratch: Path, proxy: str, names: Sequence[str]) -> Iterator[Peer]:
    sources = host_mirrors(SUITE, ["main"])
    for name in names:
        kind = _PEERS[name]
        if absent := missing(kind.needs):
            say(f"skipped {name}: apt has no {' '.join(absent)}")
            continue
        folder = scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        peer: Peer = kind(folder.absolute(), proxy, sources)
        if peer.keeps:
            # These begin with other packages than ours.
            say(f"warming {peer.name}")
            peer.cold()
        yield peer


def _three(peer: Peer, rounds: int, goals: dict[str, float]) -> Iterator[Figure]:
    runs = {"cold": peer.cold, "unchanged": peer.again, "one file changed": peer.changed}
    if not peer.keeps:
        del runs["unchanged"]  # the same work as "cold" for a tool that keeps nothing
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
            say(f"{peer.name}: {name} {found[name][-1]:.1f} s")
    for name, values in found.items():
        yield Figure(f"{peer.name}: {name}", median(values), "s", goals.get(name))


if __name__ == "__main__":
    main()
