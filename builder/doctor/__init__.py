"""Can this host build this pipeline? Each thing looked at, what was seen, and what cures it.

A finding is a failure only when this pipeline cannot be built without it here, with the engine that
is wanted: a host without root builds from a cloud image in a VM, one without KVM in a container.
Nothing is changed, and all of it takes seconds: nobody has an excuse not to run it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.doctor import host as machine
from builder.doctor import memory, project, signing, store, upstream
from builder.doctor.finding import Case, EngineChoice, Finding, Host, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from builder.pipeline import Pipeline

__all__ = ["Case", "EngineChoice", "Finding", "Host", "Level", "examine"]

_LOOKS: Sequence[Callable[[Case], Iterator[Finding]]] = (
    machine.python, machine.packer, machine.qemu, machine.firmware, machine.kvm, machine.user,
    machine.programs, machine.fuse, machine.loop, project.caches_answer, project.open_pins,
    project.compatibility, signing.keys, store.health, store.disk, memory.guests, memory.history,
)  # fmt: skip
_OUTSIDE: Sequence[Callable[[Case], Iterator[Finding]]] = (upstream.servers, upstream.hub)


def examine(
    pipeline: Pipeline,
    host: Host | None = None,
    *,
    engine: EngineChoice = "auto",
    outside: bool = False,
) -> list[Finding]:
    """Look at everything that this pipeline needs of this host, to be built with ``engine``.

    ``outside``: ask those who will be asked over the network, too.
    """
    case = Case(pipeline, host or Host(), engine)
    looks = (*_LOOKS, *_OUTSIDE) if outside else _LOOKS
    return [finding for look in looks for finding in look(case)]
