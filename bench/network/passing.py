"""What it costs that everything passes a gateway, where it is read and written down."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from bench import measure
from bench.measure import ROOT, Figure, median, ratio, seconds
from builder import caches, gateway, ports
from builder.gateway import Gateway, Rules
from builder.pipeline import load_pipeline
from builder.sources.bootstrap import host_mirrors
from builder.upstream import archive
from builder.warm import wants_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.network.project import Trimmed

_BIG: Final = 1 << 30
_URL: Final = "http://files.example/big"
_CONFIGURATION: Final = """\
Dir "{root}";
Dir::State::status "{root}/status";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""
# A client that does nothing with what it gets.
_CLIENT: Final = """\
import http.client, sys
link = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
link.request("GET", sys.argv[2])
answer, count, block = link.getresponse(), 0, bytearray(1 << 20)
while got := answer.readinto(block):
    count += got
assert count == int(sys.argv[3]), count
"""


def figures(project: Trimmed, rounds: int) -> Iterator[Figure]:
    """Fetch through a gateway and past it in turns."""
    root = project.folder.with_name("apt")
    yield from _packages(project, root, rounds)
    shutil.rmtree(root, ignore_errors=True)
    yield from _one_file(project.folder.with_name("big"), rounds)


# --- packages -------------------------------------------------------------------------------------


def _packages(project: Trimmed, root: Path, rounds: int) -> Iterator[Figure]:
    names = _names(project)
    settings = load_pipeline(project.folder, None).caches
    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(caches.running(settings, project.folder, names=["apt"])).apt
        mirrors = _root(root)
        way = Gateway(
            urls={"apt": direct},
            rules=Rules(archives=gateway.archives_in(mirrors)),
            var=project.var,
            own=frozenset({"apt"}),
        )
        through = stack.enter_context(gateway.opened(way, root / "network.jsonl"))["apt"]
        _apt(root, direct, "update")
        found = measure.alternate(
            rounds,
            {
                "direct": partial(_download, root, direct, names),
                "through": partial(_download, root, through, names),
            },
        )
    label = f"apt-get download of {len(names)} packages"
    size = sum(path.stat().st_size for path in (root / "debs").iterdir())
    yield Figure(f"{label}, past the gateway", median(found["direct"]), "s",
                 how=f"{size / 1e6:.0f} MB")  # fmt: skip
    yield Figure("  through it", median(found["through"]), "s")
    yield Figure("  through / past", ratio(found["through"], found["direct"]), "x", 1.5)
    each = [a - b for a, b in zip(found["through"], found["direct"], strict=True)]
    yield Figure("  more for each package", median(each) / len(names) * 1000, "ms")


def _names(project: Trimmed) -> list[str]:
    found = (archive.package_file(want.url) for want in wants_of(project.locks))
    return sorted({one[0] for one in found if one})


def _root(root: Path) -> tuple[str, ...]:
    """Make a root for an apt that has nothing installed; return its sources."""
    shutil.rmtree(root, ignore_errors=True)
    for name in ("etc/apt", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial",
                 "etc/apt/apt.conf.d", "etc/apt/preferences.d"):  # fmt: skip
        (root / name).mkdir(parents=True)
    (root / "status").touch()
    (root / "apt.conf").write_text(_CONFIGURATION.format(root=root))
    mirrors = host_mirrors("trixie", ["main"])
    # The host may be older than the suite and not have its key; nothing is installed from here.
    lines = [line.replace("deb ", "deb [trusted=yes] ", 1) for line in mirrors]
    (root / "etc/apt/sources.list").write_text("\n".join(lines) + "\n")
    return mirrors


def _download(root: Path, proxy: str, names: list[str]) -> float:
    debs = root / "debs"
    shutil.rmtree(debs, ignore_errors=True)
    debs.mkdir()
    return _apt(root, proxy, "download", *names, cwd=debs)


def _apt(root: Path, proxy: str, *words: str, cwd: Path | None = None) -> float:
    return seconds(
        ["apt-get", "-qq", "-o", f"Acquire::http::Proxy={proxy}", *words],
        env={"APT_CONFIG": str(root / "apt.conf")},
        cwd=cwd,
        log=root / "log",
    )


# --- one large file -------------------------------------------------------------------------------


def _one_file(folder: Path, rounds: int) -> Iterator[Figure]:
    with _served(folder) as port:
        way = Gateway(
            urls={"apt": f"http://127.0.0.1:{port}"},
            rules=Rules(archives=gateway.archives_in(["deb http://files.example/ x main"])),
            var=folder / "var",
        )
        with gateway.opened(way, folder / "network.jsonl") as urls:
            through = int(urls["apt"].rpartition(":")[2])
            found = measure.alternate(
                rounds, {"direct": _client(port), "through": _client(through)}
            )
    for name, label in (("direct", "past"), ("through", "through")):
        pace = [_BIG / 1e6 / took for took in found[name]]
        yield Figure(f"a file of 1 GiB, {label} the gateway", median(pace), "MB/s")
    yield Figure("  through / past, time", ratio(found["through"], found["direct"]), "x", 4)


def _client(port: int) -> Callable[[], float]:
    return partial(seconds, [sys.executable, "-c", _CLIENT, str(port), _URL, str(_BIG)])


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[int]:
    """Serve a large file from another process, as caches do."""
    place = folder / "upstream/apt/files.example/big"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        for _ in range(_BIG >> 20):
            file.write(bytes(1 << 20))
    port = ports.free()
    argv = [sys.executable, ROOT / "bench/network/upstream.py", folder / "upstream", str(port)]
    try:
        with subprocess.Popen(argv) as child:
            try:
                while not ports.taken(port):
                    time.sleep(0.05)
                yield port
            finally:
                child.kill()
    finally:
        shutil.rmtree(folder)
