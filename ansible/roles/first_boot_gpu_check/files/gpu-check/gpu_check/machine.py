"""The machine as the checks see it: what was expected, and each answer asked for once."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import json
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gpu_check.outcome import Failed, Skipped
from gpu_check.smi import QUERY, Gpu, Log, parse

if TYPE_CHECKING:
    from gpu_check.expect import Expected
    from gpu_check.host import Answer, Host

_SMI_SECONDS = 120
_CUDA_SECONDS = {"quick": 300, "medium": 900, "long": 900}


class Machine:
    """Asks at most once what several checks look at.

    CUDA is asked by a process of its own (``--ask-cuda``): a driver that hangs or crashes is then
    the result of a check, and not the end of all of them.
    """

    def __init__(self, host: Host, expected: Expected, level: str) -> None:
        self.host = host
        self.expected = expected
        self.level = level

    @cached_property
    def smi_answer(self) -> Answer | None:
        """What ``nvidia-smi -q -x`` said; None where there is no such program."""
        if not self.host.has(QUERY[0]):
            return None
        return self.host.run(QUERY, timeout=_SMI_SECONDS)

    @cached_property
    def smi(self) -> Log:
        """The same, read."""
        if self.smi_answer is None:
            raise Skipped("there is no nvidia-smi")
        try:
            return parse(self.smi_answer.stdout)
        except ValueError as error:
            raise Skipped("nvidia-smi gave no answer that can be read") from error

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that nvidia-smi knows."""
        if not self.smi.gpus:
            raise Skipped("nvidia-smi lists no GPU")
        return self.smi.gpus

    @property
    def pci_ids(self) -> dict[str, str]:
        """The PCI device id of each GPU by its address.

        Of the bus, which has those that the driver does not know too; where it is hidden, as
        nvidia-smi tells them.
        """
        if bus := self.host.gpus_on_the_bus():
            return {address: self.host.pci_id(address) for address in bus}
        return {gpu.bus: gpu.pci_id for gpu in self.gpus if gpu.pci_id}

    @cached_property
    def cuda_answer(self) -> Answer:
        """What the process that asks CUDA wrote."""
        argv = [sys.executable, sys.argv[0], "--ask-cuda", self.level]
        return self.host.run(argv, timeout=_CUDA_SECONDS[self.level])

    @cached_property
    def cuda(self) -> dict[str, Any]:
        """What CUDA's driver said; see :mod:`gpu_check.cuda` for the form."""
        answer = self.cuda_answer
        if answer.status is None:
            raise Failed(answer.last)
        try:
            document = json.loads(answer.stdout)
        except ValueError as error:
            how = f"ended with status {answer.status}"
            raise Failed(f"asking CUDA's driver {how}: {answer.last}", answer.said) from error
        return dict(document)

    def cuda_devices(self) -> list[dict[str, Any]]:
        """Return the devices that CUDA found, for checks that need one."""
        try:
            answer = self.cuda
        except Failed as error:
            raise Skipped("CUDA's driver gave no answer") from error
        if not answer.get("devices"):
            raise Skipped("CUDA's driver found no device")
        return list(answer["devices"])
