"""What the caches save, and what it costs that everything a guest gets passes them.

::

    python -m bench.network

A first build fetches from the host's own upstream, once. What it fetched is then served on the
loopback, with a latency and a pace, and counted there: all that is measured fetches from that.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from bench import measure
from bench.measure import Figure
from bench.network import builds, downloads, passing
from bench.network.project import LATENCY, PACE, trimmed, upstream

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from bench.network.project import Trimmed, Upstream

_PARTS: Final = ("builds", "warm", "gateway", "refresh")


def main() -> None:
    """Measure and print."""
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--only", nargs="*", choices=_PARTS, default=_PARTS, metavar="PART")
    parser.add_argument("--latency", type=float, default=LATENCY, metavar="SECONDS")
    parser.add_argument("--pace", type=float, default=PACE, metavar="MB/S")
    options = parser.parse_args()
    with (
        measure.folder(options.scratch) as scratch,
        upstream(scratch, latency=options.latency, pace=options.pace) as served,
    ):
        project = trimmed(scratch / "project")
        measure.wait_until_calm(options.calm)
        before = measure.load()
        figures = list(_figures(project, served, options))
    measure.show(figures, as_json=options.json, load_before=before)


def _figures(project: Trimmed, served: Upstream, options: argparse.Namespace) -> Iterator[Figure]:
    if "builds" in options.only:
        yield from builds.figures(project, served, options.rounds or 2)
    elif not project.locks:
        project.forget()
        project.build()
    if "warm" in options.only:
        yield from downloads.figures(project, served, options.rounds or 3)
    if "gateway" in options.only:
        yield from passing.figures(project, options.rounds or 5)
    if "refresh" in options.only:
        yield from _refreshed(project, options.rounds or 5)


def _refreshed(project: Trimmed, rounds: int) -> Iterator[Figure]:
    found = measure.alternate(
        rounds,
        {"plan": partial(project, "plan"), "refresh": partial(project, "plan", "--refresh")},
    )
    yield Figure("plan, nothing changed", measure.median(found["plan"]), "s")
    yield Figure("plan --refresh, nothing moved", measure.median(found["refresh"]), "s")
    more = [whole - plan for whole, plan in zip(found["refresh"], found["plan"], strict=True)]
    yield Figure("  of that, asking upstream", measure.median(more), "s", 5)


if __name__ == "__main__":
    main()
