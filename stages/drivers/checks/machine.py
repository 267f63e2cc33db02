"""What the checks ask of a machine with the driver, in one go; see the base stage's machine.py."""

import json
import re
import subprocess
from pathlib import Path

MODULES = [
    f"{name}{part}"
    for name in ("nvidia-current", "nvidia-current-open")
    for part in ("", "-uvm", "-modeset")
]
FIELDS = ("filename", "version", "vermagic", "license")
HOLDS = ("dpkg-query", "--show", "--showformat", "${db:Status-Want} ${Package}\n")
VERSIONS = ("dpkg-query", "--show", "--showformat", "${Package} ${Version}\n")
MODPROBE = Path("/etc/modprobe.d")
FIRMWARE = Path("/lib/firmware/nvidia")


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def boot_kernel():
    """The kernel in the first menu entry, never the one that runs: a build may be a container."""
    menu = Path("/boot/grub/grub.cfg").read_text(encoding="utf-8")
    image = re.search(r"^\s*linux(?:efi)?\s+(\S+)", menu, re.MULTILINE).group(1)
    return Path("/boot", Path(image).name).resolve().name.removeprefix("vmlinuz-")


def initramfs():
    return Path(f"/boot/initrd.img-{boot_kernel()}")


def modules():
    kernel = boot_kernel()
    return {
        name: {field: say("modinfo", "-k", kernel, "-F", field, name) for field in FIELDS}
        for name in MODULES
    }


def configuration():
    return say("modprobe", "--showconfig", "--set-version", boot_kernel()).splitlines()


def libraries(name):
    """The files that the loader would take for a library."""
    cached = re.findall(rf"^\s*{name}\.so\.1 .*=> (\S+)", say("ldconfig", "-p"), re.MULTILINE)
    return sorted({Path(path).resolve().name for path in cached})


def blacklists():
    return [path for path in sorted(MODPROBE.iterdir()) if "nouveau" in path.read_text()]


def in_initramfs():
    listed = [Path(line) for line in say("lsinitramfs", str(initramfs())).splitlines()]
    return {
        "blacklists": [path.name for path in listed if path.parent.name == "modprobe.d"],
        "nouveau": [path.name for path in listed if path.name.startswith("nouveau.ko")],
        "made": initramfs().stat().st_mtime,
    }


def mok():
    ours = Path("/var/lib/dkms").glob("mok.*")
    shims = Path("/var/lib/shim-signed/mok").glob("*")
    return [str(path) for path in (*ours, *shims)]


def gpu():
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text().strip() == "0x10de" for vendor in vendors)


def loaded_at_boot():
    files = [*Path("/etc/modules-load.d").iterdir(), *Path("/usr/lib/modules-load.d").glob("*")]
    return [line for path in files for line in path.read_text().split() if "nvidia" in line]


def gpu_aliases():
    """What modprobe would load for a data-centre GPU that udev found (an H100, by its PCI ids)."""
    found = "pci:v000010DEd00002330sv000010DEsd000016C1bc03sc02i00"
    return say("modprobe", "--resolve-alias", "--set-version", boot_kernel(), found).split()


def persistenced():
    unit = "nvidia-persistenced.service"
    return {
        "enabled": say("systemctl", "is-enabled", unit),
        "state": say("systemctl", "show", "--value", "-p", "ActiveState", unit),
    }


def held():
    """Not from apt-mark: apt makes caches, which would be taken for leftovers of the build."""
    wants = (line.split(" ") for line in say(*HOLDS).splitlines())
    return [name for want, name in wants if want == "hold"]


ASKED = {
    "blacklisted": lambda: "blacklist nouveau" in configuration(),
    "blacklists": lambda: [path.name for path in blacklists()],
    "blacklists_made": lambda: max(path.stat().st_mtime for path in blacklists()),
    "dkms": lambda: say("dkms", "status").splitlines(),
    "firmware": lambda: sorted(path.name for path in FIRMWARE.glob("[0-9]*")),
    "firmware_files": lambda: sorted(path.name for path in FIRMWARE.glob("[0-9]*/gsp_*.bin")),
    "gpu": gpu,
    "gpu_aliases": gpu_aliases,
    "held": held,
    "initramfs": in_initramfs,
    "kernel": boot_kernel,
    "loaded_at_boot": loaded_at_boot,
    "libcuda": lambda: libraries("libcuda"),
    "libnvidia-ml": lambda: libraries("libnvidia-ml"),
    "modprobe": lambda: [line for line in configuration() if line.startswith("install nvidia ")],
    "modules": modules,
    "mok": mok,
    "packages": lambda: dict(line.split(" ") for line in say(*VERSIONS).splitlines()),
    "persistenced": persistenced,
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
