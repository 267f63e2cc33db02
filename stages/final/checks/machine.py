"""What the checks ask of the finished host, in one go; see the base stage's machine.py.

Arguments: the names of the kernel settings that were asked for, as JSON; the folder of the
measurements.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS, MEASUREMENTS = json.loads(sys.argv[1]), Path(sys.argv[2])
LIMITS = ("MEMLOCK", "NOFILE")
VERSIONS = ("dpkg-query", "--show", "--showformat", "${Package} ${Version}\n")
CPUS = Path("/sys/devices/system/cpu")
# A stand-in for nvidia-smi, so that the program is seen reading GPUs where there are none.
SMI = """#!/bin/sh
echo "0, GPU-1, NVIDIA Test, 50, 20, 81559, 1024, 40, 123.5, 1980, 0"
echo "1, GPU-2, NVIDIA Test, 0, 0, 81559, 0, 30, [N/A], 345, [N/A]"
"""


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def read(path):
    return Path(path).read_text(encoding="utf-8")


def setting(name):
    """The value of a kernel setting; None where this kernel has no such thing."""
    path = Path("/proc/sys", *name.split("."))
    return path.read_text().strip() if path.exists() else None


def measured():
    """Let the service measure now; return what it wrote."""
    command = ("systemctl", "start", "gpu-monitor.service")
    started = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        "failed": started.stderr,
        "json": json.loads(read(MEASUREMENTS / "metrics.json")),
        "prometheus": read(MEASUREMENTS / "metrics.prom").splitlines(),
    }


def measured_with_gpus():
    with tempfile.TemporaryDirectory() as name:
        smi = Path(name, "nvidia-smi")
        smi.write_text(SMI)
        smi.chmod(0o755)
        path = {"PATH": f"{name}:{os.environ['PATH']}"}
        subprocess.run(["gpu-monitor", name], env=path, check=True)
        return {
            "json": json.loads(read(f"{name}/metrics.json")),
            "prometheus": read(f"{name}/metrics.prom").splitlines(),
        }


def gpu():
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == "0x10de" for vendor in vendors)


def unit(name):
    return {
        "enabled": say("systemctl", "is-enabled", name),
        "state": say("systemctl", "show", "--value", "-p", "ActiveState", name),
    }


ASKED = {
    "container": lambda: say("systemd-detect-virt", "--container"),
    "governor": lambda: unit("cpu-governor.service"),
    "governors": lambda: sorted(
        {read(path).strip() for path in CPUS.glob("cpu*/cpufreq/scaling_governor")}
    ),
    "gpu": gpu,
    "hugepages": lambda: read("/sys/kernel/mm/transparent_hugepage/enabled"),
    "hugepages_file": lambda: read("/etc/tmpfiles.d/gpu-host-hugepages.conf").splitlines(),
    "limits": lambda: {
        name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in LIMITS
    },
    "limits_file": lambda: read("/etc/security/limits.d/50-gpu-host.conf"),
    "measured": measured,
    "measured_with_gpus": measured_with_gpus,
    "motd": lambda: read("/etc/motd"),
    "packages": lambda: dict(line.split(" ") for line in say(*VERSIONS).splitlines()),
    "page": lambda: read("/usr/share/doc/gpu-host/README.md"),
    "release": lambda: os.uname().release,
    "service_limits": lambda: say(
        "systemctl", "show", "-p", "DefaultLimitMEMLOCK", "-p", "DefaultLimitNOFILE"
    ).splitlines(),
    "sysctl": lambda: {name: setting(name) for name in SETTINGS},
    "sysctl_file": lambda: read("/etc/sysctl.d/50-gpu-host.conf"),
    "timer": lambda: unit("gpu-monitor.timer"),
    "unlimited": lambda: resource.RLIM_INFINITY,
    "versions": lambda: json.loads(read("/usr/share/gpu-host/versions.json")),
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
