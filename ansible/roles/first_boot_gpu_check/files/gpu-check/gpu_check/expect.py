"""What a machine shall be: the expectation file, read and checked."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

BANDWIDTHS = ("host_to_device", "device_to_host", "device_to_device", "peer")
SWITCH = ("Enabled", "Disabled")
# As tables and messages have it: four digits, and letters that are capitals.
_ID = re.compile(r"[0-9A-F]{4}")


class WrongFileError(Exception):
    """The expectation file cannot be used; the text says where and why."""


@dataclass(frozen=True)
class Expected:
    """What is expected. What is not named is not compared, only reported."""

    driver_version: str | None = None
    cuda_version: str | None = None
    gpus: dict[str, int] = field(default_factory=dict)
    pci_ids: dict[str, list[str]] = field(default_factory=dict)
    ecc: str | None = None
    mig: str | None = None
    bandwidth: dict[str, float] = field(default_factory=dict)
    peer_access: bool | None = None
    nvlinks: int | None = None
    fabric_cluster: bool | None = None
    container_image: str | None = None
    vllm: dict[str, str] = field(default_factory=dict)


def read(path: str | None) -> tuple[Expected, dict[str, Any]]:
    """Return the expectations in a file, and the document; nothing is expected without one."""
    if path is None:
        return Expected(), {}
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WrongFileError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise WrongFileError(f"{path}: is not a JSON object")
    if problems := wrong(document):
        raise WrongFileError("\n".join(f"{path}: {problem}" for problem in problems))
    return Expected(**document), document


def wrong(document: dict[str, Any]) -> list[str]:
    """Return everything that is wrong with a document."""
    names = [one.name for one in fields(Expected)]
    unknown = [
        f"{key}: is not known here; known are {', '.join(names)}"
        for key in document
        if key not in names
    ]
    return unknown + [
        f"{key}: must be {form}"
        for key, (fits, form) in _FORMS.items()
        if key in document and not fits(document[key])
    ]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_gpus(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_count(count) for count in value.values())


def _are_ids(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(ids, list) and all(_is_text(one) and _ID.fullmatch(one) for one in ids)
        for ids in value.values()
    )


def _are_floors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in BANDWIDTHS and isinstance(floor, (int, float)) for name, floor in value.items()
    )


def _is_version(value: Any) -> bool:
    return _is_text(value) and all(part.isdigit() for part in value.split("."))


def _is_prompt(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"venv", "model"}
        and all(_is_text(path) and path.startswith("/") for path in value.values())
    )


_TEXT, _VERSION = (_is_text, "a text"), (_is_version, 'a version in quotes, such as "12.4"')
_MODE = (lambda value: value in SWITCH, " or ".join(SWITCH))
_SWITCHED = (lambda value: isinstance(value, bool), "true or false")
_FORMS = {
    "driver_version": _VERSION,
    "cuda_version": _VERSION,
    "gpus": (_are_gpus, 'names with counts, such as {"NVIDIA H100 80GB HBM3": 8}'),
    "pci_ids": (_are_ids, 'PCI device ids by name of a GPU, such as {"H100": ["2330", "2331"]}'),
    "ecc": _MODE,
    "mig": _MODE,
    "bandwidth": (_are_floors, f"GB/s by name: {', '.join(BANDWIDTHS)}"),
    "peer_access": _SWITCHED,
    "nvlinks": (_is_count, "a count of active links for each GPU"),
    "fabric_cluster": _SWITCHED,
    "container_image": _TEXT,
    "vllm": (_is_prompt, "venv and model, the folders of both on the machine"),
}
