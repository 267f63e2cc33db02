"""Asking CUDA's driver: devices, memory, a kernel, bandwidth and peers; the answer is a document.

Run in a process of its own (``--ask-cuda``), which prints the document as JSON:

    {"driver": 12040, "error": null, "devices": [{"index": 0, "name": ..., "capability": [9, 0],
     "memory": bytes, "copy": STEP, "kernel": STEP, "bandwidth": STEP}], "peers": [...], "smi": XML}

A STEP is ``{"ok": true, "said": ...}``; ``ok`` is false when it went wrong and null when it could
not be tried. Nothing is judged here.
"""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import os
from array import array
from ctypes import c_size_t, c_uint
from typing import TYPE_CHECKING, Any

from gpu_check import smi
from gpu_check.driver import NVRTC_NAMES, Compiler, CudaError, Driver

if TYPE_CHECKING:
    from collections.abc import Callable
    from ctypes import c_void_p

    from gpu_check.host import Host

_COPIED, _BLOCK = 64 << 20, 4096
_MEASURED, _TIMES = 256 << 20, 10
_COUNT, _FACTOR = 1 << 16, 2654435761
_KERNEL = """
extern "C" __global__ void check(const unsigned *in, unsigned *out, unsigned count)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        out[i] = in[i] * 2654435761u + i;
}
"""
# Beside the loader's own places: the toolkit's, and those of wheels in virtual environments.
_NVRTC_PLACES = (
    "/usr/local/cuda*/lib64/libnvrtc.so*",
    "/opt/vaultbuild/venvs/*/lib/python3*/site-packages/nvidia/*/lib/libnvrtc.so*",
)

Step = dict[str, Any]


class UnableError(Exception):
    """A step could not be tried; the text says why."""


class WrongError(Exception):
    """A step was done, and what came of it is wrong."""


def ask(level: str, host: Host) -> dict[str, Any]:
    """Return everything that the driver says."""
    answer: dict[str, Any] = {"driver": None, "error": None, "devices": [], "peers": [], "smi": ""}
    try:
        driver = Driver()
    except OSError as error:
        return answer | {"missing": str(error)}
    try:
        answer["driver"] = driver.version()
        driver.start()
        answer["devices"] = [driver.device(index) for index in range(driver.count())]
    except CudaError as error:
        return answer | {"error": str(error)}
    contexts = {one["index"]: _ask_device(driver, one, level, host) for one in answer["devices"]}
    usable = {index: context for index, context in contexts.items() if context is not None}
    # While the contexts are there the GPUs are awake, and their links are as fast as they get.
    answer["smi"] = host.run(smi.QUERY).stdout if host.has(smi.QUERY[0]) else ""
    if level != "quick":
        answer["peers"] = [
            _peers(driver, (a, b), usable) for a in sorted(usable) for b in sorted(usable) if a != b
        ]
    return answer


def _ask_device(driver: Driver, device: Step, level: str, host: Host) -> c_void_p | None:
    """Try a device, write down what came of it, return its context."""
    try:
        context = driver.context(device["index"])
    except CudaError as error:
        device["copy"] = {"ok": False, "said": str(error)}
        device["kernel"] = device["bandwidth"] = _unable("it has no context")
        return None
    device["copy"] = _step(lambda: _copy(driver))
    device["kernel"] = _step(lambda: _kernel(driver, device, host))
    if level != "quick":
        device["bandwidth"] = _step(lambda: _bandwidth(driver))
    return context


def _step(what: Callable[[], Any]) -> Step:
    try:
        return {"ok": True, "said": what()}
    except UnableError as reason:
        return _unable(str(reason))
    except (CudaError, WrongError) as error:
        return {"ok": False, "said": str(error)}


def _unable(reason: str) -> Step:
    return {"ok": None, "said": reason}


def _compare(content: bytes, came: bytes) -> None:
    """Raise WrongError unless what came back is what was sent."""
    if content == came:
        return
    blocks = range(0, len(content), _BLOCK)
    at = next(one for one in blocks if content[one : one + _BLOCK] != came[one : one + _BLOCK])
    raise WrongError(f"of {len(content)} bytes, what was copied is wrong from byte {at} on")


def _copy(driver: Driver) -> str:
    """Copy bytes to the device and back."""
    content = os.urandom(1 << 20) * (_COPIED >> 20)
    with driver.memory(_COPIED) as memory:
        driver.put(memory, content)
        _compare(content, driver.get(memory, _COPIED))
    return f"{_COPIED >> 20} MiB copied to it and back"


def _kernel(driver: Driver, device: Step, host: Host) -> str:
    """Compile a kernel for the device's own architecture, run it, compare what it computed."""
    found = [path for place in _NVRTC_PLACES for path in host.find(place)]
    try:
        compiler = Compiler([*NVRTC_NAMES, *found])
    except OSError as error:
        raise UnableError(str(error)) from error
    architecture = "sm_{}{}".format(*device["capability"])
    image = compiler.compile(_KERNEL, architecture)
    numbers = array("I", range(_COUNT))
    size = len(numbers) * numbers.itemsize
    with driver.memory(size) as given, driver.memory(size) as made:
        driver.put(given, numbers.tobytes())
        driver.launch(image, "check", (given, made, c_uint(_COUNT)), _COUNT)
        came = array("I", driver.get(made, size))
    wrong = sum(one != (i * _FACTOR + i) & 0xFFFFFFFF for i, one in enumerate(came))
    if wrong:
        raise WrongError(f"{wrong} of {_COUNT} results of the kernel are wrong")
    return f"{compiler} compiled for {architecture}, {_COUNT} results are right"


def _bandwidth(driver: Driver) -> dict[str, float]:
    """Return GB/s by direction; a copy on the device reads and writes, and counts twice."""
    size = min(_MEASURED, driver.free_memory() // 8)
    count = c_size_t(size)
    with driver.pinned(size) as host, driver.memory(size) as one, driver.memory(size) as two:
        ways = {
            "host_to_device": ("cuMemcpyHtoDAsync_v2", one, host, count, None),
            "device_to_host": ("cuMemcpyDtoHAsync_v2", host, one, count, None),
            "device_to_device": ("cuMemcpyDtoDAsync_v2", two, one, count, None),
        }
        took = {way: driver.milliseconds(*call, times=_TIMES) for way, call in ways.items()}
    factors = {"device_to_device": 2}
    return {way: _gigabytes(size * factors.get(way, 1), ms) for way, ms in took.items()}


def _gigabytes(size: int, milliseconds: float) -> float:
    return round(size * _TIMES / milliseconds / 1e6, 1) if milliseconds else 0.0


def _peers(driver: Driver, pair: tuple[int, int], contexts: dict[int, c_void_p]) -> Step:
    """Copy from one device to another; say whether the first can reach the second by itself."""
    a, b = pair
    said: Step = {"from": a, "to": b, "access": None, "bandwidth": None}
    step = _step(lambda: _peer_copy(driver, said, contexts))
    return {**said, **step}


def _peer_copy(driver: Driver, said: Step, contexts: dict[int, c_void_p]) -> str:
    source, target = contexts[said["from"]], contexts[said["to"]]
    said["access"] = driver.can_access(said["from"], said["to"])
    driver.enter(target)
    with driver.memory(_COPIED) as there:
        driver.enter(source)
        with driver.memory(_COPIED) as here:
            if said["access"]:
                driver.allow_access(target)
            content = os.urandom(1 << 20) * (_COPIED >> 20)
            driver.put(here, content)
            call = ("cuMemcpyPeerAsync", there, target, here, source, c_size_t(_COPIED), None)
            took = driver.milliseconds(*call, times=_TIMES)
            driver.enter(target)
            came = driver.get(there, _COPIED)
            driver.enter(source)
        driver.enter(target)
    _compare(content, came)
    said["bandwidth"] = _gigabytes(_COPIED, took)
    return f"{_COPIED >> 20} MiB copied"
