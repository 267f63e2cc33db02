"""What it costs to read an image through the layers of its checkpoints.

::

    python -m bench.layers

The same content twice: in one layer on its parent, and in as many layers as a stage may have, each
with a part of it in small pieces. All of it is read, and then blocks of 4 KiB all over it.
"""

from __future__ import annotations

import random
import subprocess
from functools import partial
from typing import TYPE_CHECKING

from bench import measure
from bench.measure import Figure, median, ratio, say, seconds
from builder import disks
from builder.stage_build import MOST_LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MIB = 1 << 20
_SIZE = 768 * _MIB
_PIECES = 24
_PIECE = 2 * _MIB
_READS = 40000
_SEED = 1


def main() -> None:
    """Measure and print."""
    options = measure.parser(__doc__ or "").parse_args()
    with measure.folder(options.scratch) as scratch:
        say(f"writing {MOST_LAYERS} layers")
        deep, flat = _disks(scratch)
        measure.wait_until_calm(options.calm)
        before = measure.load()
        rounds = options.rounds or 7
        whole = measure.alternate(rounds, _both(_read_all, deep, flat))
        blocks = measure.alternate(rounds, _both(_read_blocks, deep, flat))
    figures = [*_compared("all of it", whole), *_compared("blocks of 4 KiB", blocks)]
    measure.show(figures, as_json=options.json, load_before=before)


def _compared(what: str, found: dict[str, list[float]]) -> list[Figure]:
    return [
        Figure(f"{what}, 1 layer", median(found["flat"]), "s"),
        Figure(f"{what}, {MOST_LAYERS} layers", median(found["deep"]), "s"),
        Figure(f"{what}, {MOST_LAYERS} layers / 1", ratio(found["deep"], found["flat"]), "x", 1.1),
    ]


def _both(read: Callable[[Path], float], deep: Path, flat: Path) -> dict[str, Callable[[], float]]:
    return {"flat": partial(read, flat), "deep": partial(read, deep)}


def _disks(scratch: Path) -> tuple[Path, Path]:
    places = random.Random(_SEED)
    below = scratch / "parent.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", below, str(_SIZE)], check=True)
    # Guests read what somebody wrote: a disk of holes would measure the walk alone.
    subprocess.run(["qemu-io", "-c", f"write -q -P 255 0 {_SIZE}", below], check=True)
    for number in range(MOST_LAYERS):
        layer = scratch / f"layer-{number}.qcow2"
        disks.make_overlay(below.name, layer)
        writes = [
            f"write -q -P {1 + number} {places.randrange(_SIZE // _PIECE) * _PIECE} {_PIECE}"
            for _ in range(_PIECES)
        ]
        words = [word for write in writes for word in ("-c", write)]
        subprocess.run(["qemu-io", *words, layer], check=True)
        below = layer
    flat = scratch / "flat.qcow2"
    subprocess.run(["cp", below, flat], check=True)
    disks.merge(flat, "parent.qcow2")
    return below, flat


def _read_all(disk: Path) -> float:
    nowhere = f"driver=null-co,size={_SIZE}"
    return seconds(["qemu-img", "convert", "-n", "--target-image-opts", disk, nowhere])


def _read_blocks(disk: Path) -> float:
    # A step that is no divisor of the disk comes by everywhere.
    return seconds(
        ["qemu-img", "bench", "-c", str(_READS), "-s", "4k", "-S", str(37 * 4096 * 11), "-d", "1",
         "-f", "qcow2", disk]
    )  # fmt: skip


if __name__ == "__main__":
    main()
