"""What waits for the first boot with a GPU, asked in one go; see the base stage's machine.py."""

import json
import subprocess
import tempfile
from pathlib import Path

UNIT = "first-boot-gpu-check.service"
RESULTS = Path("/var/lib/vaultbuild/gpu-check.json")


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def gpu():
    """Whether a GPU is there, by the PCI classes of displays: NVSwitches are of another one."""
    devices = (vendor.parent for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"))
    return any(
        (device / "vendor").read_text().strip() == "0x10de"
        and (device / "class").read_text().startswith("0x03")
        for device in devices
    )


def ran():
    """Let the program run now; return how it ended, what it said and what it wrote."""
    with tempfile.TemporaryDirectory() as name:
        papers = ["--json", f"{name}/gpu.json", "--junit", f"{name}/gpu.xml"]
        command = ["gpu-check", "--expect", "/etc/vaultbuild/gpu-check.json", *papers]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return {
            "status": done.returncode,
            "said": done.stderr.strip(),
            "outcome": json.loads(Path(name, "gpu.json").read_text())["outcome"],
            "junit": Path(name, "gpu.xml").read_text(),
        }


def unit():
    names = ("ActiveState", "Result", "After")
    shown = say("systemctl", "show", *(f"--property={name}" for name in names), UNIT)
    said = dict(line.split("=", 1) for line in shown.splitlines())
    return {"enabled": say("systemctl", "is-enabled", UNIT), **said}


ASKED = {
    "expected": lambda: json.loads(Path("/etc/vaultbuild/gpu-check.json").read_text()),
    "gpu": gpu,
    "ran": ran,
    "results": lambda: json.loads(RESULTS.read_text())["outcome"] if RESULTS.exists() else "none",
    "unit": unit,
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
