"""What differs between the documents of two builds, and how that is told.

Documents are laid beside each other, and each file, variable and version that differs is a reason;
:mod:`builder.plan` says what follows from it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from builder.digest import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Documents = Sequence[Mapping[str, Any]]

Kind = Literal[
    "never-built", "image-missing", "forced", "upstream", "check", "parent", "source", "template",
    "engine", "network", "tool", "file", "variable", "role-added", "role-removed", "role-order",
    "earlier-role", "checkpoint-missing",
]  # fmt: skip

_SHOWN = 40
_INSTALLER: Final = "packer/iso.pkr.hcl.j2"
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that differs; ``before`` and ``after`` are None where it was or is not there.

    ``role`` is the role that it belongs to; None where it concerns the whole stage.
    """

    kind: Kind
    what: str
    before: Any = None
    after: Any = None
    role: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the reason as ``plan --json`` tells it."""
        told = {"kind": self.kind, "what": self.what, "before": self.before, "after": self.after}
        return {**told, "role": self.role} if self.role else told

    def __str__(self) -> str:
        return _SENTENCES.get(self.kind, _changed)(self)


def differences(
    last: Documents, now: Documents, *, template: str, parent: str | None
) -> Iterator[Reason]:
    """Yield what differs of a stage's documents.

    ``template`` names the stage's template; ``parent`` is the stage that it stands on, None for the
    root: its parent is its source, which tells itself how it differs.
    """
    stage = _one(now, "stage")
    yield from _source_differences(_one(last, "source"), _one(now, "source"))
    yield from _role_differences(_roles(last), _roles(now), str(stage["stage"]))
    yield from _stage_differences(_one(last, "stage"), stage, template, parent)


def _source_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Reason]:
    if before.get("source") != after.get("source"):
        yield Reason("source", "kind", before.get("source"), after.get("source"))
        return
    for what, old, new in _differing(before.get("settings", {}), after.get("settings", {})):
        yield Reason("source", what, old, new)
    yield from _file_differences(before, after)
    if before.get("disk") != after.get("disk"):
        yield Reason("source", "disk", before.get("disk"), after.get("disk"))
    if before.get("template") != after.get("template"):
        yield Reason("template", _INSTALLER, before.get("template"), after.get("template"))
    if before.get("program") != after.get("program"):
        yield Reason("tool", "source program", before.get("program"), after.get("program"))


def _stage_differences(
    before: Mapping[str, Any], after: Mapping[str, Any], template: str, parent: str | None
) -> Iterator[Reason]:
    yield from _file_differences(before, after)
    if before.get("template") != after.get("template"):
        yield Reason("template", template, before.get("template"), after.get("template"))
    if before.get("engine") != after.get("engine"):
        yield Reason("engine", "engine", before.get("engine"), after.get("engine"))
    if before.get("network") != after.get("network"):
        yield Reason("network", "network", before.get("network"), after.get("network"))
    yield from _tool_differences(before, after)
    if before.get("schema") != after.get("schema"):
        yield Reason("tool", "key schema", before.get("schema"), after.get("schema"))
    if parent and before.get("parent") != after.get("parent"):
        yield Reason("parent", parent, before.get("parent"), after.get("parent"))


def _role_differences(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], stage: str
) -> Iterator[Reason]:
    for name in after:
        if name in before:
            found = (
                *_file_differences(before[name], after[name]),
                *_variable_differences(before[name], after[name]),
                *_tool_differences(before[name], after[name]),
            )
            yield from (replace(reason, role=after[name]["role"]) for reason in found)
        else:
            yield Reason("role-added", name, role=after[name]["role"])
    yield from (Reason("role-removed", name) for name in before if name not in after)
    old, new = [n for n in before if n in after], [n for n in after if n in before]
    if old != new:
        yield Reason("role-order", stage, list(before), list(after))


def _file_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Reason]:
    old, new = before.get("files", {}), after.get("files", {})
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            yield Reason("file", path, old.get(path), new.get(path))


def _variable_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Reason]:
    for what, old, new in _differing(before.get("variables", {}), after.get("variables", {})):
        yield Reason("variable", what, old, new)


def _tool_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Reason]:
    for what, old, new in _differing(before.get("tools", {}), after.get("tools", {})):
        yield Reason("tool", what, old, new)


def _differing(before: Any, after: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the name, old and new value of each leaf that differs; None where there is none."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            dotted = f"{name}.{key}" if name else key
            yield from _differing(before.get(key, _ABSENT), after.get(key, _ABSENT), dotted)
    elif isinstance(before, list) and isinstance(after, list) and before != after:
        yield from _differing_items(before, after, name)
    elif before is _ABSENT or after is _ABSENT or _text(before) != _text(after):
        yield name, _or_none(before), _or_none(after)


def _differing_items(
    before: list[Any], after: list[Any], name: str
) -> Iterator[tuple[str, Any, Any]]:
    """Tell lists apart by their items; ``numpy=1`` and ``numpy=2`` are one item that changed."""
    old, new = Counter(map(_text, before)), Counter(map(_text, after))
    gone = {_item_name(item): item for item in before if _text(item) in old - new}
    come = {_item_name(item): item for item in after if _text(item) in new - old}
    if not gone and not come:
        yield name, before, after
    for item in sorted(gone.keys() | come.keys()):
        yield name, gone.get(item), come.get(item)


def _text(value: Any) -> str:
    """Return what a value is in a key; unlike ``==``, it tells 1 from true and from 1.0."""
    return canonical(value).decode()


def _item_name(item: Any) -> str:
    return item.partition("=")[0] if isinstance(item, str) else _text(item)


def _or_none(value: Any) -> Any:
    return None if value is _ABSENT else value


def _one(documents: Documents, kind: str) -> Mapping[str, Any]:
    return next((document for document in documents if document["kind"] == kind), {})


def _roles(documents: Documents) -> dict[str, Mapping[str, Any]]:
    """Return the documents of roles by name; a role that runs again is told apart by a number."""
    found: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        if document["kind"] == "role":
            name, count = document["role"], 1
            while name in found:
                count += 1
                name = f"{document['role']} ({count})"
            found[name] = document
    return found


# --- in words -------------------------------------------------------------------------------------


def _file(reason: Reason) -> str:
    if reason.before is None or reason.after is None:
        return f"{reason.what} {'added' if reason.before is None else 'removed'}"
    (was, old), (now, new) = reason.before.split(":", 1), reason.after.split(":", 1)
    if old == new and was != now:
        return f"{reason.what} is {'now' if now == 'exec' else 'no longer'} executable"
    return f"{reason.what} changed"


def _parent(reason: Reason) -> str:
    again = reason.before == reason.after
    return f"parent {reason.what} {'is built again' if again else 'changed'}"


def _upstream(reason: Reason) -> str:
    if reason.after is None:
        return f"upstream has newer: {reason.what}"
    return f"upstream has {reason.what} {_shown(reason.after)} (it was {_shown(reason.before)})"


def _changed(reason: Reason) -> str:
    """Say what something was and is: ``variable tuning_hugepages 0 → 8``."""
    name = reason.what if reason.kind in {"tool", "engine"} else f"{reason.kind} {reason.what}"
    if reason.before is None and reason.after is None:
        return f"{name} changed"
    if reason.before is None:
        return f"{name} {_shown(reason.after)} added"
    if reason.after is None:
        return f"{name} {_shown(reason.before)} removed"
    return f"{name} {_shown(reason.before)} → {_shown(reason.after)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


_SENTENCES: Final[dict[str, Callable[[Reason], str]]] = {
    "never-built": lambda _: "never built before",
    "image-missing": lambda _: "its image is gone from the store",
    "forced": lambda _: "asked for with --force",
    "upstream": _upstream,
    "check": lambda _: "its checks changed, failed, or did not run yet",
    "parent": _parent,
    "template": lambda reason: f"template {reason.what} changed",
    "file": _file,
    "role-added": lambda reason: f"role {reason.what} added",
    "role-removed": lambda reason: f"role {reason.what} removed",
    "role-order": lambda _: "roles in another order",
    "earlier-role": lambda reason: f"{reason.what} runs before it",
    "checkpoint-missing": lambda _: "there is no checkpoint after it",
}
