"""What a rule says: how bad it is, why, on whose word, and what to do instead."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

Level = Literal["ok", "note", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warn", "fail")
"""``fail``: it cannot work; ``warn``: it works, and should not be relied on; ``note``: it works in
part, or nothing is known; ``ok``: it was looked at and is right."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found.

    ``fact`` is what would have to change, a key of the table's ``variables``, or ``packages`` with
    ``where`` the lock file and ``package`` the requirement. ``cure`` may be empty.
    """

    rule: str
    level: Level
    message: str
    source: str
    fact: str
    cure: str = ""
    where: str = ""
    package: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as machines are told it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Finding:
        """Read what :meth:`to_json` wrote."""
        return cls(**document)

    @property
    def said(self) -> str:
        """What was found, with the rule that says so."""
        return f"{self.message} [{self.rule}]"

    def __str__(self) -> str:
        cure = f" ({self.cure})" if self.cure else ""
        return f"{self.message}{cure} [{self.rule}]"


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level among findings; ``ok`` where there are none."""
    return max((each.level for each in findings), key=LEVELS.index, default="ok")


def accepting(findings: Iterable[Finding], rules: Collection[str]) -> list[Finding]:
    """Return findings with those of some rules made notes: a variant took them upon itself."""
    return [
        replace(each, level="note") if each.rule in rules and each.level != "ok" else each
        for each in findings
    ]
