"""What the checks ask about DCGM, in one go; prints JSON."""

import json
import re
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


def exporter():
    """How its unit would be started, with its drop-ins."""
    said = say(
        "systemctl",
        "show",
        "-p",
        "ExecStart",
        "-p",
        "StandardOutput",
        "nvidia-dcgm-exporter.service",
    )
    started = re.search(r"argv\[\]=(.*?) ;", said)
    output = re.search(r"^StandardOutput=(.*)$", said, re.MULTILINE)
    return {
        "arguments": started[1].split()[1:] if started else [],
        "output": output[1] if output else "",
        **unit("nvidia-dcgm-exporter.service"),
    }


ASKED = {
    "exporter": exporter,
    "gpu": gpu,
    "packages": packages,
    "service": lambda: unit("nvidia-dcgm.service"),
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
