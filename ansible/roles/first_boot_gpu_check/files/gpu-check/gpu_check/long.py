"""The long set, beside the medium one: NVIDIA's stress tests, and GPUs split and made whole again.

It is asked for by name alone: nobody else may use the GPUs meanwhile, and the mode of those that
are whole is changed and set back.
"""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import contextlib
import re
from functools import partial
from typing import TYPE_CHECKING

from gpu_check.judge import known, require
from gpu_check.medium import diagnosis
from gpu_check.outcome import Check, Failed, Said, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpu_check.host import Answer
    from gpu_check.machine import Machine
    from gpu_check.smi import Gpu

_SECONDS = 180  # a change of the mode may reset the GPU
_ON = "Enabled"
# Name, number and how many are free, as in `MIG 1g.10gb  19  7/7`; smallest first.
_PROFILE = re.compile(r"MIG (\d+g\.\d+gb)\s+(\d+)\s+(\d+)/\d+")
_WHOLE, _PART = re.compile(r"GPU (\d+):"), re.compile(r"\s+MIG \S+\s+Device")


def mig_instances(machine: Machine) -> Said:
    """A part of each GPU can be made and removed, and the GPU is as it was."""
    modes = known(machine.gpus, "mig_mode/current_mig", "MIG mode")
    split = {gpu.index for gpu, _ in modes if _parts(machine, gpu)}
    said, problems, untried = [], [], []
    for gpu, mode in modes:
        if gpu.index in split:
            untried.append(f"{gpu} is in parts, which are left alone")
            continue
        try:
            with _enabled(machine, gpu, mode):
                said.append(f"{gpu}: {_made_and_removed(machine, gpu)}")
        except Skipped as reason:
            untried.append(str(reason))
        except Failed as error:
            problems.append(str(error))
    require(problems)
    if not said:
        raise Skipped("; ".join(untried))
    return Said("; ".join(said + untried))


@contextlib.contextmanager
def _enabled(machine: Machine, gpu: Gpu, mode: str) -> Iterator[None]:
    """Split a GPU's mode on, where it is off; whatever happens, set back what was."""
    if mode == _ON:
        yield
        return
    try:
        answer = _run(machine, gpu, "-mig", "1")
        if answer.status and "in use" in answer.said.lower():
            raise Skipped(f"{gpu} is in use: {answer.last}")
        if answer.status != 0:
            raise Failed(f"{gpu}: MIG could not be enabled: {answer.last}")
        if _modes(machine, gpu)[0] != _ON:
            raise Skipped(f"{gpu}: MIG takes a reset, which was not done")
        yield
    finally:
        _run(machine, gpu, "-mig", "0")
        # The mode now, and the one after the next reset.
        if (now := _modes(machine, gpu)) != [mode, mode]:
            raise Failed(f"{gpu}: MIG was {mode} and could not be set back: {', then '.join(now)}")


def _made_and_removed(machine: Machine, gpu: Gpu) -> str:
    profiles = _PROFILE.findall(_asked(machine, gpu, "mig", "-lgip").stdout)
    free = [(name, number) for name, number, count in profiles if int(count)]
    if not free:
        raise Failed(f"{gpu}: there is no profile of which a part could be made")
    name, number = free[0]
    try:
        _asked(machine, gpu, "mig", "-cgi", number, "-C")
        if (count := _parts(machine, gpu)) != 1:
            raise Failed(f"{gpu}: one part of {name} was made, nvidia-smi lists {count}")
    finally:
        # First what is in the part, then the part.
        answers = [_run(machine, gpu, "mig", word) for word in ("-dci", "-dgi")]
        if count := _parts(machine, gpu):
            last = answers[-1].last
            raise Failed(f"{gpu}: {count} parts could not be removed: {last}")
    return f"{name} made and removed"


def _modes(machine: Machine, gpu: Gpu) -> list[str]:
    asked = ("--query-gpu=mig.mode.current,mig.mode.pending", "--format=csv,noheader")
    return _asked(machine, gpu, *asked).stdout.strip().split(", ")


def _parts(machine: Machine, gpu: Gpu) -> int:
    """Return how many parts a GPU has."""
    count, index = 0, -1
    for line in machine.host.run(["nvidia-smi", "-L"], timeout=_SECONDS).stdout.splitlines():
        if whole := _WHOLE.match(line):
            index = int(whole[1])
        count += index == gpu.index and bool(_PART.match(line))
    return count


def _asked(machine: Machine, gpu: Gpu, *words: str) -> Answer:
    answer = _run(machine, gpu, *words)
    if answer.status != 0:
        how = f"nvidia-smi {' '.join(words)} ended with status {answer.status}"
        raise Failed(f"{gpu}: {how}: {answer.last}")
    return answer


def _run(machine: Machine, gpu: Gpu, *words: str) -> Answer:
    # The GPU is named after the word `mig`, and before an option.
    first = list(words[:1]) if words[0] == "mig" else []
    argv = ["nvidia-smi", *first, "-i", str(gpu.index), *words[len(first) :]]
    return machine.host.run(argv, timeout=_SECONDS)


CHECKS = (
    Check("dcgm-3", "dcgmi diag -r 3", partial(diagnosis, 3)),
    Check("mig-instances", "A part of each GPU", mig_instances),
)
