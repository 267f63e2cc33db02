"""The ways a build can fail, by who must act.

::

    Told                         message, cause, hint, log, exit status
    ├── Interrupted         130  somebody said stop; no Exception, as KeyboardInterrupt is none
    └── VaultbuildError
        ├── ProjectError      2  files of the project are wrong: all their problems at once
        ├── ChoiceError       2  what somebody chose on the command line cannot be
        ├── HostError         3  this host lacks something; the hint is the command that cures it
        ├── CommandError      1  a program ran and failed; its last lines and its log
        ├── ProvisionError    1  a role failed: stage, role, task, what the guest said
        ├── CheckError        1  the image was built but is not right; it stays, unpublishable
        └── StoreError        1  the store or a release cannot take or give what was asked

Raised where the fact is known, with the hint written there. Caught once, in :mod:`builder.cli`.
There too, what the kernel refuses because of this host (:func:`host_error`) becomes a message; any
file may meet with it, and no line could say more about it than the kernel does. Anything else that
surfaces is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cause:
    """What most likely lies behind an error: a rule of the catalogue in builder/failures.yml.

    ``passes``: it goes away by itself, so the same may be tried again a little later.
    """

    rule: str
    sentence: str
    passes: bool = False

    def __str__(self) -> str:
        return f"{self.sentence} [{self.rule}]"


class Told(BaseException):
    """What ends a command and is told a person. Each line of ``hint`` is a thing to do or see."""

    exit_status = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        log: Path | None = None,
        cause: Cause | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.hint = hint
        self.log = log


class VaultbuildError(Told, Exception):
    """Something a person can act on."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one file of the project.

    ``line`` counts from 1; ``key`` is the dotted path inside the file, such as ``roles.2.name``.
    """

    file: Path
    message: str
    line: int | None = None
    key: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        key = f"{self.key}: " if self.key else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}: {key}{self.message}{hint}"


class ProjectError(VaultbuildError):
    """Files of the project are wrong; every problem found is listed."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        count = len(problems)
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{count} problem{'s' * (count != 1)} in this project\n{lines}", hint=hint)
        self.problems = tuple(problems)


class ChoiceError(VaultbuildError):
    """What somebody chose on the command line cannot be: a folder, a name."""

    exit_status = 2


class HostError(VaultbuildError):
    """This host lacks something."""

    exit_status = 3


_SPACE = "what can go? vaultbuild cache prune --dry-run; or more space for {temporary}"
_RIGHTS = "run vaultbuild with sudo, if `make image` did; else: sudo chown -R $USER cache/var"
_OPEN_FILES = "raise the limit: ulimit -n 4096"
# What is this host's affair wherever it comes up. What is not here (no such file, a broken pipe)
# may as well be a bug.
_OF_THE_HOST = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: "this user's quota is used up: " + _SPACE,
    errno.EFBIG: "the file system, or ulimit -f, allows no file of this size",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "the file system is read-only: mount it to be written to, or move the project",
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: "this host has too many open files: see sysctl fs.file-max",
    errno.ENOMEM: "this host is out of memory: see free -h",
    errno.EIO: "the device failed: see dmesg",
}
_NUMBER = re.compile(r"\[Errno (\d+)\]")


def host_error(error: OSError) -> HostError | None:
    """Return what a person is told of something that the kernel refused; None for a likely bug."""
    number = error.errno
    if number is None and (found := _NUMBER.search(str(error))):
        number = int(found[1])  # shutil.copytree says all its errors in one text
    if number not in _OF_THE_HOST:
        return None
    paths = [os.fsdecode(path) for path in (error.filename, error.filename2) if path is not None]
    message = ": ".join([" -> ".join(paths), os.strerror(number)]) if paths else str(error)
    hint = _OF_THE_HOST[number].format(temporary=tempfile.gettempdir())
    return HostError(message, hint=hint)


class CommandError(VaultbuildError):
    """A program ran and failed."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        output: str = "",
        hint: str | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.status = status
        self.output = output


class ProvisionError(VaultbuildError):
    """A role failed in the guest."""

    def __init__(
        self,
        message: str,
        *,
        stage: str,
        role: str,
        task: str | None,
        hint: str | None = None,
        log: Path | None = None,
        cause: Cause | None = None,
    ) -> None:
        super().__init__(message, hint=hint, log=log, cause=cause)
        self.stage = stage
        self.role = role
        self.task = task


class CheckError(VaultbuildError):
    """An image failed its checks."""


class StoreError(VaultbuildError):
    """The store or a release cannot take or give what was asked."""


class Interrupted(Told):
    """Somebody pressed Ctrl-C or sent SIGTERM: no ``except`` for what failed may catch it."""

    exit_status = 130
