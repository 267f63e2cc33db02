"""What is known of versions that go together: the models of ``stages/compatibility.yml``.

Data, each row with its source; what follows from it is in :mod:`builder.compat.rules`. Imported
only when something must be judged anew: pydantic is slow to load.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from builder.compat import PATH, versions
from builder.config import read
from builder.errors import ProjectError
from builder.schema import Part
from builder.suggest import suggestion
from builder.values import WrongValueError, form

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.memo import Tree

ENDED = "ended"
"""The end of a branch whose month was not found."""

Flavour = Literal["proprietary", "open"]
Fact = Literal[
    "driver", "flavour", "kernel", "cuda", "gpus", "cudnn", "cudnn_cuda", "fabric",
    "fabric_platform",
]  # fmt: skip
Kind = Literal["driver", "proprietary", "open", "cuda", "cudnn", "kernel", "fabric"]

Number = Annotated[
    str, form(r"\d+(\.\d+)*([.+-][0-9A-Za-z.+-]*)?", "is no version", 'in quotes: "12.4"')
]
Branch = Annotated[str, form(r"\d+", "is no branch", 'in quotes: "550"')]
Month = Annotated[
    str, form(r"ended|20\d\d-(0[1-9]|1[0-2])", "is no month", 'write "2028-06", or ended')
]
Minor = Annotated[str, form(r"\d+\.\d+", "is no minor version", 'in quotes: "12.4"')]
Range = Annotated[list[Number], Field(min_length=2, max_length=2)]


class SourcePart(Part):
    """Where a fact was read or measured."""

    what: str
    where: str


class Row(Part):
    """A row with its source."""

    source: str


class FloorRow(Row):
    """The first driver that something runs on."""

    driver: Number


class DriverRow(Row):
    """A branch of drivers, and the month in which it ends.

    ``cuda`` is the newest that its library speaks; who says so is ``cuda_source``.
    """

    kind: Literal["lts", "production", "feature"]
    ends: Month
    modules: list[Flavour]
    cuda: Minor | None = None
    cuda_source: str | None = None

    def over(self, month: str) -> bool:
        """Whether the branch gets no fixes any more in a month, written as ``2026-11``."""
        return self.ends == ENDED or self.ends < month

    @model_validator(mode="after")
    def _on_whose_word(self) -> DriverRow:
        if (self.cuda is None) != (self.cuda_source is None):
            raise WrongValueError("gives one of cuda and cuda_source", "give both, or neither")
        return self


class ArchitectureRow(Row):
    """What a generation of GPUs needs."""

    cuda: Number
    cuda_before: Branch | None = None
    driver_last: Branch | None = None
    modules: list[Flavour]


class FabricRow(Row):
    """What connects GPUs, by the platforms of the fabric manager that serve it, the best first."""

    platforms: Annotated[list[str], Field(min_length=1)]


class GpuRow(Row):
    """A GPU: its PCI device ids, generation and compute capability, and what connects several."""

    pci: list[str]
    architecture: str
    capability: Number
    driver: Branch
    open: Branch | None = None
    fabric: str | None = None


class CudnnRow(Row):
    """What a line of cuDNN runs with."""

    cudnn: Number
    cuda: Range
    driver: Number
    capabilities: Range


class FrameworkRow(Row):
    """A release of a framework, as its wheel says."""

    cuda: Number | None = None
    cudnn: Number | None = None
    needs: dict[str, Number] = {}
    python: Range | None = None


class KernelRow(Row):
    """Whether a driver's module was seen to compile for a kernel."""

    driver: Number
    flavour: Flavour
    kernel: Number | None = None
    from_: Number | None = Field(default=None, alias="from")
    before: Number | None = None
    builds: bool
    why: str = ""

    @property
    def kernels(self) -> str:
        """Which kernels it is about, in words."""
        until = f" and before {self.before}" if self.before else ""
        return self.kernel or f"{self.from_} and later{until}"

    def covers(self, kernel: str) -> bool:
        """Whether it is about a kernel."""
        if self.from_ is None:
            return self.kernel == kernel
        late = self.before is not None and versions.reaches(kernel, self.before)
        return versions.reaches(kernel, self.from_) and not late

    @model_validator(mode="after")
    def _one_of_two(self) -> KernelRow:
        if (self.kernel is None) == (self.from_ is None) or (self.kernel and self.before):
            raise WrongValueError("names no kernel, or two", "give kernel, or from and before")
        return self


class Table(Part):
    """``stages/compatibility.yml``."""

    schema_: Literal[1] = Field(alias="schema")
    updated: str
    sources: dict[str, SourcePart]
    variables: dict[Fact, str] = {}
    packages: dict[Kind, list[str]] = {}
    cuda_majors: dict[Branch, FloorRow] = {}
    cuda: dict[Number, FloorRow] = {}
    drivers: dict[Branch, DriverRow] = {}
    architectures: dict[str, ArchitectureRow] = {}
    fabrics: dict[str, FabricRow] = {}
    gpus: dict[str, GpuRow] = {}
    cudnn: list[CudnnRow] = []
    cuda_wheels: list[str] = []
    cuda_major_wheels: list[str] = []
    frameworks: dict[str, dict[Number, FrameworkRow]] = {}
    kernel_builds: list[KernelRow] = []

    @model_validator(mode="after")
    def _fits_together(self) -> Table:
        for source in self._sources():
            if source not in self.sources:
                hint = suggestion(source, self.sources)
                raise WrongValueError(f'there is no source "{source}"', hint)
        for name, gpu in self.gpus.items():
            if gpu.architecture not in self.architectures:
                hint = suggestion(gpu.architecture, self.architectures)
                raise WrongValueError(f'{name}: no architecture "{gpu.architecture}"', hint)
            if gpu.fabric and gpu.fabric not in self.fabrics:
                hint = suggestion(gpu.fabric, self.fabrics)
                raise WrongValueError(f'{name}: no fabric "{gpu.fabric}"', hint)
        for pattern in (each for patterns in self.packages.values() for each in patterns):
            _require_pattern(pattern)
        return self

    def _sources(self) -> Iterator[str]:
        yield from (row.source for row in self._rows())
        yield from (row.cuda_source for row in self.drivers.values() if row.cuda_source)

    def _rows(self) -> Iterator[Row]:
        for rows in (self.cuda_majors, self.cuda, self.drivers, self.architectures):
            yield from rows.values()
        yield from (*self.fabrics.values(), *self.gpus.values())
        for releases in self.frameworks.values():
            yield from releases.values()
        yield from self.cudnn
        yield from self.kernel_builds

    # --- looking things up ------------------------------------------------------------------------

    def gpu(self, name: str) -> tuple[str, GpuRow] | None:
        """Return a GPU's name as the table has it, and its row; letters' case does not matter."""
        wanted = name.lower().replace(" ", "-")
        return next((pair for pair in self.gpus.items() if pair[0].lower() == wanted), None)

    def framework(self, name: str, version: str) -> tuple[str, FrameworkRow] | None:
        """Return the release of a framework that a version is of, with its row.

        A patch that is not listed counts as the last one listed of its minor version. Build tags
        such as ``+cu124`` do not matter.
        """
        releases = self.frameworks.get(name, {})
        wanted = version.partition("+")[0]
        if wanted in releases:
            return wanted, releases[wanted]
        near = [each for each in releases if versions.minor(each) == versions.minor(wanted)]
        near.sort(key=versions.numbers)
        return (near[-1], releases[near[-1]]) if near else None

    def cudnn_rows(self, cudnn: str, cuda: str) -> list[CudnnRow]:
        """Return the rows of a cuDNN with a CUDA."""
        line = versions.minor(cudnn)
        rows = [row for row in self.cudnn if versions.minor(row.cudnn) == line]
        return [row for row in rows if versions.between(cuda, (row.cuda[0], row.cuda[1]))]

    def knows_cudnn(self, cudnn: str) -> bool:
        """Whether anything is said about a line of cuDNN."""
        return any(versions.minor(row.cudnn) == versions.minor(cudnn) for row in self.cudnn)

    def kernel_build(self, driver: str, flavour: str, kernel: str) -> KernelRow | None:
        """Return what is known of a module and a kernel: a row of its own before a range."""
        rows = [
            row
            for row in self.kernel_builds
            if versions.plain(driver) == row.driver and row.flavour == flavour
        ]
        about = [row for row in rows if row.covers(kernel)]
        exact = [row for row in about if row.kernel]
        return next(iter([*exact, *about]), None)


def _require_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise WrongValueError(f'"{pattern}" is no regular expression: {error}') from None


def read_table(tree: Tree) -> Table | None:
    """Return the project's table; None where it has none.

    Raises :class:`ProjectError` with every mistake in it.
    """
    if not tree.is_file(PATH):
        return None
    found, problems = read(tree, PATH, Table)
    if found is None or problems:
        raise ProjectError(problems)
    return found.says
