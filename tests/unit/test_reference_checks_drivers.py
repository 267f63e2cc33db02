"""The checks of the drivers stage, on answers of sound and of broken machines."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from types import SimpleNamespace

# The folders of the tests are no packages, so a file beside this one is loaded by its path.
_spec = importlib.util.spec_from_file_location(
    "driver_machines", Path(__file__).with_name("driver_machines.py")
)
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)
ROOT = Path(__file__).parents[2]
CHECKS = "stages/drivers/checks/test_drivers.py"
PROJECT_FILES = made.SECURE_BOOT["PROJECT_FILES"]
answer = made.answer
KERNEL, OTHER, DRIVER, OLD, PARTS = made.KERNEL, made.OTHER, made.DRIVER, made.OLD, made.PARTS
PROPRIETARY, OPEN, PACKAGES, LINKED = made.PROPRIETARY, made.OPEN, made.PACKAGES, made.LINKED
BLACKLISTS, NOTHING = made.BLACKLISTS, made.NOTHING
OPENED, PEERMEM, BY_PACKAGE, module = made.OPENED, made.PEERMEM, made.BY_PACKAGE, made.module
modules, loading, dkms, marker = made.modules, made.loading, made.dkms, made.marker
told, cuda, debian_12, of_debian_12 = made.told, made.cuda, made.debian_12, made.of_debian_12
ubuntu, signed, without, without_cuda = made.ubuntu, made.signed, made.without, made.without_cuda
module_says, only_for = made.module_says, made.only_for
COMPILED, REFUSED = made.COMPILED, made.REFUSED
MODULE = "test_module_is_there_for_the_kernel_that_boots"
SIGNED = "test_module_is_signed_by_nobody_else"
ALTERNATIVE = "test_alternatives_are_of_the_flavour_asked_for"
ONE_VERSION = "test_every_package_of_the_driver_is_of_one_version"
UPGRADE = "test_an_upgrade_leaves_what_is_pinned_alone"
FRESH = "test_initramfs_knows_what_modprobe_knows"
LIBRARY = "test_libraries_find_what_they_need"
FLAVOUR = "test_module_is_of_the_flavour_asked_for"
DKMS = "test_dkms_has_nothing_but_that_module"
MARKER = "test_module_is_what_its_marker_says"
MODPROBE = "test_modprobe_would_load_a_module_that_exists"
LOADED = "test_driver_is_loaded_for_a_gpu_and_only_then"
PARTS_FIT = "test_all_parts_are_of_one_version"
HELD = "test_packages_are_pinned_and_held"
INITRAMFS = "test_nouveau_is_off_in_the_initramfs"
RUNTIME = "test_runtime_is_not_newer_than_the_driver"
SPEAKS = "test_driver_library_speaks_the_cuda_of_its_branch"
FINDS = "test_cuda_finds_the_gpu_if_there_is_one"
NVRTC = [f"test_nvrtc_compiles_for[{number}]" for number in (75, 80, 86, 89, 90)]
GPUS = "test_nvrtc_compiles_for_the_gpus_of_the_image"
LIMITS = "test_nvrtc_knows_its_limits"
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "open module": (OPENED,),
    "flavour is not said": ({"expected": ("nvidia_driver_flavour", None)},),
    "with a GPU": (told(gpu=True) | cuda(init=0),),
    "no bus in a container": (cuda(init=999),),
    "signed by the certificate": (signed("Example modules"),),
    "on Debian 12": (debian_12(),),
    "on Ubuntu": (ubuntu(),),
    "on Ubuntu, proprietary": (ubuntu(flavour="proprietary"),),
    "without the role nvidia_persistenced": (
        without(
            "nvidia_persistenced",
            packages=("nvidia-persistenced", None),
            held=("nvidia-persistenced", None),
        ),
    ),
    "without the role nouveau_blacklist": (
        without("nouveau_blacklist", **BY_PACKAGE, initramfs=BY_PACKAGE),
    ),
    "without the role rdma": (without("rdma"),),
    "peermem is asked for": ({**PEERMEM, **told(loaded_at_boot=["nvidia-peermem"])},),
    "without the role cuda_runtime": (without_cuda(), RUNTIME, *NVRTC, GPUS, LIMITS),
    "without NVRTC": (without_cuda("libcudart12"), *NVRTC, GPUS, LIMITS),
    "without a role of the driver": (
        without("nvidia_driver"),
        *(f"{check}[{part}]" for check in (MODULE, SIGNED) for part in PARTS),
        *(ALTERNATIVE, ONE_VERSION, UPGRADE, FRESH, LIBRARY, FLAVOUR, DKMS, MARKER),
        *(MODPROBE, LOADED, PARTS_FIT, HELD, INITRAMFS, RUNTIME, SPEAKS, FINDS),
        *("test_nouveau_is_off", "test_no_key_for_signing_modules_is_in_the_image"),
        *("test_libcuda_is_known_once", *NVRTC, GPUS, LIMITS),
    ),
    "for no GPU in particular": ({"gpus": (..., {})}, GPUS),
    "for Blackwell, by a compiler that knows it": (only_for(COMPILED, B200="10.0"),),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "GPU memory is for DMA-BUF, and peermem is loaded": (
        told(loaded_at_boot=["nvidia-peermem"]), LOADED,
    ),
    "peermem is asked for, and not loaded": (PEERMEM, LOADED),
    **{
        f"module{part} for another kernel": (
            module_says(part, filename=(KERNEL, OTHER), vermagic=(KERNEL, OTHER)),
            f"{MODULE}[{part}]",
        )
        for part in PARTS
    },
    "module lies in another kernel's folder": (
        module_says("", filename=(KERNEL, OTHER)),
        f"{MODULE}[]",
    ),
    "module has another vermagic": (module_says("", vermagic=(KERNEL, OTHER)), f"{MODULE}[]"),
    "module of another version": (module_says("-uvm", version=OLD), f"{MODULE}[-uvm]"),
    "module was not built": (
        told(modules={PROPRIETARY + part: NOTHING for part in PARTS}, dkms=[]),
        *(f"{MODULE}[{part}]" for part in PARTS), FLAVOUR, DKMS, MODPROBE,
    ),
    "another kernel boots": (
        told(kernel=OTHER), *(f"{MODULE}[{part}]" for part in PARTS), DKMS, MARKER,
    ),
    "module is not what was built": (
        told(markers=[{**marker(PROPRIETARY), "changed": ["module/nvidia-current.ko.xz: FAILED"]}]),
        MARKER,
    ),
    "module was built for another kernel": (
        told(markers=[{**marker(PROPRIETARY), "says": marker(PROPRIETARY, kernel=OTHER)["says"]}]),
        MARKER,
    ),
    "module was built from another driver": (told(markers=[marker(PROPRIETARY, OLD)]), MARKER),
    "other flavour was built": (told(markers=[marker(PROPRIETARY, flavour="open")]), MARKER),
    "DKMS' copies are signed": (
        told(markers=signed("")["machine.py"]["markers"]), MARKER,
    ),
    "DKMS' copies are not signed": (signed("Example modules", beside=()), MARKER),
    "one of DKMS' copies is not signed": (signed("Example modules", beside=PARTS[1:]), MARKER),
    "signed by another": (
        signed("DKMS module signing key"), *(f"{SIGNED}[{part}]" for part in PARTS),
    ),
    "one module is not signed": (
        signed("Example modules", where=PARTS[:-1]), f"{SIGNED}[-peermem]",
    ),
    "signed, and nobody was asked to": (
        told(modules=signed("Example modules")["machine.py"]["modules"]),
        *(f"{SIGNED}[{part}]" for part in PARTS),
    ),
    "nothing says what the module was built for": (told(markers=[]), MARKER),
    "module under another licence": (module_says("", license="Dual MIT/GPL"), FLAVOUR),
    "DKMS has an older driver too": (told(dkms=(None, dkms(PROPRIETARY, OLD))), DKMS),
    "DKMS built for a second kernel": (told(dkms=(None, dkms(PROPRIETARY, kernel=OTHER))), DKMS),
    "DKMS added, and did not build": (told(dkms=[f"{PROPRIETARY}/{DRIVER}: added"]), DKMS),
    "modprobe knows no driver": (told(modprobe=[]), MODPROBE),
    "modprobe loads the other flavour": (told(modprobe=[loading(OPEN)]), MODPROBE),
    "no alias for GPUs": (told(gpu_aliases=("nvidia", None)), LOADED),
    "driver is loaded at every boot": (told(loaded_at_boot=["nvidia-drm"]), LOADED),
    "libcuda of another version": (told(libcuda=[f"libcuda.so.{OLD}"]), PARTS_FIT),
    "two libcudas": (told(libcuda=(None, f"libcuda.so.{OLD}")), PARTS_FIT),
    "no libnvidia-ml": (told(**{"libnvidia-ml": []}), PARTS_FIT),
    "firmware of another version": (told(firmware=[OLD]), PARTS_FIT),
    "firmware lacks a file": (told(firmware_files=("gsp_ga10x.bin", None)), PARTS_FIT),
    **{
        f"{name} of another version": (told(packages={name: f"{version}+b1"}), HELD)
        for name, version in PACKAGES.items()
    },
    **{f"{name} is missing": (told(packages=(name, None)), HELD) for name in PACKAGES},
    **{f"{name} is not held": (told(held=(name, None)), HELD) for name in PACKAGES},
    "nouveau may be loaded": (told(blacklisted=False), "test_nouveau_is_off"),
    "blacklist is not the role's": (told(blacklists=BLACKLISTS[1:]), INITRAMFS),
    "initramfs has no blacklist": (told(initramfs={"blacklists": BLACKLISTS[1:]}), INITRAMFS),
    "initramfs has nouveau": (told(initramfs={"nouveau": ["nouveau.ko.xz"]}), INITRAMFS),
    "initramfs is older than modprobe's configuration": (
        told(initramfs={"made": 1763649999.0}), FRESH,
    ),
    "nouveau would be loaded": (
        told(nouveau_loads=["insmod /lib/modules/k/kernel/drivers/gpu/drm/nouveau/nouveau.ko.xz"]),
        "test_nouveau_is_off",
    ),
    "nouveau is loaded at every boot": (told(loaded_at_boot=["nouveau"]), LOADED),
    **{
        f"module{part} is signed": (module_says(part, signer="DKMS module signing key"),
                                    f"{SIGNED}[{part}]")
        for part in PARTS
    },
    "links of the other flavour": (told(alternative="/usr/lib/nvidia/current-open"), ALTERNATIVE),
    "links of nothing": (told(alternative="none"), ALTERNATIVE),
    "a part of the driver is newer": (
        told(driver_packages={"nvidia-legacy-check": "550.163.01-3"}), ONE_VERSION,
    ),
    "firmware of another packaging": (
        told(driver_packages={"firmware-nvidia-gsp": "535.309.01-0+deb12u1"}), ONE_VERSION,
    ),
    "no firmware": (told(driver_packages=("firmware-nvidia-gsp", None)), ONE_VERSION),
    "an upgrade would touch the kernel module": (
        told(upgraded=(None, "nvidia-kernel-dkms")), UPGRADE,
    ),
    "an upgrade would touch what nobody asked for": (
        told(upgraded=(None, "nvidia-legacy-check")), UPGRADE,
    ),
    "an upgrade would touch nothing": (told(upgraded=[]), UPGRADE),
    "a library lacks another": (
        told(linked={"lacking": {"libcudart.so.12": ["librt.so.1 => not found"]}}), LIBRARY,
    ),
    "a library is no library": (told(linked={"unread": ["libnvrtc.so.12"]}), LIBRARY),
    "the loader does not know CUDA": (told(linked={"names": ("libcudart.so.12", None)}), LIBRARY),
    "the loader knows two libcudas": (
        told(linked={"names": (None, "libcuda.so.1")}), "test_libcuda_is_known_once",
    ),
    "the loader knows no libcuda": (
        told(linked={"names": ("libcuda.so.1", None)}), LIBRARY, "test_libcuda_is_known_once",
    ),
    "a key for signing": (
        told(mok=["/var/lib/dkms/mok.key"]),
        "test_no_key_for_signing_modules_is_in_the_image",
    ),
    "a branch of which no CUDA is known": ({"driver_cuda": (..., {"620": None})}, SPEAKS),
    "no table knows the driver": ({"driver_cuda": (..., {})}, SPEAKS),
    "driver library of another CUDA": (cuda(driver={"version": 12020}), RUNTIME, SPEAKS),
    "driver library of a newer CUDA": (cuda(driver={"version": 12080}), SPEAKS),
    "driver library has an error": (cuda(driver={"status": 3, "version": 0}), RUNTIME, SPEAKS),
    "a driver library for 550 with 535": (of_debian_12(driver={"version": 12040}), SPEAKS),
    "CUDA 12 where 11.8 was asked for": (of_debian_12(runtime={"file": 12020}), RUNTIME),
    "the libraries of CUDA 12 where 11.8 was asked for": (
        debian_12() | told(**{**debian_12()["machine.py"], "linked": {"names": LINKED}}), LIBRARY,
    ),
    "Ubuntu's module is not there": (
        ubuntu(modules={f"nvidia{part}": NOTHING for part in PARTS}),
        *(f"{MODULE}[{part}]" for part in PARTS), FLAVOUR, MODPROBE,
    ),
    "Debian's links on Ubuntu": (ubuntu(alternative="/usr/lib/nvidia/current"), ALTERNATIVE),
    "modprobe goes another way on Ubuntu": (ubuntu(modprobe=[loading(PROPRIETARY)]), MODPROBE),
    "DKMS has the server's driver on Ubuntu": (
        ubuntu(dkms=["nvidia-srv/580.105.08, 6.8.0-137-generic, x86_64: installed"]), DKMS,
    ),
    "NVRTC is not held on Ubuntu": (
        ubuntu(held=[n for n in ubuntu()["machine.py"]["held"] if "nvrtc" not in n]), HELD,
    ),
    "a server's driver where the plain one was asked for": (
        ubuntu() | {"expected": ubuntu()["expected"] | {"nvidia_driver_series": "580-server"}},
        DKMS, ONE_VERSION, HELD,
    ),
    "a compiler that does not know Blackwell for CUDA 12.8": (
        {**ubuntu(), "cuda.py": ubuntu()["cuda.py"] | {"compiled": {"120": {"status": 5}}}},
        "test_nvrtc_knows_its_limits",
    ),
    "runtime of CUDA 11 has an error": (of_debian_12(runtime={"status": 35}), RUNTIME),
    "runtime of another CUDA than its name": (cuda(runtime={"file": 12080}), RUNTIME),
    "runtime of a newer CUDA": (cuda(runtime={"version": 12080}), RUNTIME),
    "runtime has an error": (cuda(runtime={"status": 35}), RUNTIME),
    "CUDA does not see the GPU": (
        told(gpu=True) | cuda(init=999),
        FINDS,
    ),
    "CUDA sees a GPU that is not there": (cuda(init=0), FINDS),
    **{
        f"no code for {number}": (
            cuda(compiled={str(number): REFUSED}),
            f"test_nvrtc_compiles_for[{number}]",
            *([GPUS] if number in (80, 89, 90) else []),
        )
        for number in (75, 80, 86, 89, 90)
    },
    "code without the kernel": (
        cuda(compiled={"90": {"named": False}}), "test_nvrtc_compiles_for[90]", GPUS,
    ),
    "code is no machine code": (
        cuda(compiled={"90": {"elf": False}}), "test_nvrtc_compiles_for[90]", GPUS,
    ),
    "for Blackwell, by the compiler of CUDA 12.4": (only_for(REFUSED, B200="10.0"), GPUS),
    "for a GPU that nobody knows": (
        only_for(COMPILED, X1=None), SPEAKS, RUNTIME, FINDS, *NVRTC, GPUS, LIMITS,
    ),
    "compiler of CUDA 12.8": (
        cuda(compiled={"120": {"status": 0, "elf": True, "named": True}}),
        "test_nvrtc_knows_its_limits",
    ),
}  # fmt: skip


def test_questions_are_asked_at_once_and_answered_in_their_order():
    names, both = program(), threading.Barrier(2)
    asked = {"late": lambda: both.wait(60) >= 0, "wrong": lambda: 1 // 0, "early": both.wait}
    names["ASKED"] = asked
    names["os"] = SimpleNamespace(cpu_count=lambda: 2)
    said = names["answers"]()
    assert list(said) == list(asked)
    assert said["late"] is True
    assert said["wrong"].startswith("error: ZeroDivisionError")


def program() -> dict:
    """The names of the program that is sent to the machine; nothing is asked."""
    text, names = (ROOT / CHECKS).with_name("machine.py").read_text(), {}
    exec(text.rpartition("\nprint(")[0], names)  # noqa: S102 - ours, without its last line
    return names
