"""The medium set, beside the quick one: how fast, how connected, and NVIDIA's own diagnosis."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from gpu_check.judge import counted, known, of_steps, require
from gpu_check.outcome import Check, Failed, Said, Skipped
from gpu_check.programs import prompt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpu_check.machine import Machine

_DIAG_SECONDS = {1: 600, 2: 1800, 3: 5400}
_NO_ENGINE = re.compile(r"unable to (establish a )?connect", re.IGNORECASE)
_HEADING = re.compile(r"^GPU (\d+):")
_LINK = re.compile(r"^\s*Link (\d+): (.*)$")
_ROW = re.compile(r"(\x1b\[\d*m)*GPU\d+")  # the heading begins with a tab
_NO_BANDWIDTH_LOST = ("Full", "False")
_NO_CLUSTER = "00000000-0000-0000-0000-000000000000"
# GB200 and its like, which are GPUs of one cluster beyond their own machine.
_RACK = re.compile(r"\bGB\d+\b")
_LISTED = re.compile(r"^(\d+) GPUs? found")
_ADDRESS = re.compile(r"PCI Bus ID: [0-9A-Fa-f]*([0-9A-Fa-f]{4}:[0-9A-Fa-f:.]+)")


def bandwidth(machine: Machine) -> Said:
    """Copies between host and GPU, and on the GPU, are as fast as is expected."""
    devices = machine.cuda_devices()
    steps = [(f"GPU {one['index']}", one["bandwidth"]) for one in devices]
    said = of_steps([(who, {**step, "said": _rates(step["said"])}) for who, step in steps])
    require(
        [
            f"{who}: {way} {step['said'][way]:g} GB/s, expected are {floor:g}"
            for who, step in steps
            for way, floor in machine.expected.bandwidth.items()
            if way in step["said"] and step["said"][way] < floor
        ],
        said.evidence,
    )
    return said


def _rates(said: Any) -> str:
    if not isinstance(said, dict):
        return str(said)
    return ", ".join(f"{way} {rate:g} GB/s" for way, rate in said.items())


def peer_access(machine: Machine) -> Said:
    """GPUs copy to each other without a fault, and reach each other where that is expected."""
    if len(machine.cuda_devices()) < 2:  # noqa: PLR2004 - a pair
        raise Skipped("CUDA shows one GPU")
    peers = machine.cuda["peers"]
    if not peers:
        raise Skipped("fewer than two GPUs could be used")
    floor, wanted = machine.expected.bandwidth.get("peer"), machine.expected.peer_access
    ways = [f"{one['from']} -> {one['to']}" for one in peers]
    told = "access {access}, {bandwidth} GB/s, {said}"
    lines = "\n".join(f"{way}: {told.format(**one)}" for way, one in zip(ways, peers))
    problems = []
    for way, one in zip(ways, peers):
        if not one["ok"]:
            problems.append(f"{way}: {one['said']}")
            continue
        if wanted is not None and one["access"] is not wanted:
            problems.append(f"{way}: peer access is {one['access']}, expected is {wanted}")
        if floor and one["bandwidth"] < floor:
            problems.append(f"{way}: {one['bandwidth']:g} GB/s, expected are {floor:g}")
    require(problems, lines)
    direct, rates = sum(one["access"] for one in peers), [one["bandwidth"] for one in peers]
    speed = f"{min(rates):g} to {max(rates):g} GB/s"
    return Said(f"{direct} of {len(peers)} ways are direct, {speed}", lines)


def diagnosis(level: int, machine: Machine) -> Said:
    """NVIDIA's own diagnosis finds nothing."""
    host = machine.host
    if not host.has("dcgmi"):
        raise Skipped("there is no dcgmi (NVIDIA's DCGM)")
    answer = host.run(["dcgmi", "diag", "-r", str(level), "-j"], timeout=_DIAG_SECONDS[level])
    if answer.status is None:
        raise Failed(answer.last)
    if answer.status and _NO_ENGINE.search(answer.said):
        raise Skipped(f"DCGM's host engine does not run: {answer.last}")
    tests = _tests(answer.stdout)
    require([f"{name}: {status}" for name, status in tests if status == "Fail"], answer.said)
    if answer.status or not tests:
        raise Failed(f"dcgmi ended with status {answer.status}: {answer.last}", answer.said)
    if all(status == "Skip" for _, status in tests):
        raise Skipped("dcgmi skipped all of its tests")
    return Said(counted([status for _, status in tests]), answer.stdout.strip())


def _tests(text: str) -> list[tuple[str, str]]:
    """Return name and status of each result, in whichever form this version of DCGM writes them."""
    begin = text.find("{")
    try:
        return list(_statuses(json.loads(text[begin:]), "")) if begin >= 0 else []
    except ValueError:
        return []


def _statuses(part: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(part, dict):
        name = str(part.get("name", name))
        if isinstance(part.get("status"), str):
            yield name, part["status"].capitalize()
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _statuses(one, name)


def discovery(machine: Machine) -> Said:
    """DCGM has found the GPUs that the driver has."""
    host, driven = machine.host, {gpu.bus for gpu in machine.gpus}
    if not host.has("dcgmi"):
        raise Skipped("there is no dcgmi (NVIDIA's DCGM)")
    answer = host.run(["dcgmi", "discovery", "-l"])
    if answer.status and _NO_ENGINE.search(answer.said):
        raise Skipped(f"DCGM's host engine does not run: {answer.last}")
    count = _LISTED.search(answer.stdout)
    if answer.status != 0 or not count:
        raise Failed(f"dcgmi ended with status {answer.status}: {answer.last}", answer.said)
    listed = {address.lower() for address in _ADDRESS.findall(answer.stdout)}
    problems = [f"DCGM does not list {address}" for address in sorted(driven - listed)]
    if int(count[1]) != len(driven):
        problems.append(f"DCGM found {count[1]} GPUs, nvidia-smi {len(driven)}")
    require(problems, answer.said)
    return Said(f"DCGM found {count[1]} GPUs", answer.stdout.strip())


def topology(machine: Machine) -> Said:
    """The way between any two GPUs is known; the matrix is kept."""
    count = len(machine.gpus)
    answer = machine.host.run(["nvidia-smi", "topo", "-m"])
    if answer.status != 0:
        how = f"nvidia-smi topo ended with status {answer.status}"
        raise Failed(f"{how}: {answer.last}", answer.said)
    rows = sum(bool(_ROW.match(line)) for line in answer.stdout.splitlines())
    require([f"the matrix has {rows} rows for {count} GPUs"] * (rows != count), answer.stdout)
    return Said(f"a matrix of {rows} GPUs", answer.stdout.rstrip())


def nvlink(machine: Machine) -> Said:
    """NVLinks are up: as many of each GPU as is expected, else all or none of a GPU."""
    count, wanted = len(machine.gpus), machine.expected.nvlinks
    answer = machine.host.run(["nvidia-smi", "nvlink", "-s"])
    links = _links(answer.stdout)
    if wanted is None and not any(any(one.values()) for one in links.values()):
        raise Skipped("no GPU here has an NVLink that is up, and none is expected")
    problems = []
    for index in range(count):
        mine = links.get(index, {})
        up = sum(mine.values())
        if wanted is not None and up != wanted:
            problems.append(f"GPU {index}: {up} links are up, expected are {wanted}")
        elif wanted is None and 0 < up < len(mine):
            down = ", ".join(str(link) for link, is_up in mine.items() if not is_up)
            problems.append(f"GPU {index}: links {down} are down")
    require(problems, answer.said)
    return Said(counted([f"{sum(mine.values())} links" for mine in links.values()]), answer.said)


def _links(text: str) -> dict[int, dict[int, bool]]:
    """Return by GPU and link whether it is up: only one with a rate is."""
    found: dict[int, dict[int, bool]] = {}
    gpu = -1
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            gpu = int(heading[1])
            found[gpu] = {}
        elif gpu >= 0 and (link := _LINK.match(line)):
            found[gpu][int(link[1])] = "GB/s" in link[2]
    return found


def fabric(machine: Machine) -> Said:
    """GPUs behind NVSwitches have found their fabric, and the cluster that they belong to."""
    states = known(machine.gpus, "fabric/state", "fabric state (it has no NVSwitch)")
    problems = []
    for gpu, state in states:
        status = gpu.said("fabric/status") or "unknown"
        if (state, status) != ("Completed", "Success"):
            problems.append(f"{gpu}: the fabric is {state}, its status {status}")
        lost = gpu.said("fabric/health/bandwidth")
        if lost and lost not in _NO_BANDWIDTH_LOST:
            problems.append(f"{gpu}: the bandwidth of the fabric is {lost}")
    clusters = [(gpu, gpu.said("fabric/clusterUuid")) for gpu, _ in states]
    for gpu, cluster in clusters:
        wanted, member = machine.expected.fabric_cluster, cluster not in (None, _NO_CLUSTER)
        if not member and (wanted or (wanted is None and cluster and _RACK.search(gpu.name))):
            problems.append(f"{gpu} belongs to no cluster: its ClusterUUID is {cluster}")
        if member and wanted is False:
            problems.append(f"{gpu} belongs to the cluster {cluster}, expected is none")
    found = list(dict.fromkeys(cluster for _, cluster in clusters if cluster))
    if len(found) > 1:
        problems.append(f"the GPUs belong to different clusters: {', '.join(found)}")
    require(problems)
    said = "".join(f", cluster {cluster}" for cluster in found if cluster != _NO_CLUSTER)
    return Said(counted([state for _, state in states]) + said)


CHECKS = (
    Check("bandwidth", "Bandwidth", bandwidth),
    Check("peer-access", "GPU to GPU", peer_access),
    Check("dcgm-discovery", "dcgmi discovery", discovery),
    Check("dcgm-1", "dcgmi diag -r 1", partial(diagnosis, 1)),
    Check("dcgm-2", "dcgmi diag -r 2", partial(diagnosis, 2)),
    Check("topology", "Topology", topology),
    Check("nvlink", "NVLink", nvlink),
    Check("fabric", "Fabric", fabric),
    Check("vllm", "A prompt with vLLM", prompt),
)
