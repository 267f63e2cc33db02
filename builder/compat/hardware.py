"""The rules about driver, kernel and GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.compat import versions
from builder.compat.finding import Finding
from builder.compat.table import ENDED
from builder.suggest import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.compat.finding import Level
    from builder.compat.stack import Stack
    from builder.compat.table import FabricRow, GpuRow, Table

# --- the driver -----------------------------------------------------------------------------------


def driver_end(stack: Stack, table: Table, month: str) -> Iterator[Finding]:
    """A branch that has ended gets no more fixes."""
    if not stack.driver:
        return
    branch = versions.major(stack.driver)
    row = table.drivers.get(branch)
    if row is None:
        message = f"nothing is known of driver branch {branch}"
        yield Finding("driver-end", "note", message, "", "driver")
    elif row.over(month):
        when = "" if row.ends == ENDED else f" in {row.ends}"
        message = f"driver branch {branch} ended{when}: it gets no fixes any more"
        yield Finding("driver-end", "warn", message, row.source, "driver", _supported(table, month))
    else:
        message = f"driver branch {branch} is maintained until {row.ends}"
        yield Finding("driver-end", "ok", message, row.source, "driver")


def _supported(table: Table, month: str) -> str:
    kept = [
        f"{name} until {row.ends}"
        for name, row in table.drivers.items()
        if row.kind == "lts" and not row.over(month)
    ]
    return f"long term support: {', '.join(kept)}" if kept else ""


def driver_missing(stack: Stack, _: Table, __: str) -> Iterator[Finding]:
    """A driver that is wanted has packages in the image: of its library, and of a module."""
    for what in stack.missing:
        message = f"no package of the image brings {what}"
        cure = "which packages do, packages in stages/compatibility.yml says"
        yield Finding("driver-missing", "fail", message, "", "driver", cure)


def driver_module(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """A branch has an open module or it has not."""
    row = table.drivers.get(versions.major(stack.driver or ""))
    if row and stack.flavour and stack.flavour not in row.modules:
        branch = versions.major(stack.driver or "")
        message = f"driver branch {branch} has no {stack.flavour} module"
        yield Finding("driver-module", "fail", message, row.source, "flavour")


def one_module(stack: Stack, _: Table, __: str) -> Iterator[Finding]:
    """Of two modules of one name, nobody says which is loaded."""
    held = ", ".join(f"{flavour} ({package})" for flavour, package in stack.modules.items())
    if len(stack.modules) > 1:
        message = f"the image has packages of {len(stack.modules)} modules: {held}"
        yield Finding("one-module", "fail", message, "", "flavour", "leave one of them")
    elif stack.modules:
        yield Finding("one-module", "ok", f"the image has one module, {held}", "", "flavour")


def kernel_module(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """A module compiles for a kernel, as was seen, or it does not."""
    if not (stack.driver and stack.flavour and stack.kernel):
        return
    what = f"the {stack.flavour} module of {versions.plain(stack.driver)}"
    row = table.kernel_build(stack.driver, stack.flavour, stack.kernel)
    if row is None:
        message = f"nobody has seen {what} compile for {stack.kernel} yet"
        yield Finding("kernel-module", "note", message, "", "kernel")
    elif row.builds:
        message = f"{what} compiles for {row.kernels}"
        yield Finding("kernel-module", "ok", message, row.source, "kernel")
    else:
        why = f": {row.why}" if row.why else ""
        message = f"{what} does not compile for {stack.kernel}{why}"
        cure = _building(stack, table)
        yield Finding("kernel-module", "fail", message, row.source, "flavour", cure)


def _building(stack: Stack, table: Table) -> str:
    """Say which kernels, and which module, are known to work with a driver."""
    driver = versions.plain(stack.driver or "")
    rows = [row for row in table.kernel_builds if row.driver == driver and row.builds]
    other = [row for row in rows if row.flavour != stack.flavour and row.covers(stack.kernel or "")]
    same = [row for row in rows if row.flavour == stack.flavour]
    told = [f"the {row.flavour} one does" for row in other[:1]]
    told += [f"it does for {row.kernels}" for row in same[:1]]
    return "; ".join(told)


def fabric(stack: Stack, _: Table, __: str) -> Iterator[Finding]:
    """Fabric Manager and IMEX run with a driver of exactly their own version."""
    for name, version in stack.fabric.items():
        have, driver = versions.plain(version), versions.plain(stack.driver or "")
        if not driver:
            message = f"{name} is {have}, and nothing says which driver stands beside it"
            yield Finding("fabric-version", "note", message, "", "fabric")
            continue
        right = have == driver
        message = f"{name} is {have}, the driver {driver}"
        level: Level = "ok" if right else "fail"
        cure = "" if right else "both must be of one version"
        yield Finding("fabric-version", level, message, "", "fabric", cure)


def fabric_platform(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """GPUs behind switches need the fabric manager, or IMEX, for switches of their kind."""
    variable = table.variables.get("fabric_platform", "")
    wanting = known_gpus(stack, table) if variable and stack.fabric_platform is not None else ()
    by_fabric: dict[str, list[str]] = {}
    for name, gpu in wanting:
        by_fabric.setdefault(gpu.fabric or "", []).append(name)
    for fabric, row in table.fabrics.items():
        if names := ", ".join(by_fabric.get(fabric, ())):
            level, message = _served(names, row, stack.fabric_platform or "", variable)
            cure = f"{variable}: {row.platforms[0]}" if level == "fail" else ""
            yield Finding("fabric-platform", level, message, row.source, "fabric_platform", cure)


def _served(names: str, row: FabricRow, platform: str, variable: str) -> tuple[Level, str]:
    """Judge GPUs of one kind by the platform; boards without switches need none."""
    wanted = " or ".join(row.platforms)
    if platform in row.platforms:
        return "ok", f"{variable} {platform} serves {names}"
    if platform:
        return "fail", f"{names}: {variable} must be {wanted}, and is {platform}"
    boards = f"{names}: boards with NVLink switches want {variable} {wanted}"
    return "note", f"{boards}, and nothing here says one"


# --- GPUs -----------------------------------------------------------------------------------------


def gpu_known(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """A GPU that the table does not know cannot be judged."""
    for name in stack.gpus:
        if table.gpu(name) is None:
            message = f"nothing is known of a GPU {name}"
            cure = suggestion(name, table.gpus) or f"known are {', '.join(table.gpus)}"
            yield Finding("gpu-known", "fail", message, "", "gpus", cure)


def known_gpus(stack: Stack, table: Table) -> Iterator[tuple[str, GpuRow]]:
    """Yield the GPUs of a stack that the table knows."""
    yield from (found for name in stack.gpus if (found := table.gpu(name)))


def gpu_driver(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """A GPU needs a driver that knows it, and old ones are dropped."""
    for name, gpu in known_gpus(stack, table) if stack.driver else ():
        driver = versions.plain(stack.driver or "")
        last = table.architectures[gpu.architecture].driver_last
        if not versions.reaches(driver, gpu.driver):
            message = f"{name} needs driver {gpu.driver} or later; this is {driver}"
            yield Finding("gpu-driver", "fail", message, gpu.source, "driver")
        elif last and int(versions.major(driver)) > int(last):
            message = f"{last} is the last driver branch for {name}; this is {driver}"
            yield Finding("gpu-driver", "fail", message, gpu.source, "driver")
        else:
            message = f"{name} runs with driver {gpu.driver} or later"
            yield Finding("gpu-driver", "ok", message, gpu.source, "driver")


def gpu_module(stack: Stack, table: Table, _: str) -> Iterator[Finding]:
    """Some GPUs want the open module, some the proprietary one."""
    for name, gpu in known_gpus(stack, table) if stack.flavour else ():
        row = table.architectures[gpu.architecture]
        if stack.flavour not in row.modules:
            only = " or ".join(row.modules)
            message = f"{name} ({gpu.architecture}) runs with the {only} module alone"
            yield Finding("gpu-module", "fail", message, row.source, "flavour")
        elif stack.flavour == "open" and stack.driver and not _opened(gpu, stack.driver):
            first = f"{gpu.open} is the first" if gpu.open else "no branch is known"
            message = f"{first} whose open module has {name} on its list"
            yield Finding("gpu-module", "warn", message, gpu.source, "flavour")
        else:
            message = f"{name} runs with the {stack.flavour} module"
            yield Finding("gpu-module", "ok", message, row.source, "flavour")


def _opened(gpu: GpuRow, driver: str) -> bool:
    return gpu.open is not None and versions.reaches(driver, gpu.open)
