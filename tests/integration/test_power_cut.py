"""A power cut: what the store committed is whole afterwards, and nothing is half there.

A killed program never shows a missing sync: the kernel still writes what it was given. Here the
store writes to a file system on a disk that QEMU holds, and QEMU takes a snapshot, which has what
had reached the disk at that very moment. Mounting it replays its journal, as the boot after a power
cut does.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder import disks, monitor, process
from builder.digest import digest_file
from builder.engines import MONITOR
from builder.rawdisk import exported
from builder.scratch import scratch
from builder.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

CUTS = 8
SIZE = 256 << 20
SEED = 20261120
# Commits images one after another, each replacing one now and then, and says when each is done.
WRITER = """
import os, sys
from pathlib import Path
from builder.digest import digest_file
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK, Store

store = Store(Path(sys.argv[1]))
for number in range(1000):
    key = f"{number % 40:064x}"
    with store.staging() as staged:
        (staged / DISK).write_bytes(os.urandom(2 << 20))
        disk = DiskRecord(digest_file(staged / DISK), 2 << 20)
        record = BuildRecord(
            key=key, variant="one", stage="base", created="2026-11-20T10:00:00Z", seconds=1.0,
            documents=(), parent=None, disk=disk,
        )
        store.commit(staged, record, replace=True)
    print(key, flush=True)
"""


class Disk:
    """A disk in the hands of QEMU's storage daemon, as a file that a loop device takes."""

    def __init__(self, folder: Path, raw: Path, sockets: Path) -> None:
        self.folder, self.raw = folder, raw
        self._sockets = sockets
        self._layers = [folder / "layer-0.qcow2"]
        self._node: str | None = None

    def cut(self) -> Path:
        """Return the disk as it is at this moment, as a raw file."""
        below, layer = self._layers[-1], self.folder / f"layer-{len(self._layers)}.qcow2"
        disks.make_layer(str(below), layer, size=SIZE)
        self._node = monitor.add_layer(
            self._sockets / MONITOR, "nspawn", top=self._node, layer=layer
        )
        self._layers.append(layer)
        after = layer.with_suffix(".raw")
        subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", below, after], check=True)
        return after


@pytest.fixture
def disk(tmp_path, require_root, require_program) -> Iterator[Disk]:
    require_root()
    for program in ("mkfs.ext4", "qemu-storage-daemon", "qemu-img"):
        require_program(program)
    first = tmp_path / "layer-0.qcow2"
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", first, str(SIZE)])
    with scratch() as sockets:
        monitor = sockets / "qmp"
        with exported(first, tmp_path, tmp_path / "daemon.log", monitor=monitor) as raw:
            subprocess.run(["mkfs.ext4", "-q", "-F", raw], check=True)
            yield Disk(tmp_path, raw, sockets)


class Mounted:
    def __init__(self, file: Path, folder: Path) -> None:
        self.file, self.folder = file, folder

    def __enter__(self) -> Path:
        self.folder.mkdir()
        subprocess.run(["mount", "-o", "loop", self.file, self.folder], check=True)
        return self.folder

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.folder], check=True)


@pytest.fixture
def writing(disk, tmp_path) -> Iterator[Path]:
    """A store on a disk, while images are committed to it; yields what was acknowledged."""
    acknowledged = tmp_path / "acknowledged"
    root = Path(__file__).parents[2]
    with Mounted(disk.raw, tmp_path / "before") as folder, acknowledged.open("w") as said:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, folder / "var"], stdout=said, cwd=root
        )
        yield acknowledged
        alive = writer.poll() is None
        writer.kill()
        writer.wait()
    assert alive, "it wrote until the end"


def test_a_power_cut_loses_nothing_that_was_committed(disk, writing, tmp_path):
    moments = random.Random(SEED)  # noqa: S311 - not for secrets
    checked = 0
    for number in range(CUTS):
        time.sleep(moments.uniform(0.2, 1.0))
        promised = set(writing.read_text().split())
        after = disk.cut()
        with Mounted(after, tmp_path / f"after-{number}") as folder:
            store = Store(folder / "var")
            visible = [path.name for path in (folder / "var/images").glob("[0-9a-f]*")]
            for key in visible:
                image = store.find(key)
                assert image, f"cut {number} (seed {SEED}): {key} is there and is no image"
                assert digest_file(image.disk) == image.record.disk.sha256
            # One may be on its way from its old bytes to its new ones.
            assert len(promised - set(visible)) <= 1, f"cut {number} (seed {SEED})"
            checked += len(visible)
        after.unlink()
    assert checked > CUTS, "there was something to lose"
