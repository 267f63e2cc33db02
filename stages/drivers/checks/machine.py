"""What the checks ask of a machine with the driver, in one go; see the base stage's machine.py."""

import hashlib
import json
import lzma
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MODULES = [
    f"{name}{part}"
    for name in ("nvidia", "nvidia-current", "nvidia-current-open")
    for part in ("", "-uvm", "-modeset", "-drm", "-peermem")
]
FIELDS = ("filename", "version", "vermagic", "license", "signer")
HOLDS = ("dpkg-query", "--show", "--showformat", "${db:Status-Want} ${Package}\n")
VERSIONS = ("dpkg-query", "--show", "--showformat", "${Package} ${Version}\n")
SOURCES = ("dpkg-query", "--show", "--showformat", "${Package} ${source:Package} ${Version}\n")
INSTALLED = ("dpkg-query", "--show", "--showformat", "${Package} ${Architecture}\n")
# What the driver's packages are built from: the user's part and the firmware, and the open module.
DRIVER_SOURCES = ("nvidia-graphics-drivers", "nvidia-open-gpu-kernel-modules")
# No cache of apt's own, as in the base stage; and an index that nobody signed.
UPGRADE = (
    "apt-get", "--simulate", "--option", "Dir::Cache::pkgcache=", "--option",
    "Dir::Cache::srcpkgcache=", "upgrade", "--with-source",
)  # fmt: skip
MODPROBE = Path("/etc/modprobe.d")
MODPROBE_FOLDERS = (MODPROBE, Path("/usr/lib/modprobe.d"))
FIRMWARE = Path("/lib/firmware/nvidia")
# What the loader knows of a GPU; wheels bring their own, which it does not know.
LIBRARY = re.compile(
    r"^\s*(lib(?:cuda|cudart|cudnn|cublas|nccl|nvrtc|nvidia)[-\w]*\.so\S*) .*=> (\S+)", re.MULTILINE
)
# What a signed module ends with, and how DKMS packs modules.
MAGIC = b"~Module signature appended~\n"
PACK = ("xz", "--check=crc32", "--lzma2=dict=1MiB", "--stdout")


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


def module(name):
    """One call for all fields: each unpacks the module, and the driver's has 40 MB."""
    said = say("modinfo", "-k", boot_kernel(), name)
    found = {field: re.search(rf"^{field}: *(.*)$", said, re.MULTILINE) for field in FIELDS}
    return {field: match.group(1) if match else "" for field, match in found.items()}


def modules():
    return {name: module(name) for name in MODULES}


def configuration():
    return say("modprobe", "--showconfig", "--set-version", boot_kernel()).splitlines()


def libraries(name):
    """The files that the loader would take for a library."""
    cached = re.findall(rf"^\s*{name}\.so\.1 .*=> (\S+)", say("ldconfig", "-p"), re.MULTILINE)
    return sorted({Path(path).resolve().name for path in cached})


def linked():
    """The GPU's libraries as the loader finds them, and what they lack."""
    cached = LIBRARY.findall(say("ldconfig", "-p"))
    needs = {name: say("ldd", path).splitlines() for name, path in cached}
    lacking = {
        name: [line.strip() for line in lines if "not found" in line]
        for name, lines in needs.items()
    }
    return {
        "names": [name for name, _ in cached],
        "lacking": {name: lines for name, lines in lacking.items() if lines},
        "unread": [
            name for name, lines in needs.items() if not any("libc.so" in one for one in lines)
        ],
    }


def driver_packages():
    """Versions of all that is built from the driver's sources, whoever asked for it."""
    lines = (line.split(" ") for line in say(*SOURCES).splitlines())
    return {name: version for name, source, version in lines if source.startswith(DRIVER_SOURCES)}


def upgraded():
    """What an upgrade would touch if there were something newer of every package.

    The lists are gone from a sealed image, and an archive in which nothing is newer proves nothing.
    """
    lines = (line.split(" ") for line in say(*INSTALLED).splitlines())
    newer = [
        f"Package: {name}\nArchitecture: {architecture}\nVersion: 9999:1\nFilename: {name}.deb\n"
        f"Size: 1\nSHA256: {64 * '0'}\n"
        for name, architecture in lines
    ]
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder, "Packages")
        index.write_text("\n".join(newer))
        # It writes down what it planned, and a log is what hygiene looks for.
        logs = ("--option", f"Dir::Log={folder}")
        done = subprocess.run([*UPGRADE, index, *logs], capture_output=True, text=True, check=True)
    return sorted(re.findall(r"^Inst (\S+)", done.stdout, re.MULTILINE))


def blacklists():
    return [path for path in sorted(MODPROBE.iterdir()) if "nouveau" in path.read_text()]


def modprobe_changed():
    """When modprobe's files changed last. Of its folders too: what is removed leaves no file."""
    paths = [path for folder in MODPROBE_FOLDERS if folder.exists() for path in folder.iterdir()]
    folders = [folder for folder in MODPROBE_FOLDERS if folder.exists()]
    times = [path.lstat().st_mtime for path in (*paths, *folders)]
    return max(times + [path.stat().st_mtime for path in paths])


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
    words = [line for path in files for line in path.read_text().split()]
    return [word for word in words if "nvidia" in word or "nouveau" in word]


def gpu_aliases():
    """What modprobe would load for a data-centre GPU that udev found (an H100, by its PCI ids)."""
    found = "pci:v000010DEd00002330sv000010DEsd000016C1bc03sc02i00"
    return say("modprobe", "--resolve-alias", "--set-version", boot_kernel(), found).split()


def nouveau_loads():
    """What modprobe would do when udev asks for nouveau: nothing, or what it says."""
    command = ("modprobe", "--dry-run", "--verbose", "--use-blacklist", "--set-version")
    return say(*command, boot_kernel(), "nouveau").splitlines()


def alternative():
    """The flavour that links, libraries and modprobe's configuration are of; Ubuntu has none."""
    said = say("update-alternatives", "--query", "nvidia")
    found = re.search(r"^Value: (.*)$", said, re.MULTILINE)
    return found.group(1) if found else ""


def markers():
    """What the modules that DKMS has were built for, and which of their files are not those."""
    return [marker(path.parent) for path in Path("/var/lib/dkms").glob("*/*/*/*/marker.json")]


def marker(folder):
    says = json.loads((folder / "marker.json").read_text(encoding="utf-8"))
    return {
        "at": str(folder.relative_to("/var/lib/dkms").parent),
        "says": {name: said for name, said in says.items() if name != "built_with"},
        **compared(folder),
    }


def compared(folder):
    """Which modules are not those that were built; which are, and were signed since."""
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: built for built, name in (line.split("  ", 1) for line in lines)}
    here = {f"module/{path.name}": path for path in (folder / "module").iterdir()}
    known = {name: path for name, path in here.items() if name in listed}
    same = {name for name, path in known.items() if sha256(path.read_bytes()) == listed[name]}
    others = known.keys() - same
    signed = {name for name in others if sha256(unsigned(known[name])) == listed[name]}
    return {
        "changed": sorted((listed.keys() | here.keys()) - same - signed),
        "signed": sorted(signed),
    }


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def unsigned(path):
    """A module as DKMS built it, with the signature left out that it got since."""
    content = path.read_bytes()
    module = lzma.decompress(content) if path.suffix == ".xz" else content
    if not module.endswith(MAGIC):
        return content
    end = len(module) - len(MAGIC) - 12
    bare = module[: end - int.from_bytes(module[end + 8 : end + 12], "big")]
    if path.suffix != ".xz":
        return bare
    return subprocess.run(PACK, input=bare, capture_output=True, check=True).stdout


def held():
    """Not from apt-mark: apt makes caches, which would be taken for leftovers of the build."""
    wants = (line.split(" ") for line in say(*HOLDS).splitlines())
    return [name for want, name in wants if want == "hold"]


ASKED = {
    "alternative": alternative,
    "blacklisted": lambda: "blacklist nouveau" in configuration(),
    "blacklists": lambda: [path.name for path in blacklists()],
    "dkms": lambda: say("dkms", "status").splitlines(),
    "driver_packages": driver_packages,
    "firmware": lambda: sorted(path.name for path in FIRMWARE.glob("[0-9]*")),
    "firmware_files": lambda: sorted(path.name for path in FIRMWARE.glob("[0-9]*/gsp_*.bin")),
    "gpu": gpu,
    "gpu_aliases": gpu_aliases,
    "held": held,
    "initramfs": in_initramfs,
    "kernel": boot_kernel,
    "loaded_at_boot": loaded_at_boot,
    "linked": linked,
    "libcuda": lambda: libraries("libcuda"),
    "libnvidia-ml": lambda: libraries("libnvidia-ml"),
    "markers": markers,
    "modprobe": lambda: [line for line in configuration() if line.startswith("install nvidia ")],
    "modprobe_changed": modprobe_changed,
    "modules": modules,
    "mok": mok,
    "nouveau_loads": nouveau_loads,
    "packages": lambda: dict(line.split(" ") for line in say(*VERSIONS).splitlines()),
    "upgraded": upgraded,
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


def answers():
    """All at once, as each waits for programs: none of them writes what another one looks at."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(ASKED, pool.map(answer, ASKED.values()), strict=True))


print(json.dumps(answers()))  # noqa: T201 - its result
