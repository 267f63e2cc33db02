"""The drivers: the module fits the kernel that boots, and every part is of one version.

None of it needs a GPU. Where one is present, the driver must see it.
"""

import json

import pytest

MODULES = {"proprietary": "nvidia-current", "open": "nvidia-current-open"}
LICENCES = {"proprietary": "NVIDIA", "open": "Dual MIT/GPL"}
PARTS = ["", "-uvm", "-modeset"]

ASK = r"""
import glob, json, os, re, subprocess

def say(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()

def boot_kernel():
    with open("/boot/grub/grub.cfg") as file:
        found = re.search(r"^\s*linux(?:efi)?\s+(\S+)", file.read(), re.MULTILINE)
    image = found.group(1)
    image = image if image.startswith("/boot/") else "/boot" + image
    return os.path.basename(os.path.realpath(image)).removeprefix("vmlinuz-")

kernel = boot_kernel()

def module(name):
    fields = ["filename", "version", "vermagic", "license", "signer"]
    return {field: say("modinfo", "-k", kernel, "-F", field, name) for field in fields}

def libraries(pattern):
    folder = "/usr/lib/x86_64-linux-gnu"
    found = glob.glob(folder + "/" + pattern) + glob.glob(folder + "/nvidia/current/" + pattern)
    return sorted({os.path.basename(os.path.realpath(path)) for path in found})

names = [base + part for base in ("nvidia-current", "nvidia-current-open") for part in ("", "-uvm", "-modeset")]
configuration = say("modprobe", "-c", "-S", kernel).splitlines()
initramfs = say("lsinitramfs", "/boot/initrd.img-" + kernel).splitlines()
blacklists = sorted(path for path in glob.glob("/etc/modprobe.d/*") if "nouveau" in open(path).read())
print(json.dumps({
    "kernel": kernel,
    "modules": {name: module(name) for name in names},
    "dkms": say("dkms", "status").splitlines(),
    "install_lines": [line for line in configuration if line.startswith("install nvidia")],
    "blacklisted": "blacklist nouveau" in configuration,
    "blacklists": [os.path.basename(path) for path in blacklists],
    "initramfs_blacklists": sorted(os.path.basename(path) for path in initramfs if "modprobe.d/" in path),
    "initramfs_nouveau": [path for path in initramfs if re.search(r"/nouveau\.ko", path)],
    "initramfs_age": os.stat("/boot/initrd.img-" + kernel).st_mtime,
    "blacklist_age": max(os.stat(path).st_mtime for path in blacklists) if blacklists else None,
    "libcuda": libraries("libcuda.so.*"),
    "libnvidia_ml": libraries("libnvidia-ml.so.*"),
    "firmware": sorted(os.path.basename(path) for path in glob.glob("/lib/firmware/nvidia/[0-9]*")),
    "firmware_files": sorted(os.path.basename(path) for path in glob.glob("/lib/firmware/nvidia/[0-9]*/gsp_*.bin")),
    "packages": dict(line.split(" ") for line in say(
        "dpkg-query", "--show", "--showformat", "${Package} ${Version}\n").splitlines()),
    "held": say("apt-mark", "showhold").split(),
    "mok": sorted(glob.glob("/var/lib/dkms/mok.*") + glob.glob("/var/lib/shim-signed/mok/*")),
    "persistenced_enabled": say("systemctl", "is-enabled", "nvidia-persistenced"),
    "persistenced_state": say("systemctl", "show", "-P", "ActiveState", "nvidia-persistenced"),
    "loaded_at_boot": [path for path in glob.glob("/etc/modules-load.d/*") if "nouveau" in open(path).read()],
    "gpu": any("0x10de" in open(path).read() for path in glob.glob("/sys/bus/pci/devices/*/vendor")),
}))
"""

# ctypes calls into the real libraries: what a program that uses CUDA would do first.
CUDA = r"""
import ctypes, json

said = {}
cuda = ctypes.CDLL("libcuda.so.1")
number = ctypes.c_int()
said["driver_status"] = cuda.cuDriverGetVersion(ctypes.byref(number))
said["driver"] = number.value
said["init"] = cuda.cuInit(0)
cudart = ctypes.CDLL("libcudart.so.12")
number = ctypes.c_int()
said["runtime_status"] = cudart.cudaRuntimeGetVersion(ctypes.byref(number))
said["runtime"] = number.value

nvrtc = ctypes.CDLL("libnvrtc.so.12")
SOURCE = b'extern "C" __global__ void scale(float *x, float by) { x[threadIdx.x] *= by; }'

def compile_for(arch):
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE, b"scale.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 1)(b"--gpu-architecture=sm_%d" % arch)
    status = nvrtc.nvrtcCompileProgram(program, 1, options)
    size = ctypes.c_size_t()
    cubin = b""
    if status == 0:
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, buffer)
        cubin = buffer.raw
    return {"status": status, "elf": cubin[:4] == b"\x7fELF", "named": b"scale" in cubin}

said["compiled"] = {arch: compile_for(arch) for arch in (75, 80, 86, 89, 90, 120)}
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says about its driver."""
    return json.loads(host.check_output("python3 -c %s", ASK))


@pytest.fixture(scope="module")
def cuda(host):
    """What CUDA's libraries say."""
    return json.loads(host.check_output("python3 -c %s", CUDA))


@pytest.fixture(scope="module")
def version(expected):
    """The version without Debian's revision, as modules and libraries carry it."""
    return expected["nvidia_driver_version"].rsplit("-", 1)[0]


@pytest.fixture(scope="module")
def flavour(expected):
    """Which kernel module was asked for."""
    return expected.get("nvidia_driver_flavour", "proprietary")


@pytest.mark.parametrize("part", PARTS)
def test_module_is_there_for_the_kernel_that_boots(machine, version, flavour, part):
    module = machine["modules"][MODULES[flavour] + part]
    assert module["filename"].startswith(f"/lib/modules/{machine['kernel']}/")
    assert module["version"] == version
    assert module["vermagic"].split()[0] == machine["kernel"]
    assert module["license"] == LICENCES[flavour]


def test_dkms_installed_it_for_that_kernel(machine, version, flavour):
    assert machine["dkms"], "dkms knows no module"
    for line in machine["dkms"]:
        assert line.endswith(": installed"), line
    assert f"{MODULES[flavour]}/{version}, {machine['kernel']}, x86_64: installed" in machine["dkms"]


def test_modprobe_would_load_a_module_that_exists(machine):
    targets = [line.split()[4] for line in machine["install_lines"] if line.split()[1] == "nvidia"]
    assert targets, "modprobe knows no nvidia"
    for target in targets:
        assert machine["modules"][target]["filename"], f"{target} does not exist"


def test_all_parts_are_of_one_version(machine, version):
    assert machine["libcuda"] == [f"libcuda.so.{version}"]
    assert machine["libnvidia_ml"] == [f"libnvidia-ml.so.{version}"]
    assert machine["firmware"] == [version]
    assert machine["firmware_files"] == ["gsp_ga10x.bin", "gsp_tu10x.bin"]


def test_packages_are_at_their_version_and_held(machine, expected):
    pinned = {
        "nvidia-kernel-dkms": expected["nvidia_driver_version"],
        "libcuda1": expected["nvidia_driver_version"],
        "nvidia-smi": expected["nvidia_driver_version"],
        "libnvidia-ml1": expected["nvidia_driver_version"],
        "firmware-nvidia-gsp": expected["nvidia_driver_version"],
        "nvidia-persistenced": expected["nvidia_persistenced_version"],
        **dict.fromkeys(expected["cuda_runtime_packages"], expected["cuda_runtime_version"]),
    }
    if expected.get("nvidia_driver_flavour") == "open":
        pinned["nvidia-open-kernel-dkms"] = pinned.pop("nvidia-kernel-dkms")
    assert {name: machine["packages"].get(name) for name in pinned} == pinned
    assert pinned.keys() - set(machine["held"]) == set()


def test_nouveau_is_off(machine):
    assert machine["blacklisted"]
    assert machine["loaded_at_boot"] == []


def test_nouveau_is_off_in_the_initramfs(machine):
    assert "nouveau-blacklist.conf" in machine["initramfs_blacklists"]
    assert set(machine["blacklists"]) - set(machine["initramfs_blacklists"]) == set()
    assert machine["initramfs_nouveau"] == []
    assert machine["initramfs_age"] >= machine["blacklist_age"]


def test_no_key_for_signing_modules_is_in_the_image(machine):
    assert machine["mok"] == []


def test_persistenced_is_enabled_and_did_not_fail(machine):
    assert machine["persistenced_enabled"] == "enabled"
    assert machine["persistenced_state"] == ("active" if machine["gpu"] else "inactive")


def test_driver_library_speaks_cuda_12_4(cuda):
    assert cuda["driver_status"] == 0
    assert cuda["driver"] == 12040


def test_runtime_is_not_newer_than_the_driver(cuda):
    assert cuda["runtime_status"] == 0
    assert cuda["runtime"] == 12040
    assert cuda["runtime"] <= cuda["driver"]


def test_cuda_finds_the_gpu_if_there_is_one(cuda, machine):
    if machine["gpu"]:
        assert cuda["init"] == 0
    else:
        # CUDA_ERROR_NO_DEVICE where the library asks the bus, CUDA_ERROR_UNKNOWN without /dev.
        assert cuda["init"] != 0


@pytest.mark.parametrize("arch", [75, 80, 86, 89, 90])
def test_nvrtc_compiles_for(cuda, arch):
    assert cuda["compiled"][str(arch)] == {"status": 0, "elf": True, "named": True}


def test_nvrtc_knows_its_limits(cuda):
    # Blackwell came with CUDA 12.8: a compiler that claims to know it is not the one that was asked for.
    assert cuda["compiled"]["120"]["status"] != 0
