"""What the checks ask of podman, in one go; prints JSON.

Containers are started without a network and without an image, on the machine's own /usr.
"""

import json
import subprocess
import tempfile
from pathlib import Path

KIND = "check.vaultbuild.invalid/gpu"
# Shown to whoever is given the device, as the variable of a GPU would be.
DEVICE = {"name": "all", "containerEdits": {"env": ["CHECK_DEVICE=given"]}}
SPECIFICATION = {"cdiVersion": "0.3.0", "kind": KIND, "devices": [DEVICE]}
INSIDE = 'echo "$CHECK_DEVICE $(ulimit -H -l) $(df -B1 --output=size /dev/shm | tail -n 1)"'
UNITS = (
    "podman-auto-update.timer",
    "podman-restart.service",
    "podman.socket",
)


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def info():
    """What podman works with; it says nothing where its configuration is wrong."""
    said = json.loads(say("podman", "info", "--format", "json"))
    host, store = said["host"], said["store"]
    return {
        "groups": host["cgroupManager"],
        "logs": host["logDriver"],
        "network": host["networkBackend"],
        "root": store["graphRoot"],
        "runtime": host["ociRuntime"]["name"],
        "storage": store["graphDriverName"],
    }


def root(folder):
    """An empty root file system that borrows the machine's programs."""
    for name in ("bin", "lib", "lib64"):
        Path(folder, name).symlink_to(f"usr/{name}")
    for name in ("usr", "dev", "proc", "sys"):
        Path(folder, name).mkdir()
    return folder


def run(device):
    """Run a container that is given a device; return how that ended and what it said."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["podman", "run", "--rm", "--network=none", "--log-driver=none",
             f"--device={KIND}={device}", "--volume=/usr:/usr:ro",
             "--rootfs", root(folder), "/usr/bin/bash", "-c", INSIDE],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return {"status": done.returncode, "output": done.stdout.split(), "said": done.stderr}


def devices():
    """Ask for a device that a specification describes, and for one that none does."""
    path = Path("/run/cdi/check.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(SPECIFICATION))
    try:
        return {"known": run("all"), "unknown": run("none")}
    finally:
        path.unlink()


ASKED = {
    "container": lambda: say("systemd-detect-virt", "--container"),
    "devices": devices,
    "enabled": lambda: {unit: say("systemctl", "is-enabled", unit) for unit in UNITS},
    "info": info,
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
