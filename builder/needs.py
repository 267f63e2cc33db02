"""What builds of a pipeline will ask the caches for, read off its files before anything runs.

::

    roles' path variables ─┬─ every requirement has a hash ──► wheels, for the guest's Python
                           └─ YAML with ``models:`` ─────────► models
    the source             ───────────────────────────────────► its cloud image or ISO

So ``vaultbuild cache warm`` and a build's first step fetch all of it, and no role has to wait. What
else a role downloads (Debian packages, above all) is known from the network lock of a build alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.caches import models_lock, requirements
from builder.caches.wheels import Target, target_of
from builder.digest import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from builder.pipeline import Pipeline, RoleUse, Stage

    Packages = Callable[[Stage], Mapping[str, str] | None]

_MOST = 8 << 20  # bytes; no lock file is larger, and an installer that a role is given is not read

__all__ = ["FileNeed", "ImageNeed", "Needs", "Target", "needs_of"]


@dataclass(frozen=True, slots=True)
class FileNeed:
    """A lock file that a role is given. ``path`` is relative to the project.

    ``target`` is what wheels must fit; None of a lock of models, and where nobody can tell yet.
    """

    stage: str
    role: str
    variable: str
    path: Path
    sha256: str
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class ImageNeed:
    """The image that the root stage starts from."""

    kind: str
    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What the stages of a pipeline need, in their order."""

    wheels: tuple[FileNeed, ...]
    models: tuple[FileNeed, ...]
    image: ImageNeed | None

    def of_stages(self, names: Collection[str]) -> Needs:
        """Return what some stages need."""
        return Needs(
            tuple(need for need in self.wheels if need.stage in names),
            tuple(need for need in self.models if need.stage in names),
            self.image,
        )


def no_packages(_: Stage) -> None:
    """Know of no image."""


def needs_of(pipeline: Pipeline, packages: Packages = no_packages) -> Needs:
    """Return what a pipeline needs.

    ``packages`` tells the versions of the Debian packages of the image that a stage starts from,
    where there is one.
    """
    found = list(_files(pipeline))
    suite = pipeline.source.settings.get("suite")
    return Needs(
        wheels=tuple(
            _need(stage, use, name, path, content, target_of(packages(stage), suite))
            for stage, use, name, path, content in found
            if requirements.is_lock(content)
        ),
        models=tuple(
            _need(stage, use, name, path, content, None)
            for stage, use, name, path, content in found
            if models_lock.is_lock(content)
        ),
        image=_image(pipeline),
    )


def _files(pipeline: Pipeline) -> Iterator[tuple[Stage, RoleUse, str, Path, bytes]]:
    """Yield each file that a role of a stage is given, with what is in it."""
    for stage in pipeline.stages:
        for use in stage.roles:
            for name, path in use.paths.items():
                file = pipeline.project / path
                if file.is_file() and file.stat().st_size <= _MOST:
                    yield stage, use, name, path, file.read_bytes()


def _need(
    stage: Stage, use: RoleUse, variable: str, path: Path, content: bytes, target: Target | None
) -> FileNeed:
    return FileNeed(stage.name, use.name, variable, path, digest_bytes(content), target)


def _image(pipeline: Pipeline) -> ImageNeed | None:
    source = pipeline.source
    if source.kind == "bootstrap":
        return None
    return ImageNeed(source.kind, source.settings["url"], source.settings["sha256"])
