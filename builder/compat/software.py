"""The rules about CUDA, cuDNN and the environments of frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from builder.compat import versions
from builder.compat.finding import Finding
from builder.compat.hardware import known_gpus
from builder.compat.stack import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.compat.finding import Level
    from builder.compat.stack import Environment, Stack, Toolkit
    from builder.compat.table import CudnnRow, FrameworkRow, GpuRow, Table

# --- CUDA -----------------------------------------------------------------------------------------


def _about(
    toolkit: Toolkit, rule: str, level: Level, message: str, source: str, cure: str = ""
) -> Finding:
    """Return a finding about a toolkit: the image's own, or that of an environment's lock."""
    if toolkit.where == SYSTEM:
        return Finding(rule, level, message, source, "cuda", cure)
    package = toolkit.who.partition(" ")[0]
    return Finding(rule, level, message, source, "packages", cure, toolkit.where, package)


def cuda_driver(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """A toolkit loads from its major version's first driver on; all of it from its own on."""
    for toolkit in stack.toolkits(table) if stack.driver else ():
        driver = versions.plain(stack.driver or "")
        cuda, who = versions.minor(toolkit.version), toolkit.who
        least = table.cuda_majors.get(versions.major(cuda))
        whole = table.cuda.get(cuda)
        if least is None:
            message = f"nothing is known of CUDA {cuda}, which {who} has"
            yield _about(toolkit, "cuda-driver", "note", message, "")
        elif not versions.reaches(driver, least.driver):
            message = f"CUDA {cuda} of {who} needs driver {least.driver} or later; this is {driver}"
            cure = _instead(toolkit, stack, table)
            yield _about(toolkit, "cuda-driver", "fail", message, least.source, cure)
        elif whole and not versions.reaches(driver, whole.driver):
            message = (
                f"CUDA {cuda} of {who} runs on {driver} by minor version compatibility; PTX of its"
                f" compiler needs {whole.driver} or later"
            )
            yield _about(toolkit, "cuda-driver", "note", message, whole.source)
        else:
            message = f"driver {driver} runs all of CUDA {cuda}, which {who} has"
            yield _about(toolkit, "cuda-driver", "ok", message, (whole or least).source)


def _instead(toolkit: Toolkit, stack: Stack, table: Table) -> str:
    """Name the newest release of a framework that a driver runs, and runs in full."""
    name = toolkit.who.partition(" ")[0]
    releases = table.frameworks.get(name, {})
    runs = [each for each, row in releases.items() if _runs(row, stack, table, whole=False)]
    full = [each for each, row in releases.items() if _runs(row, stack, table, whole=True)]
    told = []
    if full:
        told.append(f"{name} {max(full, key=versions.numbers)} is the newest that it runs in full")
    if runs and max(runs, key=versions.numbers) not in full:
        told.append(f"{name} {max(runs, key=versions.numbers)} the newest that it runs at all")
    return ", ".join(told)


def _runs(row: FrameworkRow, stack: Stack, table: Table, *, whole: bool) -> bool:
    if row.cuda is None or stack.driver is None:
        return False
    rows = table.cuda if whole else table.cuda_majors
    floor = rows.get(versions.minor(row.cuda) if whole else versions.major(row.cuda))
    return floor is not None and versions.reaches(versions.plain(stack.driver), floor.driver)


def cudnn(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """A cuDNN goes with some CUDAs, and with each of them with some drivers and GPUs."""
    for environment, version, cuda in stack.cudnns(table):
        level, message, source = _beside(version, cuda, stack, table)
        where = environment.where
        yield Finding("cudnn", level, message, source, "packages", "", where, "nvidia-cudnn")


def own_cudnn(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """The image's own cuDNN is of packages for one major version of CUDA, and beside its CUDA."""
    for made_for, version in stack.cudnn.items():
        which = f"cuDNN {versions.plain(version)}"
        if not stack.cuda:
            message = f"nothing says beside which CUDA of the image {which} stands"
            yield Finding("cudnn", "note", message, "", "cudnn")
        elif made_for.isdigit() and made_for != versions.major(stack.cuda):
            cuda = versions.minor(stack.cuda)
            message = f"{which} is of packages for CUDA {made_for}; the image has CUDA {cuda}"
            yield Finding("cudnn", "fail", message, "", "cudnn_cuda")
        else:
            level, message, source = _beside(versions.plain(version), stack.cuda, stack, table)
            yield Finding("cudnn", level, message, source, "cudnn")


def _beside(version: str, cuda: str, stack: Stack, table: Table) -> tuple[Level, str, str]:
    """Judge a cuDNN beside a CUDA: how bad, why, on whose word."""
    rows = table.cudnn_rows(version, cuda)
    against = [_against(row, version, stack, table) for row in rows]
    source = rows[0].source if rows else ""
    if "" in against:
        return "ok", f"cuDNN {version} goes with CUDA {versions.minor(cuda)}", source
    if against:
        return "fail", against[0], source
    if table.knows_cudnn(version):
        return "fail", f"cuDNN {version} is not made for CUDA {versions.minor(cuda)}", source
    return "note", f"nothing is known of cuDNN {version}", source


def _against(row: CudnnRow, cudnn: str, stack: Stack, table: Table) -> str:
    """Say why a row does not fit; nothing where it does."""
    if stack.driver and not versions.reaches(versions.plain(stack.driver), row.driver):
        return f"cuDNN {cudnn} needs driver {row.driver} or later"
    first, last = row.capabilities
    if out := [name for name, gpu in known_gpus(stack, table) if not _within(gpu, row)]:
        return f"cuDNN {cudnn} has code for {first} to {last}, and not for {', '.join(out)}"
    return ""


def _within(gpu: GpuRow, row: CudnnRow) -> bool:
    first, last = row.capabilities
    have = versions.numbers(gpu.capability)
    return versions.numbers(first) <= have <= versions.numbers(last)


def gpu_cuda(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """A toolkit has code for a GPU from its first version on, and until its last."""
    for toolkit in stack.toolkits(table):
        cuda = versions.minor(toolkit.version)
        for name, gpu in known_gpus(stack, table):
            row = table.architectures[gpu.architecture]
            who = toolkit.who
            if not versions.reaches(cuda, row.cuda):
                message = f"{name} needs CUDA {row.cuda} or later; {who} has {cuda}"
                yield _about(toolkit, "gpu-cuda", "fail", message, row.source)
            elif row.cuda_before and versions.reaches(cuda, row.cuda_before):
                message = f"CUDA {row.cuda_before} has no code for {name}; {who} has {cuda}"
                yield _about(toolkit, "gpu-cuda", "fail", message, row.source)
            else:
                message = f"CUDA {cuda} of {who} has code for {name}"
                yield _about(toolkit, "gpu-cuda", "ok", message, row.source)


# --- environments ---------------------------------------------------------------------------------


def one_cuda(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """One environment has one CUDA: a second one's libraries would be loaded beside the first's."""
    for environment in stack.environments:
        cudas = _cudas(environment, table)
        if len(cudas) > 1:
            parts = ", ".join(f"{name} {cuda}" for cuda, name in cudas.items())
            message = f"{environment.where} has {len(cudas)} CUDAs: {parts}"
            cure = "one environment for each framework"
            yield Finding("one-cuda", "fail", message, "", "packages", cure, environment.where)
        elif cudas:
            message = f"{environment.where} has one CUDA, {next(iter(cudas))}"
            yield Finding("one-cuda", "ok", message, "", "packages", "", environment.where)


def _cudas(environment: Environment, table: Table) -> dict[str, str]:
    """Return the CUDAs of an environment, each with a wheel that is of it.

    A wheel that shares no more than a major version tells of one where no other wheel does.
    """
    found: dict[str, str] = {}
    for name, version in environment.wheels(table.cuda_wheels):
        found.setdefault(versions.minor(version), name)
    for name, version in environment.wheels(table.cuda_major_wheels):
        major = versions.major(version)
        if major not in map(versions.major, found):
            found[major] = name
    return found


def framework(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """A framework has wheels for some Pythons, and wants others in exact versions."""
    for environment, name, version in stack.frameworks(table):
        place = {"fact": "packages", "where": environment.where, "package": name}
        known = table.framework(name, version)
        if known is None:
            message = f"nothing is known of {name} {version}"
            yield Finding("framework-known", "note", message, "", **place)
            continue
        _, row = known
        if row.python and environment.python:
            yield _python(name, version, environment.python, row, place)
        for other, wanted in row.needs.items():
            have = environment.packages.get(canonicalize_name(other), "")
            right = have.partition("+")[0] == wanted
            message = f"{name} {version} wants {other} {wanted}; here is {have or 'none'}"
            level: Level = "ok" if right else "fail"
            yield Finding("framework-needs", level, message, row.source, **place)


def _python(
    name: str, version: str, python: str, row: FrameworkRow, place: dict[str, str]
) -> Finding:
    first, last = row.python or ("", "")
    message = f"{name} {version} has wheels for Python {first} to {last}; here is {python}"
    right = versions.between(python, (first, last))
    return Finding("framework-python", "ok" if right else "fail", message, row.source, **place)
