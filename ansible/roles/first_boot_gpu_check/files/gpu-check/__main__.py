"""Check the GPUs of this machine.

    python3 gpu-check --level quick|medium|long [--expect FILE] [--json FILE] [--junit FILE]

Python 3.9 and its standard library are all that it needs; this folder can be copied to any machine
and be run there, as a folder or zipped into one file. Exit status:

    0  at least one check passed and none failed
    1  a check failed
    2  the command line or the expectation file is wrong
    3  there is no NVIDIA GPU here: nothing was checked
"""
# ruff: noqa: INP001, T201 - a program of its own, which prints its results

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from gpu_check import cuda, expect, long, medium, papers, programs, quick
from gpu_check.host import Host
from gpu_check.machine import Machine
from gpu_check.outcome import PASSED, SKIPPED, Result, Skipped, carry_out

if TYPE_CHECKING:
    from gpu_check.outcome import Check

LEVELS = ("quick", "medium", "long")
PASS, FAIL, USAGE, NO_GPU = 0, 1, 2, 3


def checks_of(level: str) -> tuple[Check, ...]:
    """Return the checks of a level in their order; the kernel's log tells of all the others."""
    more = () if level == "quick" else medium.CHECKS
    more += long.CHECKS if level == "long" else ()
    return (*quick.CHECKS, *programs.CHECKS, *more, quick.LAST)


def main() -> int:
    """Check, print, write; return the exit status."""
    arguments = _arguments()
    host = Host(arguments.root)
    if arguments.ask_cuda:
        print(json.dumps(cuda.ask(arguments.ask_cuda, host)))
        return PASS
    try:
        expected, document = expect.read(arguments.expect)
    except expect.WrongFileError as error:
        print(error, file=sys.stderr)
        return USAGE
    if not present(host):
        return _without_a_gpu(arguments)
    if arguments.present:
        return PASS
    machine = Machine(host, expected, arguments.level)
    results = []
    started = time.time()
    for check in checks_of(arguments.level):
        results.append(carry_out(check, machine))
        print(papers.line(results[-1]), flush=True)
    _write(arguments, results, {"expected": document, **_about(machine, started)})
    print(", ".join(f"{count} {name}" for name, count in papers.counts(results).items() if count))
    return PASS if papers.outcome(results) == PASSED else FAIL


def present(host: Host) -> bool:
    """Whether a GPU is here: on the PCI bus, or, where that is hidden, by its device node."""
    return bool(host.gpus_on_the_bus() or host.find("/dev/nvidia[0-9]*"))


def _without_a_gpu(arguments: argparse.Namespace) -> int:
    reason = "no NVIDIA GPU is here: none on the PCI bus, and no /dev/nvidia0"
    if not arguments.present:
        result = Result("gpu-present", "A GPU is here", SKIPPED, reason)
        _write(arguments, [result], {"level": arguments.level}, outcome="no-gpu")
    print(reason, file=sys.stderr)
    return NO_GPU


def _about(machine: Machine, started: float) -> dict[str, Any]:
    """Return what the document says beside the results."""
    try:
        log = machine.smi
        driver, gpus = log.driver, [gpu.facts() for gpu in log.gpus]
    except Skipped:
        driver, gpus = None, []
    return {
        "level": machine.level,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "kernel": os.uname().release,
        "driver": driver,
        "gpus": gpus,
    }


def _write(
    arguments: argparse.Namespace, results: list[Result], about: dict[str, Any], **more: str
) -> None:
    """Write the papers that were asked for; the JSON last: it says that the run came to its end."""
    if arguments.junit:
        papers.put(arguments.junit, papers.junit(results, arguments.level))
    if arguments.json:
        document = {**papers.document(results, about), **more}
        papers.put(arguments.json, json.dumps(document, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    about = "Check the GPUs of this machine."
    parser = argparse.ArgumentParser(prog="gpu-check", description=about)
    parser.add_argument("--level", choices=LEVELS, default="quick")
    parser.add_argument("--expect", metavar="FILE", help="what the machine shall be, as JSON")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML there")
    parser.add_argument("--present", action="store_true", help="only say whether a GPU is here")
    root = os.environ.get("GPU_CHECK_ROOT", "")
    parser.add_argument("--root", default=root, help="look for files and devices below this folder")
    parser.add_argument("--ask-cuda", choices=LEVELS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _stop(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)


if __name__ == "__main__":
    # An exit unwinds: what was started is killed, and nothing half done is left.
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
