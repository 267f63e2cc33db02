"""What a past build depended on and what came of it: the memory of the store.

A record lies beside its image and is never changed. It is read by later versions of this program
and by people, so it carries its schema and nothing in it needs this program to be understood.
A record that cannot be read makes its image absent; the reason is told, never swallowed.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA: Final = 1
"""The form of a record. Raise it when a reader of the old form would misread the new one."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One role as it ran: how long, how many tasks, how many of them changed something."""

    role: str
    seconds: float
    changed: int
    tasks: int


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """The image's disk: what a later run must find in its place."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """How an image came to be.

    ``documents`` are the stage's inputs, readable; the digest of the last is ``key``. ``parent``
    is the key of the parent stage's image, None for the root. ``created`` is a UTC time in ISO
    8601. ``role`` is set in a checkpoint: the role that was the last. ``checkpoint`` is the key of
    the checkpoint whose disk this one stands on; None where it stands on the parent's.
    ``below_sha256`` is what the disk below must hold: the key alone does not tell its bytes.
    ``resumed_after`` is the role that the build went on from, None where it began with the first.
    ``logins`` are the public keys that vaultbuild logged in with: no release may hold them.
    ``largest_process_bytes`` is what the largest process of its container held in memory.
    """

    key: str
    variant: str
    stage: str
    created: str
    seconds: float
    documents: tuple[Mapping[str, Any], ...]
    parent: str | None
    disk: DiskRecord
    packages: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    roles: tuple[StepRecord, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    network: Any = None
    role: str | None = None
    checkpoint: str | None = None
    below_sha256: str | None = None
    resumed_after: str | None = None
    logins: tuple[str, ...] = ()
    largest_process_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON document."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, document: Any) -> BuildRecord:
        """Return the record that ``document`` holds; raise ValueError that says why it is none."""
        if not isinstance(document, dict):
            raise ValueError("it is not a mapping")  # noqa: TRY004 - one error for all
        if document.get("schema") != SCHEMA:
            found = document.get("schema")
            raise ValueError(f"its schema is {found!r}, this program reads {SCHEMA}")
        values = {f.name: document[f.name] for f in fields(cls) if f.name in document}
        try:
            return cls(**{**values, **_typed(values)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is incomplete: {error}") from error


def utc_now() -> str:
    """Return this moment as records write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_record(file: Path) -> tuple[BuildRecord | None, str | None]:
    """Return the record in ``file``, or None and the reason why there is none to be had."""
    try:
        return BuildRecord.from_json(json.loads(file.read_bytes())), None
    except OSError as error:
        return None, f"{file.name} cannot be read: {error.strerror}"
    except ValueError as error:
        return None, f"{file.name} cannot be read: {error}"


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a record that are more than plain JSON."""
    return {
        "documents": tuple(values["documents"]),
        "disk": DiskRecord(**values["disk"]),
        "logins": tuple(values.get("logins", ())),
        "roles": tuple(StepRecord(**role) for role in values.get("roles", ())),
    }
