"""Machines with a driver as tables: what they answer to the checks of the drivers stage.

Loaded by test_reference_checks_drivers.py, which says what the checks make of them.
"""

from __future__ import annotations

import runpy
from pathlib import Path

SECURE_BOOT = runpy.run_path(str(Path(__file__).with_name("test_reference_checks_secure_boot.py")))
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
        **toolkit(TOOLKIT, LIBRARIES),
    }
    uses = {
        "nouveau_blacklist": {},
        "nvidia_driver": {},
        "nvidia_persistenced": {"nvidia_persistenced_version": "550.163.01-1"},
        "cuda_runtime": toolkit(TOOLKIT, LIBRARIES),
        "rdma": {"rdma_nvidia_peermem": False},
    }
    return {
        "expected": expected,
        "uses": uses,
        "gpus": {"L4": "8.9", "A100": "8.0", "H100": "9.0", "H200": "9.0"},
        "driver_cuda": {"550": "12.4"},
        "machine.py": machine,
        "cuda.py": cuda,
    }


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
        **toolkit(cuda11, libraries),
    }
    uses = {
        "nvidia_persistenced": {"nvidia_persistenced_version": "535.171.04-1~deb12u1"},
        "cuda_runtime": toolkit(cuda11, libraries),
    }
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
    known = {"driver_cuda": (..., {"535": "12.2"})}
    return {"expected": expected, "uses": uses, **known, **machine, **said}


def of_debian_12(**said):
    """What CUDA's libraries say there."""
    other = debian_12()
    return {**other, "cuda.py": other["cuda.py"] | said}


UBUNTU_LIBRARIES = {
    "cuda-cudart-12-8": "12.8.90-1",
    "cuda-nvrtc-12-8": "12.8.93-1",
    "libcublas-12-8": "12.8.4.1-1",
}


def ubuntu(series="580", version="580.105.08-0ubuntu1", flavour="open", **machine):
    """What is different in the Ubuntu variants: the names of nearly everything."""
    kernel, driver = "6.8.0-137-generic", version.partition("-")[0]
    dkms_name = "nvidia-srv" if series.endswith("-server") else "nvidia"
    ending = f"{series}-open" if flavour == "open" else series
    packages = [f"{name}-{series}" for name in ("libnvidia-compute", "nvidia-utils")]
    parts = [*packages, f"nvidia-dkms-{ending}", f"nvidia-kernel-source-{ending}"]
    pinned = {**dict.fromkeys(parts, version), **UBUNTU_LIBRARIES}
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
        "driver_cuda": (..., {"580": "13.0"} if series == "580" else {"550": "12.4"}),
        "expected": {
            "nvidia_driver_version": version,
            "nvidia_driver_series": series,
            "nvidia_driver_flavour": flavour,
            "nvidia_driver_packages": packages,
            **toolkit("12.8.90-1", ["cuda-cudart-12-8"]),
        },
        "uses": (
            ...,
            {
                "nouveau_blacklist": {},
                "nvidia": {"nvidia_driver_series": series},
                "cuda_runtime": toolkit("12.8.90-1", ["cuda-cudart-12-8"]),
                "cuda_runtime:nvrtc": toolkit("12.8.93-1", ["cuda-nvrtc-12-8"]),
                "cuda_runtime:cublas": toolkit("12.8.4.1-1", ["libcublas-12-8"]),
            },
        ),
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


def without(role, **machine):
    """One role is left out, and what it would have brought is not there."""
    return {"uses": (role, None), **told(**machine)}


def without_cuda(*left):
    """The role cuda_runtime brings a part of its libraries, or is not there."""
    gone = set(LIBRARIES) - set(left)
    use = toolkit(TOOLKIT, [*left]) if left else None
    return {
        "uses": {"cuda_runtime": use} if left else ("cuda_runtime", None),
        **told(
            packages=(..., {name: PACKAGES[name] for name in PACKAGES.keys() - gone}),
            held=[name for name in PACKAGES if name not in gone],
            linked={
                "names": [
                    "libnvidia-ml.so.1",
                    "libcuda.so.1",
                    *(["libcudart.so.12"] if left else []),
                ]
            },
        ),
        **cuda(compiled=(..., {}), **({} if left else {"runtime": None})),
    }


COMPILED = {"status": 0, "elf": True, "named": True}
REFUSED = {"status": 5, "elf": False, "named": False}


def only_for(compiled, **gpus):
    """The image is for these GPUs and no other; what comes of compiling for one of 10.0."""
    return {"gpus": (..., gpus), **cuda(compiled={"100": compiled})}


PEERMEM = {"uses": {"rdma": {"rdma_nvidia_peermem": True}}}
BY_PACKAGE = {"blacklists": BLACKLISTS[1:]}


def module_says(part, **fields):
    return told(modules={PROPRIETARY + part: fields})
