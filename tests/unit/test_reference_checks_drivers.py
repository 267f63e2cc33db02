"""The checks of the drivers stage, on answers of sound and of broken machines."""

from __future__ import annotations

import runpy
from pathlib import Path

SECURE_BOOT = runpy.run_path(str(Path(__file__).with_name("test_reference_checks_secure_boot.py")))
PROJECT_FILES = SECURE_BOOT["PROJECT_FILES"]
CHECKS = "stages/drivers/checks/test_drivers.py"
KERNEL, OTHER = "6.12.117+deb13-cloud-amd64", "6.12.94+deb13-cloud-amd64"
VERSION, DRIVER, OLD = "550.163.01-2", "550.163.01", "535.261.03"
TOOLKIT = "12.4.127~12.4.1-2"
PARTS = ("", "-uvm", "-modeset", "-drm", "-peermem")
PROPRIETARY, OPEN = "nvidia-current", "nvidia-current-open"
LIBRARIES = ["libcudart12", "libnvrtc12", "libnvrtc-builtins12.4"]
# Package: version; all of them held.
PACKAGES = {
    "nvidia-kernel-dkms": VERSION,
    "firmware-nvidia-gsp": VERSION,
    "libcuda1": VERSION,
    "libnvidia-ml1": VERSION,
    "nvidia-smi": VERSION,
    "nvidia-persistenced": "550.163.01-1",
    **dict.fromkeys(LIBRARIES, TOOLKIT),
}
# Package: version; all that is built from the driver's sources.
DRIVER_PACKAGES = {
    **{name: version for name, version in PACKAGES.items() if version == VERSION},
    "nvidia-legacy-check": VERSION,
}
LINKED = ["libnvrtc.so.12", "libnvidia-ml.so.1", "libcudart.so.12", "libcuda.so.1", "libcuda.so"]
UNIT = "nvidia-persistenced.service"
BLACKLISTS = ["nouveau-blacklist.conf", "nvidia-blacklists-nouveau.conf"]
NOTHING = dict.fromkeys(("filename", "version", "vermagic", "license", "signer"), "")


def module(name, part, licence):
    """What modinfo says of a module that DKMS built."""
    return {
        "filename": f"/lib/modules/{KERNEL}/updates/dkms/{name}{part}.ko.xz",
        "version": DRIVER,
        "vermagic": f"{KERNEL} SMP preempt mod_unload modversions",
        "license": licence,
        "signer": "",
    }


def modules(name, licence):
    """All modules: those of one flavour, and none of the other."""
    built = {f"{name}{part}": module(name, part, licence) for part in PARTS}
    return {f"{each}{part}": NOTHING for each in (PROPRIETARY, OPEN) for part in PARTS} | built


def loading(name):
    return f"install nvidia modprobe -i {name} $CMDLINE_OPTS"


def dkms(name, version=DRIVER, kernel=KERNEL, state="installed"):
    return f"{name}/{version}, {kernel}, x86_64: {state}"


def marker(name, version=VERSION, kernel=KERNEL, flavour="proprietary"):
    """What lies beside a module that DKMS has."""
    return {
        "at": f"{name}/{version.rpartition('-')[0]}/{kernel}",
        "says": {"kernel": kernel, "driver": version, "flavour": flavour},
        "changed": [],
        "signed": [],
    }


def answer():
    machine = {
        "alternative": "/usr/lib/nvidia/current",
        "blacklisted": True,
        "blacklists": BLACKLISTS,
        "dkms": [dkms(PROPRIETARY)],
        "driver_packages": DRIVER_PACKAGES,
        "firmware": [DRIVER],
        "firmware_files": ["gsp_ga10x.bin", "gsp_tu10x.bin"],
        "gpu": False,
        "gpu_aliases": ["nvidiafb", "nouveau", "nvidia"],
        "held": list(PACKAGES),
        "initramfs": {"blacklists": BLACKLISTS, "nouveau": [], "made": 1763650100.5},
        "kernel": KERNEL,
        "loaded_at_boot": [],
        "libcuda": [f"libcuda.so.{DRIVER}"],
        "libnvidia-ml": [f"libnvidia-ml.so.{DRIVER}"],
        "linked": {"names": LINKED, "lacking": {}, "unread": []},
        "markers": [marker(PROPRIETARY)],
        "modprobe": [loading(PROPRIETARY)],
        "modprobe_changed": 1763650000.25,
        "modules": modules(PROPRIETARY, "NVIDIA"),
        "mok": [],
        "nouveau_loads": [],
        "packages": {**PACKAGES, "libc6": "2.41-12"},
        "services": {UNIT: {"enabled": "enabled", "state": "inactive"}},
        "upgraded": ["base-files", "libc6", "nvidia-installer-cleanup"],
    }
    compiled = {"status": 0, "elf": True, "named": True}
    cuda = {
        "driver": {"status": 0, "version": 12040},
        "init": 100,
        "runtime": {"status": 0, "version": 12040, "file": 12040},
        "compiled": {str(number): compiled for number in (75, 80, 86, 89, 90)}
        | {"120": {"status": 5, "elf": False, "named": False}},
    }
    expected = {
        "nvidia_driver_version": VERSION,
        "nvidia_driver_flavour": "proprietary",
        "nvidia_persistenced_version": "550.163.01-1",
        **toolkit(TOOLKIT, LIBRARIES),
    }
    uses = {"cuda_runtime": toolkit(TOOLKIT, LIBRARIES)}
    return {"expected": expected, "uses": uses, "machine.py": machine, "cuda.py": cuda}


def toolkit(version, packages):
    """The variables of a use of the role cuda_runtime."""
    return {"cuda_runtime_version": version, "cuda_runtime_packages": packages}


def told(**machine):
    return {"machine.py": machine}


def cuda(**said):
    return {"cuda.py": said}


def debian_12():
    """What is different in the variant debian-12: everything that a version is in."""
    kernel, version, cuda11 = "6.1.0-56-cloud-amd64", "535.309.01-0+deb12u1", "11.8.89~11.8.0-5"
    driver = version.partition("-")[0]
    libraries = ["libcudart11.0", "libnvrtc11.2", "libnvrtc-builtins11.8"]
    pinned = {name: version for name in PACKAGES if PACKAGES[name] == VERSION}
    pinned |= {"nvidia-persistenced": "535.171.04-1~deb12u1", **dict.fromkeys(libraries, cuda11)}
    built = {
        PROPRIETARY + part: module(PROPRIETARY, part, "NVIDIA")
        | {
            "filename": f"/lib/modules/{kernel}/updates/dkms/{PROPRIETARY}{part}.ko",
            "version": driver,
            "vermagic": f"{kernel} SMP preempt mod_unload modversions",
        }
        for part in PARTS
    }
    expected = {
        "nvidia_driver_version": version,
        "nvidia_persistenced_version": "535.171.04-1~deb12u1",
        **toolkit(cuda11, libraries),
    }
    uses = {"cuda_runtime": toolkit(cuda11, libraries)}
    machine = told(
        dkms=[dkms(PROPRIETARY, driver, kernel)],
        driver_packages=dict.fromkeys(DRIVER_PACKAGES, version),
        firmware=[driver],
        held=list(pinned),
        kernel=kernel,
        libcuda=[f"libcuda.so.{driver}"],
        markers=[marker(PROPRIETARY, version, kernel)],
        linked={"names": ["libnvrtc.so.11.2", "libcudart.so.11.0", "libcuda.so.1"]},
        modules=built,
        packages=(..., {**pinned, "libc6": "2.36-9"}),
        **{"libnvidia-ml": [f"libnvidia-ml.so.{driver}"]},
    )
    said = cuda(driver={"version": 12020}, runtime={"status": 100, "version": 0, "file": 11080})
    return {"expected": expected, "uses": uses, **machine, **said}


def of_debian_12(**said):
    """What CUDA's libraries say there."""
    other = debian_12()
    return {**other, "cuda.py": other["cuda.py"] | said}


def ubuntu(series="580", version="580.105.08-0ubuntu1", flavour="open", **machine):
    """What is different in the Ubuntu variants: the names of nearly everything."""
    kernel, driver = "6.8.0-137-generic", version.partition("-")[0]
    dkms_name = "nvidia-srv" if series.endswith("-server") else "nvidia"
    ending = f"{series}-open" if flavour == "open" else series
    packages = [f"{name}-{series}" for name in ("libnvidia-compute", "nvidia-utils")]
    parts = [*packages, f"nvidia-dkms-{ending}", f"nvidia-kernel-source-{ending}"]
    libraries = {"cuda-cudart-12-8": "12.8.90-1", "cuda-nvrtc-12-8": "12.8.93-1"}
    libraries |= {"libcublas-12-8": "12.8.4.1-1"}
    pinned = {**dict.fromkeys(parts, version), **libraries}
    built = {
        f"nvidia{part}": {
            "filename": f"/lib/modules/{kernel}/updates/dkms/nvidia{part}.ko.zst",
            "version": driver,
            "vermagic": f"{kernel} SMP preempt mod_unload modversions",
            "license": "Dual MIT/GPL" if flavour == "open" else "NVIDIA",
            "signer": "",
        }
        for part in PARTS
    }
    found = told(
        alternative="",
        dkms=[f"{dkms_name}/{driver}, {kernel}, x86_64: installed"],
        markers=[],
        driver_packages=(..., dict.fromkeys(parts, version)),
        firmware=[driver],
        held=list(pinned),
        kernel=kernel,
        libcuda=[f"libcuda.so.{driver}"],
        modprobe=[],
        modules={each + part: NOTHING for each in (PROPRIETARY, OPEN) for part in PARTS} | built,
        packages=(..., {**pinned, "libc6": "2.39-0ubuntu8"}),
        **{"libnvidia-ml": [f"libnvidia-ml.so.{driver}"]},
    )
    said = cuda(
        driver={"version": 13000 if series == "580" else 12040},
        runtime={"version": 12080, "file": 12080},
        compiled={"120": {"status": 0, "elf": True, "named": True}},
    )
    return {
        "expected": {
            "nvidia_driver_version": version,
            "nvidia_driver_series": series,
            "nvidia_driver_flavour": flavour,
            "nvidia_driver_packages": packages,
            **toolkit("12.8.90-1", ["cuda-cudart-12-8"]),
        },
        "uses": {
            "nvidia": {"nvidia_driver_series": series},
            "cuda_runtime": toolkit("12.8.90-1", ["cuda-cudart-12-8"]),
            "cuda_runtime:nvrtc": toolkit("12.8.93-1", ["cuda-nvrtc-12-8"]),
            "cuda_runtime:cublas": toolkit("12.8.4.1-1", ["libcublas-12-8"]),
        },
        "machine.py": found["machine.py"] | machine,
        **said,
    }


def signed(by, where=PARTS, beside=PARTS):
    """With the role secure_boot: who signed which modules, and which of DKMS' copies."""
    files = [f"module/{PROPRIETARY}{part}.ko.xz" for part in beside]
    return {
        "uses": {"secure_boot": {"secure_boot_certificate": SECURE_BOOT["CERTIFICATE"]}},
        **told(
            modules={PROPRIETARY + part: {"signer": by} for part in where},
            markers=[{**marker(PROPRIETARY), "signed": sorted(files)}],
        ),
    }


SLEEPING = {"enabled": "enabled", "state": "inactive"}
OPENED = {
    "expected": {"nvidia_driver_flavour": "open"},
    **told(
        alternative="/usr/lib/nvidia/current-open",
        dkms=[dkms(OPEN)],
        markers=[marker(OPEN, flavour="open")],
        modprobe=[loading(OPEN)],
        modules=modules(OPEN, "Dual MIT/GPL"),
        packages={"nvidia-open-kernel-dkms": VERSION},
        held=("nvidia-kernel-dkms", "nvidia-open-kernel-dkms"),
    ),
}
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "open module": (OPENED,),
    "flavour is not said": ({"expected": ("nvidia_driver_flavour", None)},),
    "with a GPU": (told(gpu=True, services={UNIT: {"state": "active"}}) | cuda(init=0),),
    "with DCGM": (told(services={"nvidia-dcgm.service": SLEEPING}),),
    "no bus in a container": (cuda(init=999),),
    "signed by the certificate": (signed("Example modules"),),
    "on Debian 12": (debian_12(),),
    "on Ubuntu": (ubuntu(),),
    "on Ubuntu, proprietary": (ubuntu(flavour="proprietary"),),
}

MODULE = "test_module_is_there_for_the_kernel_that_boots"
SIGNED = "test_module_is_signed_by_nobody_else"
ALTERNATIVE = "test_alternatives_are_of_the_flavour_asked_for"
ONE_VERSION = "test_every_package_of_the_driver_is_of_one_version"
UPGRADE = "test_an_upgrade_leaves_what_is_pinned_alone"
FRESH = "test_initramfs_knows_what_modprobe_knows"
SERVICES = "test_services_of_gpus_are_enabled_and_did_not_fail"
LIBRARY = "test_libraries_find_what_they_need"
FLAVOUR = "test_module_is_of_the_flavour_asked_for"
DKMS = "test_dkms_has_nothing_but_that_module"
MARKER = "test_module_is_what_its_marker_says"
MODPROBE = "test_modprobe_would_load_a_module_that_exists"
LOADED = "test_driver_is_loaded_for_a_gpu_and_only_then"
PARTS_FIT = "test_all_parts_are_of_one_version"
HELD = "test_packages_are_pinned_and_held"
INITRAMFS = "test_nouveau_is_off_in_the_initramfs"
PERSISTENCED = "test_persistenced_is_enabled_and_did_not_fail"
RUNTIME = "test_runtime_is_not_newer_than_the_driver"
SPEAKS = "test_driver_library_speaks_the_cuda_of_its_branch"
FINDS = "test_cuda_finds_the_gpu_if_there_is_one"


def module_says(part, **fields):
    return told(modules={PROPRIETARY + part: fields})


# Case: (what is different, checks that fail: those and no other).
BROKEN = {
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
    "module of the other flavour was built": (
        told(markers=[marker(PROPRIETARY, flavour="open")]), MARKER,
    ),
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
    "persistenced is disabled": (
        told(services={UNIT: {"enabled": "disabled"}}), PERSISTENCED, SERVICES,
    ),
    "persistenced failed": (told(services={UNIT: {"state": "failed"}}), PERSISTENCED, SERVICES),
    "no persistenced": (told(services=(UNIT, None)), PERSISTENCED),
    "fabric manager is disabled": (
        told(services={"nvidia-fabricmanager.service": {**SLEEPING, "enabled": "disabled"}}),
        SERVICES,
    ),
    "DCGM failed": (
        told(services={"nvidia-dcgm.service": {**SLEEPING, "state": "failed"}}), SERVICES,
    ),
    "persistenced sleeps beside a GPU": (told(gpu=True) | cuda(init=0), PERSISTENCED),
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
        told(gpu=True, services={UNIT: {"state": "active"}}) | cuda(init=999),
        FINDS,
    ),
    "CUDA sees a GPU that is not there": (cuda(init=0), FINDS),
    **{
        f"no code for {number}": (
            cuda(compiled={str(number): {"status": 5, "elf": False, "named": False}}),
            f"test_nvrtc_compiles_for[{number}]",
        )
        for number in (75, 80, 86, 89, 90)
    },
    "code without the kernel": (
        cuda(compiled={"90": {"named": False}}),
        "test_nvrtc_compiles_for[90]",
    ),
    "code is no machine code": (
        cuda(compiled={"90": {"elf": False}}),
        "test_nvrtc_compiles_for[90]",
    ),
    "compiler of CUDA 12.8": (
        cuda(compiled={"120": {"status": 0, "elf": True, "named": True}}),
        "test_nvrtc_knows_its_limits",
    ),
}  # fmt: skip
