"""The disk as it stands after each role, kept while the guest runs on.

::

    parent's image ◄── checkpoint of role 1 ◄── checkpoint of role 2 ◄── the layer being written

After a role the guest holds its writes, QEMU puts a new layer on top, the guest goes on: a fifth of
a second. The layer below never changes again and is committed to the store, where a later run finds
it by its key. Runs inside the program that Packer calls back (:mod:`builder.guest`).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import __version__, digest, disks, events, in_guest, monitor, network
from builder.errors import StoreError
from builder.provision import source_of_in_guest
from builder.record import BuildRecord, DiskRecord, StepRecord, utc_now
from builder.store import DISK, Store, backing_name, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.outcome import RoleResult
    from builder.ssh import Link

# Seconds: what a role wrote is on the disk first, gigabytes of it perhaps; then writes are held.
_WRITING = 900
_PATIENCE = 60


@dataclass(frozen=True, slots=True)
class Network:
    """Where it stands what the guest was given, and what the lock says of the stage's network."""

    journal: str
    events: str
    mode: str
    offline: bool


@dataclass(frozen=True, slots=True)
class Layers:
    """What a guest's disk is made of and where its checkpoints go.

    ``disk`` is the layer that the guest writes to at first, ``started`` the same file under the
    name that Packer gave it; ``store`` is the folder of the store. ``keys`` names, by the number of
    its role, each checkpoint that is to be made. ``backing`` names what ``disk`` must
    stand on, which holds ``below_sha256``.
    """

    engine: str
    monitor: Path
    disk: Path
    started: Path
    store: Path
    variant: str
    stage: str
    parent: str
    backing: str
    below_sha256: str
    resumed_from: str | None
    roles: tuple[StepRecord, ...]
    keys: Mapping[int, str]
    documents: Mapping[int, Mapping[str, Any]]
    network: Network | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document that :meth:`from_json` reads."""
        return {
            **{name: getattr(self, name) for name in self.__slots__},
            **{name: str(getattr(self, name)) for name in _PATHS},
            "roles": [_fields(role) for role in self.roles],
            "network": asdict(self.network) if self.network else None,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Layers:
        """Read a document; its numbers became text on the way."""
        return cls(
            **{
                **document,
                **{name: Path(document[name]) for name in _PATHS},
                **{name: _numbered(document[name]) for name in ("keys", "documents")},
                "roles": tuple(StepRecord(**role) for role in document["roles"]),
                "network": Network(**document["network"]) if document["network"] else None,
            }
        )


_PATHS = ("monitor", "disk", "started", "store")


class Checkpoints:
    """Puts a layer on a running disk after each role, and the one below into the store."""

    def __init__(self, layers: Layers, link: Link, public_key: str) -> None:
        if not layers.disk.exists():
            # Under its own name Packer takes the disk away when the build fails.
            os.link(layers.started, layers.disk)
        self._layers = layers
        self._link = link
        self._public_key = public_key
        self._store = Store(layers.store)
        found = disks.info(layers.disk)
        self._size = found.virtual_bytes
        # A project's own template may do without a monitor, or name the parent in its own way.
        self._able = layers.monitor.exists() and found.backing == layers.backing
        self._node: str | None = None
        self._roles = list(layers.roles)
        self._below = layers.resumed_from
        self._below_sha256 = layers.below_sha256
        self.top = layers.disk

    @property
    def stands_on(self) -> str | None:
        """The key of the checkpoint that the layer on top reads from; None for the parent."""
        return self._below

    def after_role(self, index: int, result: RoleResult) -> float | None:
        """Keep the disk as it stands; return the seconds it took, None when it was not asked."""
        step = StepRecord(result.role, round(result.seconds, 2), result.changed, result.tasks)
        self._roles.append(step)
        key = self._layers.keys.get(index)
        if key is None or not self._able:
            return None
        started = time.monotonic()
        frozen = self._freeze(backing_name(f"checkpoints/{key}"), f"layer-{index + 1}")
        self._commit(frozen, key, index, step)
        return round(time.monotonic() - started, 3)

    def keep_failed(self) -> Path | None:
        """Freeze the disk of a failed run where it is and return it; None where it cannot be."""
        return self._freeze(str(self.top), "after-failure") if self._able else None

    def _freeze(self, backing: str, name: str) -> Path:
        """Let the guest write to a new layer; return the one that it wrote to."""
        below, layer = self.top, self._layers.disk.with_name(f"{name}.qcow2")
        disks.make_layer(backing, layer, size=self._size)
        settings = json.dumps({"public_key": self._public_key, "patience": _PATIENCE})
        with self._link.holding_python(
            source_of_in_guest(), "freeze", settings, said=in_guest.FROZEN, patience=_WRITING
        ):
            self._node = monitor.add_layer(
                self._layers.monitor, self._layers.engine, top=self._node, layer=layer
            )
        self.top = layer
        return below

    def _commit(self, disk: Path, key: str, index: int, step: StepRecord) -> None:
        sha256 = digest.digest_file(disk)
        record = BuildRecord(
            key=key,
            variant=self._layers.variant,
            stage=self._layers.stage,
            created=utc_now(),
            seconds=step.seconds,
            documents=(self._layers.documents[index],),
            parent=self._layers.parent,
            disk=DiskRecord(sha256, disk.stat().st_size),
            roles=tuple(self._roles),
            tools={"vaultbuild": __version__},
            role=step.role,
            checkpoint=self._below,
            below_sha256=self._below_sha256,
            logins=(*self._logins(), self._public_key),
        )
        with self._store.staging() as staged:
            os.link(disk, staged / DISK)
            if lock := self._lock():
                network.write(staged / network.LOCK, lock)
            kept = self._store.commit(staged, record)
        if kept.record.disk != record.disk:
            # The layer on top stands on what was to be there.
            raise StoreError(f"another run made {place_of(record)} at the same time")
        self._below, self._below_sha256 = key, sha256
        disk.unlink()

    def _logins(self) -> tuple[str, ...]:
        """Return the keys of earlier runs, of whose checkpoint this one goes on."""
        resumed = self._layers.resumed_from
        image = self._store.checkpoint(resumed) if resumed else None
        return image.record.logins if image else ()

    def _lock(self) -> network.NetworkLock | None:
        """Return what the network gave up to now, with what it gave before this run."""
        here = self._layers.network
        if here is None:
            return None
        before = None
        if (resumed := self._layers.resumed_from) and (image := self._store.checkpoint(resumed)):
            before = network.read(image.folder / network.LOCK)
        told = Path(here.events)
        return network.lock_of(
            network.read_journal(Path(here.journal)),
            mode=here.mode,
            offline=here.offline,
            events=events.read(told) if told.exists() else (),
            before=before,
        )


def _numbered(document: Mapping[str, Any]) -> dict[int, Any]:
    return {int(number): value for number, value in document.items()}


def _fields(step: StepRecord) -> dict[str, Any]:
    return {name: getattr(step, name) for name in step.__slots__}
