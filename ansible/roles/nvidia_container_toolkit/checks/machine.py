"""What the checks ask about containers and GPUs, in one go; prints JSON."""

import json
import subprocess
from pathlib import Path

VERSIONS = (
    "dpkg-query",
    "--show",
    "--showformat",
    "${db:Status-Status} ${db:Status-Want} ${Package} ${Version}\n",
)


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def packages():
    """Name: version, and whether it is held. Not from apt-mark: apt makes caches."""
    said = subprocess.run(VERSIONS, capture_output=True, text=True, check=True).stdout
    rows = (line.split(" ") for line in said.splitlines())
    return {name: [version, want] for state, want, name, version in rows if state == "installed"}


def gpu():
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == "0x10de" for vendor in vendors)


def unit(name):
    return {
        "enabled": say("systemctl", "is-enabled", name),
        "state": say("systemctl", "show", "--value", "-p", "ActiveState", name),
    }


def docker():
    path = Path("/etc/docker/daemon.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def containerd():
    return [line.strip() for line in say("containerd", "config", "dump").splitlines()]


ASKED = {
    "baked": lambda: [str(path) for path in Path("/etc/cdi").glob("*")],
    "containerd": containerd,
    "docker": docker,
    "gpu": gpu,
    "packages": packages,
    "path": lambda: unit("nvidia-cdi-refresh.path"),
    "service": lambda: unit("nvidia-cdi-refresh.service"),
    "specification": lambda: Path("/var/run/cdi/nvidia.yaml").exists(),
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
