"""Build a wheel that has the reference project inside; all else is in pyproject.toml.

``vaultbuild init`` writes that project. Its folders stand at the top of the repository, because the
repository builds them; here they are copied into the package, file by file as builder/reference.py
lists them. As package data they would come with whatever else lies there, byte code and notes. An
editable installation needs no copy.
"""

import shutil
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from builder import reference  # noqa: E402 - found only now


class BuildReference(Command):
    """Copies the reference project to where the package is built."""

    description = "copy the reference project into the package"
    user_options: ClassVar[list[tuple[str, str, str]]] = []

    def initialize_options(self) -> None:
        """Take the names that setuptools knows."""
        self.build_lib: str | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Copy to where the modules go."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Copy; what an earlier build left there goes first."""
        if self.editable_mode:
            return
        shutil.rmtree(self._target, ignore_errors=True)
        for target, source in self.get_output_mapping().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        """List what a source archive must have."""
        return [str(path) for path in reference.files(ROOT)]

    def get_outputs(self) -> list[str]:
        """List what is made."""
        return list(self.get_output_mapping())

    def get_output_mapping(self) -> dict[str, str]:
        """List what is made, each with what it is a copy of."""
        return {str(self._target / path): path for path in self.get_source_files()}

    @property
    def _target(self) -> Path:
        return Path(self.build_lib or "") / "builder" / reference.PACKED


class Build(build):
    """Builds what setuptools builds, and the reference project."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_reference", None)]


setup(cmdclass={"build": Build, "build_reference": BuildReference})
