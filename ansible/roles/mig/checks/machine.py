"""What the checks ask about GPUs in parts, in one go; prints JSON.

Argument: the name of the layout.
"""

import json
import subprocess
import sys
from pathlib import Path

NAME = sys.argv[1]
FILE = Path("/etc/gpu-host/mig.json")


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def gpu():
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == "0x10de" for vendor in vendors)


def check():
    """What the program says of the GPUs; without any it can say nothing good."""
    command = ["gpu-mig", "check", str(FILE), NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1:] if done.returncode else []


def unit():
    fields = ("ActiveState", "ExecStart", "Before")
    return {
        "enabled": say("systemctl", "is-enabled", "gpu-mig.service"),
        **{
            name: say("systemctl", "show", "--value", "-p", name, "gpu-mig.service")
            for name in fields
        },
    }


ASKED = {
    "check": check,
    "configs": lambda: json.loads(FILE.read_text(encoding="utf-8"))["mig-configs"],
    "gpu": gpu,
    "unit": unit,
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
