"""``cache warm`` into empty caches, against plain downloads of the same bytes.

The plain clients fetch what the locks name from the same upstream and write it down, and that is
all: no digest, no cache, no server. One of them fetches one thing after the other over one
connection, the other four at once; of wheels, pip does it.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import queue
import shutil
import sys
import time
from typing import TYPE_CHECKING, Final

from bench import measure
from bench.measure import Figure, median, ratio, seconds
from builder.warm import wants_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench.network.project import Trimmed, Upstream

_AT_ONCE: Final = 4
_MB: Final = 1e6
_PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")


def figures(project: Trimmed, served: Upstream, rounds: int) -> Iterator[Figure]:
    """Warm and download in turns."""
    wants = [want for want in wants_of(project.locks) if want.cache == "apt"]
    urls, size = [want.url for want in wants], sum(want.bytes for want in wants)
    lock = _kept_lock(project)
    aside = project.folder.with_name("downloads")

    def warm() -> float:
        project.forget("apt")
        return project("--quiet", "cache", "warm", "apt", "--lock", str(lock))

    found = measure.alternate(
        rounds,
        {
            "warm": warm,
            "again": lambda: project("--quiet", "cache", "warm", "apt", "--lock", str(lock)),
            "one": lambda: _plain(served, urls, aside, 1),
            "four": lambda: _plain(served, urls, aside, _AT_ONCE),
        },
    )
    yield Figure(f"cache warm apt, {len(urls)} files", median(found["warm"]), "s",
                 how=f"{size / _MB:.0f} MB")  # fmt: skip
    yield Figure("  when all of it is there", median(found["again"]), "s")
    yield Figure("plain client, one at a time", median(found["one"]), "s")
    yield Figure(f"plain client, {_AT_ONCE} at once", median(found["four"]), "s")
    yield Figure("cache warm / one at a time", ratio(found["warm"], found["one"]), "x", 1)
    yield Figure(f"cache warm / {_AT_ONCE} at once", ratio(found["warm"], found["four"]), "x", 2)
    yield from _wheels(project, aside, rounds)
    shutil.rmtree(aside, ignore_errors=True)


def _wheels(project: Trimmed, aside: Path, rounds: int) -> Iterator[Figure]:
    def warm() -> float:
        project.forget("wheels", "pypi")
        return project("--quiet", "cache", "warm", "wheels")

    found = measure.alternate(rounds, {"warm": warm, "pip": _pip_download(project, aside)})
    yield Figure("cache warm wheels", median(found["warm"]), "s")
    yield Figure("pip download of the same lock", median(found["pip"]), "s")
    yield Figure("cache warm wheels / pip download", ratio(found["warm"], found["pip"]), "x", 2)


def _kept_lock(project: Trimmed) -> Path:
    """Write one lock of all images beside the project: warming must not depend on its store."""
    from builder import network

    path = project.folder.with_name("network.json")
    network.write(path, network.merge(project.locks))
    return path


def _pip_download(project: Trimmed, aside: Path) -> Callable[[], float]:
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    argv = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
        "--no-cache-dir", "--only-binary=:all:", "--python-version=3.13", *platforms,
        "--dest", aside, "--requirement", project.lock,
    ]  # fmt: skip

    def run() -> float:
        shutil.rmtree(aside, ignore_errors=True)
        return seconds(argv)

    return run


def _plain(served: Upstream, urls: Sequence[str], aside: Path, at_once: int) -> float:
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    left: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    for numbered in enumerate(urls):
        left.put(numbered)
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(_worker, served.port, left, aside) for _ in range(at_once)]:
            done.result()
    return time.perf_counter() - started


def _worker(port: int, left: queue.SimpleQueue[tuple[int, str]], aside: Path) -> None:
    link = http.client.HTTPConnection("127.0.0.1", port)
    while True:
        try:
            number, url = left.get_nowait()
        except queue.Empty:
            break
        link.request("GET", url)
        with link.getresponse() as answer, (aside / str(number)).open("wb") as file:
            if answer.status != 200:
                raise SystemExit(f"the upstream says {answer.status} for {url}")
            shutil.copyfileobj(answer, file, 1 << 18)
    link.close()
