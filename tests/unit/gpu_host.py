"""A GPU host that is a table: what its programs say, and which files and devices it has.

The answers of nvidia-smi in tests/gpu/ were made up in the form of real ones; no GPU was at hand.
"""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "ansible/roles/first_boot_gpu_check/files/gpu-check"
SAMPLES = ROOT / "tests/gpu"
# Found by what the program's own modules import.
sys.path.insert(0, str(PROGRAM))

from gpu_check.expect import Expected  # noqa: E402 - see above
from gpu_check.host import Answer  # noqa: E402
from gpu_check.machine import Machine  # noqa: E402
from gpu_check.outcome import carry_out  # noqa: E402

H100, A100, L4 = ((SAMPLES / f"{name}.xml").read_text() for name in ("h100", "a100-mig", "l4"))
BUS = {H100: ["0000:19:00.0", "0000:3b:00.0"], A100: ["0000:07:00.0"], L4: ["0000:00:04.0"]}
NO_SMI = {"programs": dict.fromkeys(["nvidia-smi -q", "nvidia-smi topo", "nvidia-smi nvlink"])}
NO_CUDA = {"cuda": {"missing": "libcuda.so.1: cannot open", "devices": [], "error": None}}
GOOD = {"ok": True, "said": "right"}
RATES = {"host_to_device": 50.1, "device_to_host": 50.2, "device_to_device": 2500.0}
TOPOLOGY = """\
\t\x1b[4mGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\x1b[0m
GPU0\t X \tNV18\t0-51\t0
GPU1\tNV18\t X \t0-51\t0

Legend:
  X    = Self
"""
LINKS = "\n".join(
    [f"GPU {gpu}: NVIDIA H100 80GB HBM3 (UUID: GPU-{gpu})\n" + "\n".join(
        f"\t Link {link}: 26.562 GB/s" for link in range(18)) for gpu in (0, 1)]
)  # fmt: skip
DIAGNOSIS = json.dumps({
    "DCGM Diagnostic": {"test_categories": [
        {"category": "Deployment", "tests": [
            {"name": "software", "results": [{"entity_id": 0, "status": "Pass"}],
             "test_summary": {"status": "Pass"}}]},
        {"category": "Hardware", "tests": [
            {"name": "memory", "results": [{"entity_id": 0, "status": "Skip"}]}]},
    ]}
})  # fmt: skip
DISCOVERY = """\
2 GPUs found.
+--------+----------------------------------------------------------------------+
| GPU ID | Device Information                                                   |
+--------+----------------------------------------------------------------------+
| 0      | Name: NVIDIA H100 80GB HBM3                                          |
|        | PCI Bus ID: 00000000:19:00.0                                         |
|        | Device UUID: GPU-0                                                   |
| 1      | Name: NVIDIA H100 80GB HBM3                                          |
|        | PCI Bus ID: 00000000:3B:00.0                                         |
|        | Device UUID: GPU-1                                                   |
+--------+----------------------------------------------------------------------+
4 NvSwitches found.
"""
PROFILES = """\
|   0  MIG 1g.10gb       19     {free}/7        9.75       No     16     0     0   |
|   0  MIG 1g.10gb+me    20     1/1        9.75       No     16     1     0   |
|   0  MIG 7g.80gb        0     1/1       79.25       No    132     7     0   |
"""
LOG = "Linux version 6.12.117\nCommand line: root=LABEL=vaultbuild-root\nnvidia: loading\n"
XID = "NVRM: Xid (PCI:0000:19:00): 79, pid=1, GPU has fallen off the bus."
SXID = "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO"


def edit(xml, old, new, count=-1):
    assert old in xml, f"the sample has no {old!r}"
    return xml.replace(old, new, count)


def program(name, said, status=0):
    return {"programs": {name: Answer(status, said)}}


def step(ok, said="it"):
    return {"ok": ok, "said": said}


BAD, UNTRIED = step(False, "it went wrong"), step(None, "no NVRTC here")


def text(xml, tag, value, count=1):
    """A sample in which the first elements of a name say something else."""
    parts = xml.split(f"<{tag}>")
    assert len(parts) > count, f"the sample has no {count} {tag}"
    for at in range(1, count + 1):
        parts[at] = value + parts[at][parts[at].index("<") :]
    return f"<{tag}>".join(parts)


def cuda(xml=H100, **changes):
    """What CUDA says of a machine with two H100."""
    devices = [
        {
            "index": index, "name": "NVIDIA H100 80GB HBM3", "capability": [9, 0],
            "memory": 85_000_000_000, "copy": GOOD, "kernel": GOOD,
            "bandwidth": {"ok": True, "said": RATES},
        }
        for index in (0, 1)
    ]  # fmt: skip
    peers = [
        {"from": a, "to": b, "access": True, "bandwidth": 380.0, **GOOD}
        for a, b in ((0, 1), (1, 0))
    ]
    document = {"driver": 12040, "error": None, "devices": devices, "peers": peers, "smi": xml}
    return document | changes


def device(**changes):
    """The first of the devices, otherwise."""
    one, two = cuda()["devices"]
    return cuda(devices=[one | changes, two])


def peer(**changes):
    one, two = cuda()["peers"]
    return cuda(peers=[one | changes, two])


class Splitting:
    """The nvidia-smi of two GPUs that can be split; ``wrong`` is what its words lead to instead."""

    def __init__(self, mode="Disabled", parts=0, **wrong):
        self.modes = {index: [mode, mode] for index in ("0", "1")}
        self.parts = dict.fromkeys(self.modes, parts)
        self.wrong = {word.replace("_", "-"): said for word, said in wrong.items()}

    def __call__(self, argv):
        if argv[1:] == ["-L"]:
            return "".join(
                f"GPU {index}: NVIDIA H100 (UUID: GPU-{index})\n"
                + count * "  MIG 1g.10gb     Device  0: (UUID: MIG-0)\n"
                for index, count in self.parts.items()
            )
        index, (word, *more) = argv[argv.index("-i") + 1], argv[argv.index("-i") + 2 :]
        said = self.wrong.get("".join([word, *more[:1]]) if word == "-mig" else word)
        if callable(said):
            return said()
        return self._done(index, word, more) if said is None else said

    def _done(self, index, word, more):
        if word == "-mig":
            self.modes[index] = 2 * [{"1": "Enabled", "0": "Disabled"}[more[0]]]
        if word == "-cgi":
            assert (self.modes[index][0], more) == ("Enabled", ["19", "-C"])
            self.parts[index] += 1
        if word == "-dgi":
            self.parts[index] = 0
        told = {"-lgip": PROFILES.format(free=7 - self.parts[index])}
        return told.get(word, ", ".join(self.modes[index]) if "query" in word else "")


class Table:
    """A machine with two H100 and all programs; each part can be another, or missing (None)."""

    def __init__(self, xml=H100, **other):
        torch = json.dumps({"ok": True, "said": "torch 2.6.0: products on 2 GPUs"})
        seen = "GPU 0: NVIDIA H100 80GB HBM3\nGPU 1: NVIDIA H100 80GB HBM3\n"
        venv = "/opt/vaultbuild/venvs/default"
        self.programs = {
            "nvidia-smi -q": xml,
            "nvidia-smi topo": TOPOLOGY,
            "nvidia-smi nvlink": LINKS,
            "--ask-cuda": json.dumps(other.pop("cuda", cuda(xml))),
            f"{venv}/bin/python": torch,
            "ldd": f"libm.so.6 => {__file__} (0x00007f96d9920000)\n",
            "podman image": "",
            "podman import": "sha256:0f1e",
            "podman rmi": "",
            "podman run": seen,
            "dcgmi discovery": DISCOVERY,
            "dcgmi diag": DIAGNOSIS,
            "journalctl": LOG,
            "dmesg": LOG,
            **other.pop("programs", {}),
        }
        site = f"{venv}/lib/python3.13/site-packages"
        paths = [f"{site}/{name}" for name in ("torch", "onnxruntime", "tensorflow")]
        nodes = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1"]
        self.bus = other.pop("bus", BUS.get(xml, BUS[H100]))
        ids = {f"/sys/bus/pci/devices/{address}/device": "0x2330" for address in self.bus}
        self.files = {
            **ids,
            **dict.fromkeys([*paths, "/run/cdi/nvidia.yaml", *nodes], ""),
            "/sys/module/nvidia/version": "550.163.01",
            **other.pop("files", {}),
        }
        assert not other, other

    def _answer(self, argv):
        words = " ".join(argv)
        return next((said for name, said in self.programs.items() if name in words), None)

    def has(self, program):
        there = (name for name, said in self.programs.items() if said is not None)
        return any(name.startswith(program) for name in there)

    def run(self, argv, timeout=60):
        said = self._answer(argv)
        if callable(said):
            said = said(argv)
        if said is None:
            raise FileNotFoundError(argv[0])
        return said if isinstance(said, Answer) else Answer(0, said)

    def read(self, path):
        return self.files.get(path)

    def find(self, pattern):
        there = (path for path, text in self.files.items() if text is not None)
        return sorted(path for path in there if fnmatch(path, pattern))

    def real(self, path):
        return path

    def is_device(self, path):
        return self.files.get(path) is not None and path.startswith("/dev/")

    def gpus_on_the_bus(self):
        return self.bus

    def pci_id(self, address):
        return self.files[f"/sys/bus/pci/devices/{address}/device"][2:].upper()


def cases(table):
    """The cases of a table by check, as parameters of a test."""
    return [
        pytest.param(check, *case, id=f"{check}: {case[2]}")
        for check in table
        for case in table[check]
    ]


def asked(check, machine, expected):
    """What a check says of a machine."""
    return carry_out(check, Machine(Table(**machine), Expected(**expected), "medium"))


def passes(check, machine, expected, said):
    """A check is content with a machine, and says why."""
    result = asked(check, machine, expected)
    assert result.outcome == "passed", result
    assert said in result.message, result


def fails(check, machine, expected, said):
    """A check finds something wrong with a machine, and does not break over it."""
    result = asked(check, machine, expected)
    assert result.outcome == "failed", result
    assert said in result.message, result
    assert "the check itself broke" not in result.message, result


def skips(check, machine, expected, said):
    """A check has nothing to ask of a machine, and says why."""
    result = asked(check, machine, expected)
    assert result.outcome == "skipped", result
    assert said in result.message, result
