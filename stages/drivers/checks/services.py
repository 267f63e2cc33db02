"""What the machine that booted says of the services of GPUs; see the base stage's machine.py."""

import json
import subprocess
from pathlib import Path

SERVICES = (
    "gpu-mig.service",
    "nvidia-cdi-refresh.path",
    "nvidia-cdi-refresh.service",
    "nvidia-dcgm-exporter.service",
    "nvidia-dcgm.service",
    "nvidia-fabricmanager.service",
    "nvidia-imex.service",
    "nvidia-persistenced.service",
)


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def gpu():
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == "0x10de" for vendor in vendors)


def state(unit):
    return {
        "enabled": say("systemctl", "is-enabled", unit),
        "state": say("systemctl", "show", "--value", "-p", "ActiveState", unit),
    }


def services():
    """The services of GPUs that are installed, each with how it is."""
    loaded = ("systemctl", "show", "--value", "-p", "LoadState")
    return {unit: state(unit) for unit in SERVICES if say(*loaded, unit) != "not-found"}


ASKED = {"gpu": gpu, "services": services}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
