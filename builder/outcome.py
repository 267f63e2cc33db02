"""What a role's run says: ansible-runner's events become ours, a log, a result, or an error.

Nothing here knows how a role is run. Ansible's result of a failed task is a document with the cause
in one of many places; :func:`complaint` finds it and leaves the few lines that a person reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.errors import ProvisionError
from builder.role_names import role_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.events import Writer

_MOST_LINES = 20
_FACTS = ("setup", "gather_facts", "ansible.builtin.setup", "ansible.builtin.gather_facts")
# Messages that only say that there is a message elsewhere.
_EMPTY_MESSAGES = (
    "non-zero return code",
    "One or more items failed",
    "MODULE FAILURE",
    "All items completed",
)


@dataclass(frozen=True, slots=True)
class Place:
    """What an error of a role names beside the role: the stage, its files, its log."""

    stage: str
    snapshot: Path
    log: Path


@dataclass(slots=True)
class RoleResult:
    """How a role went. ``changed_tasks`` has the names, in order."""

    role: str
    seconds: float = 0
    tasks: int = 0
    changed_tasks: list[str] = field(default_factory=list)

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        return len(self.changed_tasks)


class Listener:
    """Turns ansible-runner's events of one role into ours, a log, and a result."""

    def __init__(self, role: str, place: Place, events: Writer) -> None:
        self.result = RoleResult(role)
        self._place = place
        self._events = events
        self._failed: dict[str, Any] | None = None
        self._unreachable = False
        self._output: list[str] = []

    def __enter__(self) -> None:
        self._place.log.parent.mkdir(parents=True, exist_ok=True)
        self._log = self._place.log.open("a", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def __call__(self, event: Mapping[str, Any]) -> bool:
        """Take one event of ansible-runner; False: it need not keep a file of it."""
        if event.get("stdout"):
            text = event["stdout"].replace("\r\n", "\n") + "\n"
            self._output.append(text)
            self._log.write(text)
            self._log.flush()
        match event["event"]:
            case "playbook_on_task_start" | "playbook_on_handler_task_start":
                self._events.write(
                    "task_started", self.result.role, task=event["event_data"]["task"]
                )
            case (
                "runner_on_ok" | "runner_on_skipped" | "runner_on_failed" | "runner_on_unreachable"
            ):
                self._ended(event["event"].removeprefix("runner_on_"), event["event_data"])
        return False

    def _ended(self, how: str, data: dict[str, Any]) -> None:
        status = _status(how, data)
        if status == "failed":
            self._failed, self._unreachable = data, how == "unreachable"
        if data.get("task_action") not in _FACTS:
            self.result.tasks += 1
        if status == "changed":
            self.result.changed_tasks.append(data["task"])
        seconds = round(data.get("duration") or 0, 3)
        self._events.write(
            "task_finished", self.result.role, task=data["task"], status=status, seconds=seconds
        )

    def failure(self) -> ProvisionError:
        """Return the error that says why the role failed."""
        # Late, as its catalogue: what does not fail needs neither.
        from builder.failures import explained

        if self._failed is None:
            said = last_errors("".join(self._output).replace(f"{self._place.snapshot}/", ""))
            return explained(self._error("failed", said, None), "\n".join(said), "role")
        said, told = complaint(self._failed["res"]), everything(self._failed["res"])
        # The copy that was worked on is gone when somebody reads this.
        said = [line.replace(f"{self._place.snapshot}/", "") for line in said]
        if self._unreachable:
            hint = "the guest's console log says how it went away"
            return explained(
                self._error("lost the guest", said, self._failed["task"], hint), told, "ssh"
            )
        error = self._error("failed", said, self._failed["task"], self._hint(self._failed))
        return explained(error, told, "role")

    def _error(
        self, how: str, said: list[str], task: str | None, hint: str | None = None
    ) -> ProvisionError:
        what = f'role {self.result.role}, task "{task}"' if task else f"role {self.result.role}"
        stage, log = self._place.stage, self._place.log
        return ProvisionError(
            f"{stage}: {what} {how}" + "".join(f"\n       {line}" for line in said),
            stage=stage, role=self.result.role, task=task, hint=hint, log=log,
        )  # fmt: skip

    def _hint(self, failed: Mapping[str, Any]) -> str | None:
        if "argument_errors" in failed["res"]:
            specification = f"ansible/roles/{role_of(self.result.role)}/meta/argument_specs.yml"
            return f"{specification} says what the role takes"
        path = str(failed.get("task_path") or "")
        return f"the task is at {path.removeprefix(f'{self._place.snapshot}/')}" if path else None


def _status(how: str, data: Mapping[str, Any]) -> str:
    if how in ("failed", "unreachable"):
        return "ignored" if data.get("ignore_errors") else "failed"
    if how == "ok" and data["res"].get("changed"):
        return "changed"
    return how


def complaint(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of a task's result that say why it failed, the last ones when many."""
    if "censored" in result:
        return ["its output is hidden: the task says no_log"]
    lines: list[str] = []
    for part in _parts(_failed_item(result)):
        fresh = [line.rstrip() for line in part.strip().splitlines()]
        lines += [line for line in fresh if line and line not in lines]
    return lines[-_MOST_LINES:] or ["the task gave no reason"]


def everything(result: Mapping[str, Any]) -> str:
    """Return all that a task's result says, which may be long; nothing of what is to be hidden."""
    item = _failed_item(result)
    if "censored" in result or "censored" in item:
        return ""
    names = ("module_stdout", "stdout", "exception", "module_stderr", "stderr", "msg")
    return "\n".join(str(item[name]) for name in names if item.get(name))


def last_errors(output: str) -> list[str]:
    """Return what Ansible said when it failed without a task, such as an unknown role."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    starts = [at for at, line in enumerate(lines) if re.match(r"\[?ERROR", line)]
    return lines[starts[0] :][:_MOST_LINES] if starts else lines[-_MOST_LINES:]


def _parts(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts that may name the cause; a later one is nearer to it."""
    if "rc" in result and "cmd" in result:
        yield f"{_command(result['cmd'])}: exit status {result['rc']}"
    message = str(result.get("msg", ""))
    if not message.startswith(_EMPTY_MESSAGES):
        yield message
    yield from result.get("argument_errors", [])
    # A program that fails without a word on stderr has often said it on stdout.
    yield _text(result, "stderr") or _text(result, "stdout")
    if not message or message.startswith("MODULE FAILURE"):
        yield _text(result, "exception")


def _failed_item(result: Mapping[str, Any]) -> Mapping[str, Any]:
    items = result.get("results", [])
    failed = [item for item in items if isinstance(item, dict) and item.get("failed")]
    return failed[0] if failed else result


def _text(result: Mapping[str, Any], name: str) -> str:
    return str(result.get(name) or result.get(f"module_{name}") or "")


def _command(command: object) -> str:
    words = " ".join(str(word) for word in command) if isinstance(command, list) else str(command)
    first = words.strip().splitlines()[0] if words.strip() else ""
    return first if len(first) <= 100 else f"{first[:97]}..."  # noqa: PLR2004 - one line's width
