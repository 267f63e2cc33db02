"""The drivers: the module fits the kernel that boots, and every part is of one version.

None of it needs a GPU. Where one is present, the driver must see it. The services are those of
test_services.py.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

# Files, and what CUDA says without a GPU: no boot changes them. DKMS alone takes half a minute to
# say in emulation what it has, and compiling takes minutes.
pytestmark = [pytest.mark.if_used("nvidia_driver", "nvidia"), pytest.mark.anywhere]
HERE = Path(__file__).parent
MODULES = {"proprietary": "nvidia-current", "open": "nvidia-current-open"}
PACKAGES = {"proprietary": "nvidia-kernel-dkms", "open": "nvidia-open-kernel-dkms"}
ALTERNATIVES = {"proprietary": "/usr/lib/nvidia/current", "open": "/usr/lib/nvidia/current-open"}
LICENCES = {"proprietary": "NVIDIA", "open": "Dual MIT/GPL"}
PARTS = ("", "-uvm", "-modeset", "-drm", "-peermem")
# The first CUDA with code for it.
BLACKWELL = 12080
CUDA_12 = 12000


def ask(host, program, *arguments):
    """Run a program in the guest; return what it says."""
    words = " ".join(["%s"] * len(arguments))
    done = host.run(f"python3 -c %s {words}", (HERE / program).read_text(), *arguments)
    if done.rc:
        pytest.fail(f"{program} gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says about its driver."""
    return ask(host, "machine.py")


def library_of(package):
    """A library's name, and how the loader calls it, from the name of its package."""
    # NVIDIA's: cuda-nvrtc-12-8. Debian calls it by what the loader calls it: libnvrtc11.2.
    if found := re.fullmatch("cuda-([a-z]+)-([0-9]+)-[0-9]+", package):
        return f"lib{found[1]}", f"lib{found[1]}.so.{found[2]}"
    if found := re.fullmatch("(.*?)-?([0-9.]+|[0-9]+-[0-9]+)", package):
        return found[1], f"{found[1]}.so.{found[2]}"
    return package, package


def if_cuda_has(library):
    """For checks that are about a library of the role cuda_runtime."""
    return pytest.mark.if_used(
        "cuda_runtime",
        where=lambda use: library in dict(map(library_of, use["cuda_runtime_packages"])),
    )


@pytest.fixture(scope="module")
def cuda_packages(uses):
    """The packages of CUDA with their versions, of all uses of the role."""
    return {
        name: use["cuda_runtime_version"]
        for use in uses("cuda_runtime")
        for name in use["cuda_runtime_packages"]
    }


@pytest.fixture(scope="module")
def libraries(cuda_packages):
    """CUDA's runtime and its compiler, as the loader knows them; "" for what is left out."""
    found = dict(map(library_of, cuda_packages))
    return [found.get(name, "") for name in ("libcudart", "libnvrtc")]


@pytest.fixture(scope="module")
def cuda(host, libraries, gpus):
    """What CUDA's libraries say."""
    return ask(host, "cuda.py", *libraries, *map(str, sorted({*gpus.values()})))


@pytest.fixture(scope="module")
def toolkit(expected):
    """The CUDA that was asked for, as its libraries write it."""
    major, minor = expected["cuda_runtime_version"].split(".")[:2]
    return int(major) * 1000 + int(minor) * 10


@pytest.fixture(scope="module")
def version(expected):
    """The version without Debian's revision, as modules and libraries carry it."""
    return expected["nvidia_driver_version"].rsplit("-", 1)[0]


@pytest.fixture(scope="module")
def flavour(expected):
    """Which kernel module was asked for."""
    return expected.get("nvidia_driver_flavour", "proprietary")


def in_debian(expected, flavour, uses):
    """How the role nvidia_driver knows the driver."""
    parts = [PACKAGES[flavour], "firmware-nvidia-gsp", "libcuda1", "libnvidia-ml1", "nvidia-smi"]
    pinned = dict.fromkeys(parts, expected["nvidia_driver_version"])
    for use in uses("nvidia_persistenced"):
        pinned["nvidia-persistenced"] = use["nvidia_persistenced_version"]
    return SimpleNamespace(
        module=MODULES[flavour],
        dkms=MODULES[flavour],
        marks=True,
        alternative=ALTERNATIVES[flavour],
        loads_itself=[],
        least={"firmware-nvidia-gsp", "libcuda1"},
        pinned=pinned,
    )


def in_ubuntu(expected, flavour, _):
    """How the role nvidia knows it: one name for the modules of both flavours."""
    series = expected["nvidia_driver_series"]
    ending = f"{series}-open" if flavour == "open" else series
    parts = [f"nvidia-dkms-{ending}", f"nvidia-kernel-source-{ending}"]
    parts += expected["nvidia_driver_packages"]
    return SimpleNamespace(
        module="nvidia",
        dkms="nvidia-srv" if series.endswith("-server") else "nvidia",
        marks=False,
        alternative="",
        loads_itself=["nvidia"],
        least={f"libnvidia-compute-{series}"},
        pinned=dict.fromkeys(parts, expected["nvidia_driver_version"]),
    )


@pytest.fixture(scope="module")
def driver(uses, expected, flavour):
    """What the driver's module and packages are called."""
    return (in_ubuntu if uses("nvidia") else in_debian)(expected, flavour, uses)


@pytest.mark.parametrize("part", PARTS)
def test_module_is_there_for_the_kernel_that_boots(machine, version, driver, part):
    module = machine["modules"][driver.module + part]
    assert module["filename"].startswith(f"/lib/modules/{machine['kernel']}/")
    assert module["version"] == version
    assert module["vermagic"].split()[0] == machine["kernel"]


def test_module_is_of_the_flavour_asked_for(machine, driver, flavour):
    assert machine["modules"][driver.module]["license"] == LICENCES[flavour]


@pytest.fixture(scope="module")
def signers(uses):
    """Whose name a module's signature has: that of secure_boot's certificate, or nobody's."""
    paths = [Path(use["secure_boot_certificate"]) for use in uses("secure_boot")]
    return {name_in(path.read_bytes()) for path in paths} or {""}


def name_in(certificate):
    """The name that a certificate gives to the owner of its key."""
    subject = x509.load_der_x509_certificate(certificate).subject
    return subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value


@pytest.mark.parametrize("part", PARTS)
def test_module_is_signed_by_nobody_else(machine, driver, signers, part):
    # DKMS would have made a key that signs it, and left it in the image.
    assert machine["modules"][driver.module + part]["signer"] in signers


def test_dkms_has_nothing_but_that_module(machine, version, driver):
    wanted = f"{driver.dkms}/{version}, {machine['kernel']}, x86_64: installed"
    assert machine["dkms"] == [wanted]


def test_module_is_what_its_marker_says(machine, version, driver, flavour, expected, uses):
    # It may have been built for an earlier image, and carried in.
    files = [Path(machine["modules"][driver.module + part]["filename"]).name for part in PARTS]
    wanted = {
        "at": f"{driver.dkms}/{version}/{machine['kernel']}",
        "says": {
            "kernel": machine["kernel"],
            "driver": expected["nvidia_driver_version"],
            "flavour": flavour,
        },
        "changed": [],
        "signed": sorted(f"module/{name}" for name in files) if uses("secure_boot") else [],
    }
    assert machine["markers"] == ([wanted] if driver.marks else [])


def test_modprobe_would_load_a_module_that_exists(machine, driver):
    # Debian: install nvidia modprobe -i nvidia-current $CMDLINE_OPTS
    targets = [line.split()[4] for line in machine["modprobe"]] or driver.loads_itself
    assert targets, "modprobe does not know how to load nvidia"
    assert [name for name in targets if not machine["modules"][name]["filename"]] == []


def test_alternatives_are_of_the_flavour_asked_for(machine, driver):
    # A flavour that was replaced by the other may leave its links behind, with the higher priority.
    assert machine["alternative"] == driver.alternative


def test_driver_is_loaded_for_a_gpu_and_only_then(machine, uses):
    assert "nvidia" in machine["gpu_aliases"]
    # No bus tells that it is wanted: the role rdma loads it where it was asked to.
    asked = ["nvidia-peermem" for use in uses("rdma") if use["rdma_nvidia_peermem"]]
    assert machine["loaded_at_boot"] == asked


def test_all_parts_are_of_one_version(machine, version):
    assert machine["libcuda"] == [f"libcuda.so.{version}"]
    assert machine["libnvidia-ml"] == [f"libnvidia-ml.so.{version}"]
    assert machine["firmware"] == [version]
    assert machine["firmware_files"] == ["gsp_ga10x.bin", "gsp_tu10x.bin"]


def test_every_package_of_the_driver_is_of_one_version(machine, driver, expected):
    found = machine["driver_packages"]
    assert driver.least - found.keys() == set()
    assert set(found.values()) == {expected["nvidia_driver_version"]}


def test_an_upgrade_leaves_what_is_pinned_alone(machine):
    kept = {*machine["held"], *machine["driver_packages"]}
    assert kept & set(machine["upgraded"]) == set()
    assert "base-files" in machine["upgraded"], "the upgrade would touch nothing at all"


def test_packages_are_pinned_and_held(machine, driver, cuda_packages):
    pinned = {**driver.pinned, **cuda_packages}
    assert {name: machine["packages"].get(name) for name in pinned} == pinned
    assert pinned.keys() - set(machine["held"]) == set()


def test_nouveau_is_off(machine):
    assert machine["blacklisted"] is True
    assert machine["nouveau_loads"] == []


def test_nouveau_is_off_in_the_initramfs(machine, uses):
    inside = machine["initramfs"]
    asked = {"nouveau-blacklist.conf"} if uses("nouveau_blacklist") else set()
    assert asked - set(machine["blacklists"]) == set()
    assert set(machine["blacklists"]) - set(inside["blacklists"]) == set()
    assert inside["nouveau"] == []


def test_initramfs_knows_what_modprobe_knows(machine):
    assert machine["initramfs"]["made"] >= machine["modprobe_changed"]


def test_no_key_for_signing_modules_is_in_the_image(machine):
    assert machine["mok"] == []


def test_libraries_find_what_they_need(machine, libraries):
    linked = machine["linked"]
    assert {"libcuda.so.1", *filter(None, libraries)} - set(linked["names"]) == set()
    assert linked["lacking"] == {}
    assert linked["unread"] == []


def test_libcuda_is_known_once(machine):
    assert machine["linked"]["names"].count("libcuda.so.1") == 1


def test_driver_library_speaks_the_cuda_of_its_branch(cuda, driver_cuda):
    assert cuda["driver"] == {"status": 0, "version": driver_cuda}


@if_cuda_has("libcudart")
def test_runtime_is_not_newer_than_the_driver(cuda, toolkit):
    # The runtime of CUDA 11 asks for a device first, and says what the driver says of that.
    silent = toolkit < CUDA_12 and cuda["init"] != 0
    told = {"status": cuda["init"], "version": 0} if silent else {"status": 0, "version": toolkit}
    assert cuda["runtime"] == {**told, "file": toolkit}
    assert toolkit <= cuda["driver"]["version"]


def test_cuda_finds_the_gpu_if_there_is_one(cuda, machine):
    # Without one: 100 (no device), or another error where even the bus cannot be asked.
    assert (cuda["init"] == 0) == machine["gpu"]


@if_cuda_has("libnvrtc")
@pytest.mark.parametrize("architecture", [75, 80, 86, 89, 90])
def test_nvrtc_compiles_for(cuda, architecture):
    assert cuda["compiled"][str(architecture)] == {"status": 0, "elf": True, "named": True}


@if_cuda_has("libnvrtc")
def test_nvrtc_compiles_for_the_gpus_of_the_image(cuda, gpus):
    if not gpus:
        pytest.skip("no GPU is named in particular")
    compiled = {"status": 0, "elf": True, "named": True}
    found = {name: cuda["compiled"][str(number)] for name, number in gpus.items()}
    assert found == dict.fromkeys(gpus, compiled)


@if_cuda_has("libnvrtc")
def test_nvrtc_knows_its_limits(cuda, toolkit):
    # Blackwell came with CUDA 12.8: an older compiler that knows it is not the one asked for.
    assert (cuda["compiled"]["120"]["status"] == 0) == (toolkit >= BLACKWELL)
