"""What the checks ask about NCCL, in one go; prints JSON."""

import ctypes
import json
import subprocess
from pathlib import Path

STATES = (
    "dpkg-query",
    "--show",
    "--showformat",
    "${db:Status-Status} ${db:Status-Want} ${Package} ${Version}\n",
)
SETTINGS = Path("/etc/nccl.conf")


def packages():
    """Name: version, and whether it is held. Not from apt-mark: apt makes caches."""
    said = subprocess.run(STATES, capture_output=True, text=True, check=True).stdout
    rows = (line.split(" ") for line in said.splitlines())
    return {name: [version, want] for state, want, name, version in rows if state == "installed"}


def version():
    """What the library says about itself, as 22203 for 2.22.3; no GPU is asked."""
    number = ctypes.c_int()
    status = ctypes.CDLL("libnccl.so.2").ncclGetVersion(ctypes.byref(number))
    return number.value if status == 0 else f"error: ncclGetVersion returned {status}"


def settings():
    lines = SETTINGS.read_text(encoding="utf-8").splitlines() if SETTINGS.exists() else []
    return [line for line in lines if not line.startswith("#")]


ASKED = {"packages": packages, "settings": settings, "version": version}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
