"""The results on paper: a JSON document, JUnit, and lines for a person. Nothing is asked here."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_check.outcome import FAILED, PASSED, SKIPPED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_check.outcome import Result

SCHEMA = 1
# What XML 1.0 cannot hold, as the colours of nvidia-smi topo.
_UNWRITABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def counts(results: Sequence[Result]) -> dict[str, int]:
    """Return how many checks passed, failed and were skipped."""
    outcomes = [result.outcome for result in results]
    return {name: outcomes.count(name) for name in (PASSED, FAILED, SKIPPED)}


def outcome(results: Sequence[Result]) -> str:
    """Return what they come to: ``passed`` needs one that looked, and none that failed."""
    found = counts(results)
    return PASSED if found[PASSED] and not found[FAILED] else FAILED


def document(results: Sequence[Result], about: dict[str, Any]) -> dict[str, Any]:
    """Return the document; ``about`` has what is known of the run and of the machine."""
    return {
        "schema": SCHEMA,
        "outcome": outcome(results),
        **about,
        "counts": counts(results),
        "results": [vars(result) for result in results],
    }


def junit(results: Sequence[Result], level: str) -> str:
    """Return JUnit XML: one suite, a case for each check."""
    found = counts(results)
    suite = ET.Element(
        "testsuite",
        name="gpu-check",
        tests=str(len(results)),
        failures=str(found[FAILED]),
        errors="0",
        skipped=str(found[SKIPPED]),
        time=f"{sum(result.seconds for result in results):.2f}",
    )
    for result in results:
        time = f"{result.seconds:.2f}"
        name = f"{result.id}: {result.title}"
        case = ET.SubElement(suite, "testcase", classname=f"gpu.{level}", name=name, time=time)
        if result.outcome != PASSED:
            kind = {FAILED: "failure", SKIPPED: "skipped"}[result.outcome]
            ET.SubElement(case, kind, message=_writable(result.message))
        if text := "\n".join(part for part in (result.message, result.evidence) if part):
            ET.SubElement(case, "system-out").text = _writable(text)
    body = ET.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _writable(text: str) -> str:
    return _UNWRITABLE.sub("?", text)


def line(result: Result) -> str:
    """Return a result for a person."""
    return f"{result.outcome:<8}{result.title:<28}{result.message}"


def put(path: str, text: str) -> None:
    """Replace a file in one step: a reader sees the old one or the new one."""
    target = Path(path)
    aside = target.with_name(f".{target.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.chmod(0o644)
    aside.replace(target)
