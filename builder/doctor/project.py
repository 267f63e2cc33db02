"""What a build needs of the project: its caches, versions that go together, a store in order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builder import caches, ports, process
from builder.compat.judgement import Judge
from builder.digest import Facts, StatCache
from builder.doctor.finding import Finding, size
from builder.doctor.host import found
from builder.needs import needs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.doctor.finding import Case, Level


def caches_answer(case: Case) -> Iterator[Finding]:
    """Say whether the caches run, or could be started."""
    needed = _needed_caches(case)
    for status in caches.status(case.pipeline.caches, case.pipeline.project, needed):
        title = f"cache {status.name}"
        id_ = f"cache-{status.name}"
        if status.state == "unreachable":
            cure = f"start it, or set caches.{status.name}.url to null in stages/pipeline.yml"
            yield Finding(id_, title, "fail", f"{status.url} does not answer", cure)
        elif status.url:
            yield Finding(id_, title, "ok", f"{status.state} at {status.url}")
        else:
            yield _own_cache(case, status.name, id_, title)
    yield _offline(case, needed)


def _needed_caches(case: Case) -> list[str]:
    """Return the caches that builds of the pipeline use, and those that it says something of."""
    needs = needs_of(case.pipeline)
    needed = {"apt", "pypi"}
    needed |= {"isos"} if needs.image else set()
    needed |= {"wheels"} if needs.wheels else set()
    needed |= {"models"} if needs.models else set()
    settings = case.pipeline.caches
    needed |= {
        name for name in caches.NAMES
        if any(settings.get(name, {}).get(key) for key in ("url", "port", "listen"))
    }  # fmt: skip
    return [name for name in caches.NAMES if name in needed]


def _own_cache(case: Case, name: str, id_: str, title: str) -> Finding:
    """Say whether a cache that does not run now could be started."""
    program, cure = {
        "apt": ("apt-cacher-ng", process.how_to_install("apt-cacher-ng")),
        "pypi": ("devpi-server", f"{sys.executable} -m pip install devpi-server"),
    }.get(name, ("", ""))
    path = found(program) if program else Path(sys.executable)
    if path is None:
        return Finding(id_, title, "fail", f"no {program}", cure)
    settings = case.pipeline.caches.get(name, {})
    listen, port = settings.get("listen") or ports.LOOPBACK, settings.get("port")
    if not ports.has_address(listen):
        cure = f"set caches.{name}.listen to an address of this host, or to null for itself alone"
        return Finding(id_, title, "fail", f"this host has no address {listen}", cure)
    if port and ports.taken(port, listen):
        evidence = f"port {port} is taken by {ports.holder(port)}"
        return Finding(id_, title, "fail", evidence, f"stop it, or set caches.{name}.port to null")
    where = "" if listen == ports.LOOPBACK else f" at {listen}, open to other hosts"
    return Finding(id_, title, "ok", f"{path}, started when needed{where}")


def _offline(case: Case, needed: Sequence[str]) -> Finding:
    """Say what there is to build from when the network is off."""
    own = [name for name in needed if not case.pipeline.caches.get(name, {}).get("url")]
    kept = caches.holds(case.pipeline.project, own)
    told = [
        f"{name}: {found.files} file{'s' * (found.files != 1)}, {size(found.bytes)}"
        for name, found in kept.items()
    ]
    told += [f"{name}: somebody else's" for name in needed if name not in own]
    empty = not any(found.files for found in kept.values())
    evidence = "; ".join(told) + ("; the first build needs the network" if own and empty else "")
    return Finding("offline", "building offline", "ok", evidence)


def open_pins(case: Case) -> Iterator[Finding]:
    """Say what nobody has filled in: without it there is nothing to build."""
    for pin in case.pipeline.open_pins:
        evidence = f"{pin.file}:{pin.line} {pin.message}"
        yield Finding("open-pin", "pins", "fail", evidence, pin.hint or "")


def compatibility(case: Case) -> Iterator[Finding]:
    """Say what is wrong with the versions that the variant wants, and that the rest is right."""
    index = case.var / "index"
    cache = StatCache(case.pipeline.project, index / "files.json")
    judge = Judge(case.pipeline, cache, Facts(index / "facts.json"))
    found = judge.wanted([stage.name for stage in case.pipeline.stages])
    told = [each for each in found if each.level in {"warn", "fail"}]
    for rule in dict.fromkeys(each.rule for each in told):
        of_rule = [each for each in told if each.rule == rule]
        level: Level = "fail" if any(each.level == "fail" for each in of_rule) else "warn"
        evidence = "; ".join(each.message for each in of_rule)
        look = case.pipeline.command("compat")
        cure = of_rule[0].cure or f"{look} answers what goes with what"
        yield Finding(f"compat-{rule}", "compatibility", level, evidence, cure)
    if judge.has_table and not told:
        evidence = f"{len(found)} things go together, as stages/compatibility.yml has it"
        yield Finding("compat", "compatibility", "ok", evidence)
