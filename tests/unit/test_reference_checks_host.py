"""The checks of the finished host, on answers of sound and of broken machines."""

from __future__ import annotations

import csv
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jinja2
import yaml

CHECKS = "stages/final/checks/test_host.py"
ROOT = Path(__file__).parents[2]
ROLES = ROOT / "ansible/roles"
KERNEL = "6.12.117+deb13-cloud-amd64"
VENV = "/opt/vaultbuild/venvs/default"
INFINITE = -1
DEBIAN = {"docker.io": "26.1.5+dfsg1-9+b9", "libcuda1": "550.163.01-2", "python3": "3.13.5-1"}
PYTHON = {"numpy": "2.5.5", "onnxruntime": "1.31.1", "pip": "25.1.1"}
TUNING = yaml.safe_load((ROLES / "tuning/defaults/main.yml").read_text())
SETTINGS = {name: str(value) for name, value in TUNING["tuning_sysctl"].items()}
HOST = {
    "load1": 0.21,
    "memory_available_bytes": 3_700_000_000,
    "memory_total_bytes": 4_100_000_000,
    "root_available_bytes": 5_000_000_000,
    "root_total_bytes": 8_300_000_000,
}
NO_GPU = "[Errno 2] No such file or directory: 'nvidia-smi'"


def rendered(template, **variables):
    return jinja2.Template((ROLES / template).read_text(), trim_blocks=True).render(variables)


def documented(**versions):
    """The three documents of machine_docs, for these packages."""
    given = {"machine_docs_title": "GPU host", "machine_docs_debian": versions}
    given["machine_docs_python"] = {VENV: PYTHON}
    return {
        "motd": rendered("machine_docs/templates/motd.j2", **given),
        "page": rendered("machine_docs/templates/README.md.j2", **given),
        "versions": {"debian": versions, "python": {VENV: PYTHON}},
    }


def measured(gpus, driver, reason):
    """What gpu-monitor writes, by its own functions."""
    monitor = runpy.run_path(str(ROLES / "monitoring/files/gpu-monitor"))
    rows = csv.reader(gpus, skipinitialspace=True)
    found = [monitor["gpu"](row) for row in rows]
    document = {
        "schema": 1, "kernel": KERNEL, "driver": driver, "gpu_count": len(found), "gpus": found,
        "gpus_missing_because": reason, "host": HOST,
    }  # fmt: skip
    return {"json": document, "prometheus": monitor["prometheus"](document).splitlines()}


def stand_in():
    """What the stand-in for nvidia-smi says."""
    text = (ROOT / CHECKS).with_name("machine.py").read_text()
    return re.findall(r'^echo "(.*)"$', text, re.MULTILINE)


def answer():
    machine = {
        "container": "none",
        "governor": {"enabled": "enabled", "state": "inactive"},
        "governors": [],
        "gpu": False,
        "hugepages": "always [madvise] never\n",
        "hugepages_file": rendered("tuning/templates/hugepages.conf.j2", **TUNING).splitlines(),
        "limits": {"MEMLOCK": [INFINITE] * 2, "NOFILE": [TUNING["tuning_nofile"]] * 2},
        "limits_file": rendered("tuning/templates/limits.conf.j2", **TUNING),
        "measured": {"failed": "", **measured([], None, NO_GPU)},
        "measured_with_gpus": measured(stand_in(), None, None),
        "packages": {**DEBIAN, "libc6": "2.41-12"},
        "release": KERNEL,
        "service_limits": ["DefaultLimitMEMLOCK=infinity", "DefaultLimitNOFILE=1048576"],
        # This kernel was built without NUMA.
        "sysctl": SETTINGS | {"kernel.numa_balancing": None, "vm.zone_reclaim_mode": None},
        "sysctl_file": rendered("tuning/templates/sysctl.conf.j2", **TUNING),
        "timer": {"enabled": "enabled", "state": "active"},
        "unlimited": INFINITE,
        **documented(**DEBIAN),
    }
    expected = {"machine_docs_packages": list(DEBIAN), "machine_docs_venvs": [VENV]}
    uses = {"tuning": TUNING, "monitoring": {}, "machine_docs": expected}
    return {"expected": expected, "uses": uses, "machine.py": machine}


def told(**machine):
    return {"machine.py": machine}


CONTAINER = {
    "container": "systemd-nspawn",
    "limits": {"NOFILE": [1024, 524288]},
    "hugepages": "[always] madvise never\n",
    "sysctl": dict.fromkeys(SETTINGS, "1"),
}
SCALED = {"governors": ["performance"], "governor": {"state": "active"}}
ONE_GPU = measured(["0, GPU-1, NVIDIA H100, 0, 0, 81559, 1, 30, 70.1, 345, 0"], "550.163.01", None)
OTHERWISE = {
    "tuning_nofile": 4096,
    "tuning_memlock": "8192",
    "tuning_sysctl": {"net.core.somaxconn": 512, "net.ipv4.tcp_rmem": "4096 87380 16777216"},
    "tuning_transparent_hugepages": "never",
    "tuning_cpu_governor": "ondemand",
}
TUNED = {
    "governors": ["ondemand"],
    "governor": {"state": "active"},
    "limits": {"MEMLOCK": [8 << 20] * 2, "NOFILE": [4096, 4096]},
    "limits_file": rendered("tuning/templates/limits.conf.j2", **TUNING | OTHERWISE),
    "service_limits": ["DefaultLimitMEMLOCK=8388608", "DefaultLimitNOFILE=4096"],
    # The kernel writes tabs between the values of one setting.
    "sysctl": (
        ...,
        {"net.core.somaxconn": "512", "net.ipv4.tcp_rmem": "4096\t87380\t16777216"},
    ),
    "sysctl_file": rendered("tuning/templates/sysctl.conf.j2", **TUNING | OTHERWISE),
    "hugepages": "always madvise [never]\n",
    "hugepages_file": rendered(
        "tuning/templates/hugepages.conf.j2", **TUNING | OTHERWISE
    ).splitlines(),
}
# Case: (what is different, checks that are skipped).
SOUND = {
    "as built": ({},),
    "in a container": (told(**CONTAINER), "test_kernel_settings_are_in_force"),
    "with frequency scaling": (told(**SCALED),),
    "with a GPU": (told(gpu=True, measured=ONE_GPU),),
    "tuned otherwise": (
        {
            "expected": OTHERWISE,
            **told(**TUNED),
        },
    ),
}

UNKNOWN = "error: FileNotFoundError()"
LOGINS = "test_logins_may_lock_memory_and_open_files"
WRITTEN = "test_kernel_settings_are_written"
FORCE = "test_kernel_settings_are_in_force"
HUGE = "test_huge_pages_are_for_those_who_ask"
GOVERNOR = "test_governor_is_set_where_there_is_one"
TIMED = "test_measuring_is_timed_and_works"
TRUTH = "test_measurements_tell_the_truth"
KNOW = "test_measurements_know_whether_there_is_a_gpu"
LIST = "test_measurements_list_gpus"
INSTALLED = "test_versions_are_those_installed"
NAMES = "test_documentation_names_the_versions"
STAMP = "test_documentation_has_no_time_stamp"
SERVICES = "test_services_may_too"


def without(role, *answers):
    """One role is left out, and what it would have brought is not there."""
    return {"uses": (role, None), **told(**dict.fromkeys(answers, (..., UNKNOWN)))}


SOUND |= {
    "without the role tuning": (
        without("tuning", "limits_file", "service_limits", "sysctl_file", "governor"),
        *(LOGINS, SERVICES, WRITTEN, FORCE, HUGE, GOVERNOR),
    ),
    "without the role monitoring": (
        without("monitoring", "measured", "measured_with_gpus", "timer"),
        *(TIMED, TRUTH, KNOW, LIST),
    ),
    "without the role machine_docs": (
        without("machine_docs", "motd", "page", "versions") | {"expected": (..., {})},
        *(INSTALLED, NAMES, STAMP),
    ),
}


def tuned(**machine):
    """Tuned otherwise, and one thing is not as it was asked for."""
    return {"expected": OTHERWISE, **told(**TUNED | machine)}


def says(**document):
    return told(measured={"json": document})


def lists(**said):
    return told(measured_with_gpus=said)


# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    **{
        f"limits.d without {line}": (told(limits_file=(line, "")), LOGINS)
        for line in (
            "*    -  memlock  unlimited", "root -  memlock  unlimited",
            "*    -  nofile   1048576", "root -  nofile   1048576",
        )
    },
    "a login may lock 8 MiB": (told(limits={"MEMLOCK": [8 << 20] * 2}), LOGINS),
    "a login may open 1024 files": (told(limits={"NOFILE": [1024, 1048576]}), LOGINS),
    "services may lock 8 MiB": (
        told(service_limits=("DefaultLimitMEMLOCK=infinity", "DefaultLimitMEMLOCK=8388608")),
        SERVICES,
    ),
    "services may open 1024 files": (
        told(service_limits=("DefaultLimitNOFILE=1048576", "DefaultLimitNOFILE=524288")),
        SERVICES,
    ),
    "a setting is not written": (told(sysctl_file=("-vm.swappiness = 1\n", "")), WRITTEN),
    "a setting is written otherwise": (
        told(sysctl_file=("vm.swappiness = 1\n", "vm.swappiness = 60\n")),
        WRITTEN,
    ),
    "a setting fails where it is unknown": (
        told(sysctl_file=("-vm.zone_reclaim_mode", "vm.zone_reclaim_mode")),
        WRITTEN,
    ),
    "a setting is not in force": (told(sysctl={"vm.max_map_count": "65530"}), FORCE),
    "one of a setting's values is not in force": (
        tuned(sysctl=(..., {"net.ipv4.tcp_rmem": "4096\t131072\t16777216"})),
        FORCE,
    ),
    "one of a setting's values is not written": (
        tuned(sysctl_file=TUNED["sysctl_file"].replace(" 16777216", "")),
        WRITTEN,
    ),
    "a login may lock more than was asked for": (
        tuned(limits={"MEMLOCK": [INFINITE] * 2, "NOFILE": [4096, 4096]}),
        LOGINS,
    ),
    "a login may lock more by what is written": (
        tuned(limits_file=TUNED["limits_file"].replace("8192", "unlimited")),
        LOGINS,
    ),
    "services may lock more than was asked for": (
        tuned(service_limits=["DefaultLimitMEMLOCK=infinity", "DefaultLimitNOFILE=4096"]),
        SERVICES,
    ),
    "no setting is known": (told(sysctl=dict.fromkeys(SETTINGS)), FORCE),
    "huge pages are not written": (told(hugepages_file=[]), HUGE),
    "huge pages are for everybody": (told(hugepages="[always] madvise never\n"), HUGE),
    "the governor's unit is disabled": (told(governor={"enabled": "disabled"}), GOVERNOR),
    "the governor saves power": (told(**{**SCALED, "governors": ["powersave"]}), GOVERNOR),
    "the governor differs by core": (
        told(**{**SCALED, "governors": ["performance", "powersave"]}),
        GOVERNOR,
    ),
    "the governor's unit failed": (told(governor={"state": "failed"}), GOVERNOR),
    "the timer is disabled": (told(timer={"enabled": "disabled"}), TIMED),
    "the timer did not start": (told(timer={"state": "inactive"}), TIMED),
    "measuring failed": (
        told(measured={"failed": "Job for gpu-monitor.service failed."}),
        TIMED,
    ),
    "measurements of another form": (says(schema=2), TRUTH),
    "measurements of another kernel": (says(kernel="6.1.0-40-amd64"), TRUTH),
    "no memory is measured": (says(host={"memory_available_bytes": 0}), TRUTH),
    "more memory is free than there is": (says(host={"memory_total_bytes": 1}), TRUTH),
    "Prometheus is told nothing": (told(measured={"prometheus": []}), TRUTH),
    "a GPU is measured that is not there": (
        told(measured={"json": {"gpu_count": 1}, "prometheus": ["gpu_count 1"]}),
        KNOW,
    ),
    "a GPU is not measured": (told(gpu=True), KNOW),
    "a driver is loaded for no GPU": (says(driver="550.163.01"), KNOW),
    "nobody knows why there is no GPU": (says(gpus_missing_because=None), KNOW),
    "one of two GPUs is listed": (lists(json={"gpu_count": 1}), LIST),
    "a GPU's power is wrong": (
        lists(json=measured([row.replace("123.5", "9") for row in stand_in()], None, None)["json"]),
        LIST,
    ),
    "an unknown power is exported": (
        lists(prometheus=(None, 'gpu_power_watts{index="1",uuid="GPU-2",name="NVIDIA Test"} 0.0')),
        LIST,
    ),
    "the table has another version": (
        told(**documented(**{**DEBIAN, "libcuda1": "535.261.03-1"})),
        INSTALLED,
    ),
    "the table lacks a package": (
        told(versions={"debian": ("docker.io", None)}),
        INSTALLED,
    ),
    "a documented package is not installed": (told(packages=("docker.io", None)), INSTALLED),
    "the table lacks the environment": (told(versions={"python": (VENV, None)}), INSTALLED),
    "the environment is empty": (told(versions={"python": (..., {VENV: {}})}), INSTALLED),
    "the page is of older versions": (told(page=("550.163.01-2", "535.261.03-1")), NAMES),
    "the greeting is of older versions": (told(motd=("550.163.01-2", "535.261.03-1")), NAMES),
    **{
        f"a time in the {name}": (told(**{name: ("GPU host", "GPU host, 23:29:31")}), STAMP)
        for name in ("motd", "page")
    },
    "a time in the table": (told(versions={"made": "2026-11-20T23:29:31Z"}), STAMP),
}  # fmt: skip


def test_the_checks_know_the_settings_of_the_role():
    checks = runpy.run_path(str(ROOT / CHECKS))
    assert {name: str(value) for name, value in checks["SETTINGS"].items()} == SETTINGS


def test_measurements_are_looked_for_where_the_role_was_told_to_write_them(tmp_path):
    systemctl, folder = tmp_path / "bin/systemctl", tmp_path / "elsewhere"
    for path, text in (
        (systemctl, "#!/bin/sh\n"),
        (folder / "metrics.json", json.dumps(HOST)),
        (folder / "metrics.prom", "gpu_count 0\n"),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    systemctl.chmod(0o755)
    program = (ROOT / CHECKS).with_name("machine.py").read_text()
    argv = [sys.executable, "-c", program, "[]", str(folder)]
    path = {"PATH": f"{systemctl.parent}:/usr/bin:/bin"}
    done = subprocess.run(argv, env=path, check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)["measured"]
    assert said == {"failed": "", "json": HOST, "prometheus": ["gpu_count 0"]}
