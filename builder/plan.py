"""Deciding what will run, and why: values in, values out.

Nothing here reads a file, asks a program or knows where images lie. A stage is reused when its key
is in the store and the image it stands on is reused too; otherwise its documents are laid beside
those of its last build, and every file, variable and version that differs is a reason.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from builder.digest import canonical, digest_document

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from builder.inputs import StageInputs

    Documents = Sequence[Mapping[str, Any]]

SCHEMA: Final = 1
"""The form of ``plan --json``."""

Action = Literal["reuse", "build", "resume"]
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


@dataclass(frozen=True, slots=True)
class RoleStep:
    """What happens to one role and why, and the key of the disk as it stands after it."""

    role: str
    action: Literal["reuse", "run"]
    key: str
    reasons: tuple[Reason, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the role as ``plan --json`` tells it."""
        told: dict[str, Any] = {"role": self.role, "action": self.action}
        if self.reasons:
            told["reasons"] = [reason.to_json() for reason in self.reasons]
        return told


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one stage.

    ``verify``: the image as it will be has no verdict of the checks as they are.
    ``resume_from``: the key of the checkpoint that a ``resume`` starts from.
    """

    stage: str
    action: Action
    key: str
    reasons: tuple[Reason, ...]
    roles: tuple[RoleStep, ...]
    verify: bool
    resume_from: str | None = None

    @property
    def again(self) -> bool:
        """Whether it is built, from its first role, although its image may be there."""
        return self.moved or any(reason.kind == "forced" for reason in self.reasons)

    @property
    def moved(self) -> bool:
        """Whether what it is made of moved upstream: what was downloaded for it is old, too."""
        return any(reason.kind == "upstream" for reason in self.reasons)

    def to_json(self) -> dict[str, Any]:
        """Return the step as ``plan --json`` tells it."""
        return {
            "stage": self.stage,
            "action": self.action,
            "key": self.key,
            "reasons": [reason.to_json() for reason in self.reasons],
            "roles": [step.to_json() for step in self.roles],
            "verify": self.verify,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run, stage by stage, parents first."""

    variant: str
    steps: tuple[Step, ...]

    @property
    def has_work(self) -> bool:
        """Whether anything is to be built or checked."""
        return any(step.action != "reuse" or step.verify for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return the document of ``plan --json``."""
        steps = [step.to_json() for step in self.steps]
        return {"schema": SCHEMA, "variant": self.variant, "steps": steps}


def make_plan(
    lineage: Sequence[StageInputs],
    *,
    variant: str,
    present: Container[str],
    last: Mapping[str, Documents | None],
    verdicts: Container[str] = frozenset(),
    checkpoints: Container[str] = frozenset(),
    force: Container[str] = frozenset(),
    moved: Mapping[str, Sequence[Reason]] | None = None,
) -> Plan:
    """Decide what happens to each stage of ``lineage``, parents first.

    ``present``: keys of the images in the store. ``last``: by stage, the documents of its last
    build. ``verdicts``: keys of the images that passed the checks as they are now.
    ``checkpoints``: keys of the roles that can be resumed after. ``force``: stages to build
    whether or not they are there. ``moved``: by stage, what moved upstream since it was built; its
    checkpoints are as old as its image.
    """
    again = {inputs.stage: _again(inputs.stage, force, moved or {}) for inputs in lineage}
    steps: list[Step] = []
    for inputs in lineage:
        parent = steps[-1] if steps else None
        stale = _staleness(inputs, parent, present, last.get(inputs.stage), again[inputs.stage])
        if stale is None:
            steps.append(_reuse(inputs, verdicts))
        else:
            fresh = again[inputs.stage] or (parent is not None and parent.action != "reuse")
            steps.append(_build(inputs, stale, frozenset() if fresh else checkpoints))
    return Plan(variant, tuple(steps))


def explain(step: Step, *, since: str | None = None) -> str:
    """Return one line that tells what happens to a stage and why; ``since`` is its image's date."""
    if step.action == "reuse":
        why = f"unchanged since {since}" if since else "unchanged"
    else:
        # A file of a role that several depend on is one reason.
        first, *others = dict.fromkeys(str(reason) for reason in step.reasons)
        why = f"{first} and {len(others)} more" if others else first
    done = [role.role for role in step.roles if role.action == "reuse"]
    if step.action == "resume":
        why = f"after {done[-1]}: {why}"
    if step.action == "reuse" and step.verify:
        why += f"; {step.reasons[0]}"
    return f"{step.action:<6}  {why}"


# --- the decision ---------------------------------------------------------------------------------


def _again(
    stage: str, force: Container[str], moved: Mapping[str, Sequence[Reason]]
) -> tuple[Reason, ...]:
    """Return why a stage is to be built whether or not it is there."""
    forced = (Reason("forced", stage),) if stage in force else ()
    return (*moved.get(stage, ()), *forced)


def _staleness(
    inputs: StageInputs,
    parent: Step | None,
    present: Container[str],
    last: Documents | None,
    again: Sequence[Reason],
) -> tuple[Reason, ...] | None:
    """Return why the stage's image cannot be used as it is; None when it can."""
    # An overlay is worth what it lies on: below a parent built anew, the same key is no image.
    replaced = parent is not None and parent.action != "reuse"
    missing = inputs.key not in present
    reasons = _differences(inputs, last, parent) if missing else []
    told = any(reason.kind in {"parent", "never-built"} for reason in reasons)
    if parent is not None and replaced and not told:
        reasons.append(Reason("parent", parent.stage, parent.key, parent.key))
    return (*reasons, *again) or None


def _reuse(inputs: StageInputs, verdicts: Container[str]) -> Step:
    verify = inputs.key not in verdicts
    reasons = (Reason("check", inputs.stage),) if verify else ()
    roles = tuple(RoleStep(role, "reuse", key) for role, key in inputs.roles)
    return Step(inputs.stage, "reuse", inputs.key, reasons, roles, verify)


def _build(inputs: StageInputs, reasons: tuple[Reason, ...], checkpoints: Container[str]) -> Step:
    """Start after the longest unbroken run of roles whose checkpoints are there."""
    count = 0
    for _, key in inputs.roles:
        if key not in checkpoints:
            break
        count += 1
    reused = [RoleStep(role, "reuse", key) for role, key in inputs.roles[:count]]
    roles = (*reused, *_running(inputs.roles[count:], reasons))
    resume_from = roles[count - 1].key if count else None
    action: Action = "resume" if count else "build"
    verify = True
    return Step(inputs.stage, action, inputs.key, reasons, roles, verify, resume_from)


def _running(roles: Sequence[tuple[str, str]], reasons: tuple[Reason, ...]) -> Iterator[RoleStep]:
    """Say of each role why it runs: for itself, for its whole stage, or for a role before it."""
    whole = _summed(reason for reason in reasons if reason.role is None)
    earlier: tuple[Reason, ...] = ()
    for role, key in roles:
        own = tuple(reason for reason in reasons if reason.role == role)
        why = own or whole or earlier or (Reason("checkpoint-missing", role),)
        yield RoleStep(role, "run", key, why)
        if own and not earlier:
            earlier = (Reason("earlier-role", role),)


def _summed(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Return reasons with what moved upstream as one: a month brings hundred packages."""
    found = tuple(reasons)
    moved = [reason for reason in found if reason.kind == "upstream"]
    if len(moved) < 2:  # noqa: PLR2004 - one is itself
        return found
    sum_ = Reason("upstream", f"{moved[0].what} and {len(moved) - 1} more")
    return (*(reason for reason in found if reason.kind != "upstream"), sum_)


# --- what differs ---------------------------------------------------------------------------------


def _differences(inputs: StageInputs, last: Documents | None, parent: Step | None) -> list[Reason]:
    """Return why there is no image of this key: what differs from the stage's last build."""
    if not last:
        return [Reason("never-built", inputs.stage)]
    if digest_document(last[-1]) == inputs.key:
        return [Reason("image-missing", inputs.stage)]
    found = [
        *_source_differences(_one(last, "source"), _one(inputs.documents, "source")),
        *_role_differences(_roles(last), _roles(inputs.documents), inputs.stage),
        *_stage_differences(_one(last, "stage"), _one(inputs.documents, "stage"), inputs, parent),
    ]
    # Another engine has another template, too: that is no reason of its own.
    found.sort(key=lambda reason: reason.kind != "engine")
    return found or [Reason("tool", "form of the inputs")]


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
    before: Mapping[str, Any], after: Mapping[str, Any], inputs: StageInputs, parent: Step | None
) -> Iterator[Reason]:
    yield from _file_differences(before, after)
    if before.get("template") != after.get("template"):
        yield Reason("template", inputs.template, before.get("template"), after.get("template"))
    if before.get("engine") != after.get("engine"):
        yield Reason("engine", "engine", before.get("engine"), after.get("engine"))
    if before.get("network") != after.get("network"):
        yield Reason("network", "network", before.get("network"), after.get("network"))
    yield from _tool_differences(before, after)
    if before.get("schema") != after.get("schema"):
        yield Reason("tool", "key schema", before.get("schema"), after.get("schema"))
    # The root's parent is its source, which has told already how it differs.
    if parent and before.get("parent") != after.get("parent"):
        yield Reason("parent", parent.stage, before.get("parent"), after.get("parent"))


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
