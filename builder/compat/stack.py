"""What stands on one another in an image: driver, kernel, GPUs, CUDA, environments of frameworks.

Read off a pipeline's variables and lock files before a build (:func:`planned`), and off the
packages that are really in an image after it (:func:`installed`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from builder.caches.requirements import parse_lock
from builder.compat import versions
from builder.needs import needs_of
from builder.open_pins import is_open

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from builder.compat.table import Flavour, Kind, Table
    from builder.pipeline import Pipeline

_CUDA_SUFFIX = re.compile(r"-cu\d+$")
_MADE_FOR = re.compile(r"^#.*--python-version[ =](\d+\.\d+)", re.MULTILINE)
_RUNTIME = "nvidia-cuda-runtime"
_CUDNN = "nvidia-cudnn"
SYSTEM = "the image"


@dataclass(frozen=True, slots=True)
class Environment:
    """Python packages that stand together, by name. ``where`` is their lock file or environment."""

    where: str
    packages: Mapping[str, str]
    python: str | None = None

    def wheels(self, names: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield which of NVIDIA's wheels are there, whatever major version their names bear."""
        for name, version in self.packages.items():
            if _CUDA_SUFFIX.sub("", name) in names:
                yield name, version

    def wheel(self, name: str) -> str | None:
        """Return the version of the first of NVIDIA's wheels ``name``."""
        return next((version for _, version in self.wheels([name])), None)


@dataclass(frozen=True, slots=True)
class Toolkit:
    """A CUDA that something uses: ``who`` is the image itself, or a framework."""

    who: str
    version: str
    where: str


@dataclass(frozen=True, slots=True)
class Stack:
    """What stands on one another. What nothing is said about is None, or empty.

    ``fabric`` are versions by what they are of; ``cudnn``, the image's own, by the major version of
    CUDA that its packages are for. ``fabric_platform`` is empty where a pipeline has no role that
    takes one. Of an image alone: ``modules`` are packages by the flavour that they bring,
    ``missing`` is what is wanted of a driver and no package brings.
    """

    driver: str | None = None
    flavour: str | None = None
    kernel: str | None = None
    cuda: str | None = None
    gpus: tuple[str, ...] = ()
    environments: tuple[Environment, ...] = ()
    fabric: Mapping[str, str] = field(default_factory=dict)
    cudnn: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    fabric_platform: str | None = None

    def frameworks(self, table: Table) -> Iterator[tuple[Environment, str, str]]:
        """Yield each framework that the table knows of, with where it is and its version."""
        for environment in self.environments:
            for name in table.frameworks:
                if version := environment.packages.get(name):
                    yield environment, name, version

    def toolkits(self, table: Table) -> Iterator[Toolkit]:
        """Yield each CUDA in use: the image's own, and that of each environment.

        An environment's is that of the runtime's wheel; where there is none, that which the
        framework's wheel is known to require.
        """
        if self.cuda:
            yield Toolkit(SYSTEM, self.cuda, SYSTEM)
        told = set()
        for environment, name, version in self.frameworks(table):
            known = table.framework(name, version)
            cuda = environment.wheel(_RUNTIME) or (known[1].cuda if known else None)
            if cuda:
                told.add(environment.where)
                yield Toolkit(f"{name} {version}", cuda, environment.where)
        for environment in self.environments:
            cuda = environment.wheel(_RUNTIME)
            if cuda and environment.where not in told:
                yield Toolkit(environment.where, cuda, environment.where)

    def cudnns(self, table: Table) -> Iterator[tuple[Environment, str, str]]:
        """Yield each cuDNN with the CUDA that it stands beside."""
        for environment in self.environments:
            cudnn = environment.wheel(_CUDNN)
            cuda = environment.wheel(_RUNTIME)
            for name, version in environment.packages.items():
                known = table.framework(name, version) if name in table.frameworks else None
                cudnn = cudnn or (known[1].cudnn if known else None)
                cuda = cuda or (known[1].cuda if known else None)
            if cudnn and cuda:
                yield environment, cudnn, cuda


def planned(pipeline: Pipeline, stages: Collection[str], table: Table) -> Stack:
    """Return what the named stages of a pipeline want; ``stages`` are a lineage."""
    said: dict[str, Any] = {}
    for stage in pipeline.stages:
        if stage.name in stages:
            said |= pipeline.variables_of(stage.name)
    facts = {fact: said.get(name) for fact, name in table.variables.items()}
    return Stack(
        driver=_text(facts.get("driver")),
        flavour=_text(facts.get("flavour")),
        kernel=_text(facts.get("kernel")),
        cuda=_text(facts.get("cuda")),
        gpus=tuple(str(name) for name in facts.get("gpus") or ()),
        environments=tuple(_locked(pipeline, stages)),
        fabric=_one(table.variables.get("fabric", ""), facts.get("fabric")),
        cudnn=_one(_text(facts.get("cudnn_cuda")) or "", facts.get("cudnn")),
        fabric_platform=_text(facts["fabric_platform"]) if facts.get("fabric_platform") else "",
    )


def _one(name: str, version: Any) -> dict[str, str]:
    text = _text(version)
    return {name: text} if text else {}


def _text(value: Any) -> str | None:
    return str(value) if value and not is_open(value) else None


def _locked(pipeline: Pipeline, stages: Collection[str]) -> Iterator[Environment]:
    for need in needs_of(pipeline).of_stages(stages).wheels:
        content = (pipeline.project / need.path).read_bytes()
        wanted = parse_lock(need.path, content)
        target = need.target
        packages: dict[str, str] = {
            canonicalize_name(one.requirement.name): _pinned(str(one.requirement.specifier))
            for one in wanted
            if target is None or one.applies(target.environment)
        }
        # Nobody knows the Python of an image from elsewhere; the lock says for which it was made.
        made = _MADE_FOR.search(content.decode(errors="replace"))
        python = target.python if target else (made[1] if made else None)
        yield Environment(str(need.path), packages, python)


def _pinned(specifier: str) -> str:
    return specifier.removeprefix("==").removeprefix("=")


def installed(packages: Mapping[str, Mapping[str, str]], wanted: Stack, table: Table) -> Stack:
    """Return what an image has, by its record's package lists; the GPUs are those wanted.

    What the lists do not tell stays as it was wanted.
    """
    debian = packages.get("dpkg", {})
    first = {kind: next(iter(_found(debian, table, kind)), None) for kind in table.packages}
    python = versions.minor(debian.get("python3", "")) or None
    flavours: tuple[Flavour, ...] = ("open", "proprietary")
    modules: dict[str, str] = {name: found[0] for name in flavours if (found := first.get(name))}
    driver, cuda = first.get("driver"), first.get("cuda")
    kernel = first.get("kernel")
    return replace(
        wanted,
        driver=driver[1] if driver else wanted.driver,
        flavour=next(iter(modules)) if len(modules) == 1 else wanted.flavour,
        kernel=kernel[0] if kernel else wanted.kernel,
        cuda=cuda[1] if cuda else wanted.cuda,
        environments=tuple(_environments(packages, python)),
        fabric=dict(_found(debian, table, "fabric")),
        cudnn=dict(_found(debian, table, "cudnn")),
        modules=modules,
        missing=tuple(_missing(wanted, first)) if debian else (),
    )


def _missing(wanted: Stack, first: Mapping[Kind, Any]) -> Iterator[str]:
    """Yield what is wanted of a driver, and the packages of no kind bring."""
    if wanted.driver and not first.get("driver"):
        yield f"the driver {versions.plain(wanted.driver)}"
    if wanted.flavour and not (first.get("open") or first.get("proprietary")):
        yield f"the {wanted.flavour} module"


def _found(debian: Mapping[str, str], table: Table, kind: Any) -> Iterable[tuple[str, str]]:
    """Yield the packages of a kind: what the pattern's group took, or the name, and the version."""
    for pattern in table.packages.get(kind, ()):
        expected = re.compile(pattern)
        for name, version in sorted(debian.items()):
            if match := expected.fullmatch(name):
                yield (match[1] if expected.groups and match[1] else name), version


def _environments(
    packages: Mapping[str, Mapping[str, str]], python: str | None
) -> Iterator[Environment]:
    for list_, held in sorted(packages.items()):
        kind, _, name = list_.partition(" ")
        if kind == "python" and name:
            named: dict[str, str] = {
                canonicalize_name(each): version for each, version in held.items()
            }
            yield Environment(f"environment {name}", named, python)
