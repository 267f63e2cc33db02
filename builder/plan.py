"""Deciding what will run, and why: values in, values out.

Nothing here reads a file, asks a program or knows where images lie. A stage is reused when its key
is in the store and the image it stands on is reused too; otherwise its documents are laid beside
those of its last build, and every file, variable and version that differs is a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from builder.digest import digest_document
from builder.reasons import Reason, differences

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from builder.inputs import StageInputs
    from builder.reasons import Documents

SCHEMA: Final = 1
"""The form of ``plan --json``."""

Action = Literal["reuse", "build", "resume"]


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


def _differences(inputs: StageInputs, last: Documents | None, parent: Step | None) -> list[Reason]:
    """Return why there is no image of this key: what differs from the stage's last build."""
    if not last:
        return [Reason("never-built", inputs.stage)]
    if digest_document(last[-1]) == inputs.key:
        return [Reason("image-missing", inputs.stage)]
    stage = parent.stage if parent else None
    found = list(differences(last, inputs.documents, template=inputs.template, parent=stage))
    # Another engine has another template, too: that is no reason of its own.
    found.sort(key=lambda reason: reason.kind != "engine")
    return found or [Reason("tool", "form of the inputs")]
