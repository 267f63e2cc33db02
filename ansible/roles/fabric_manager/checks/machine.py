"""What the checks ask about NVLink switches, in one go; prints JSON.

Argument: the unit.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

UNIT = sys.argv[1]
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


def drivers():
    """The versions of the driver's library."""
    names = {path.name for path in Path("/usr/lib").rglob("libcuda.so.*") if not path.is_symlink()}
    found = (re.fullmatch(r"libcuda\.so\.(\d+\.[\d.]+)", name) for name in names)
    return sorted(one[1] for one in found if one)


ASKED = {"drivers": drivers, "gpu": gpu, "packages": packages, "unit": lambda: unit(UNIT)}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
