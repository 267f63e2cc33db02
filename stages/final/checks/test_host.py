"""The finished host: tuned, measured and documented, with or without a GPU."""

import json
import re

import pytest

SYSCTL = {
    "fs.inotify.max_user_instances": 1024,
    "fs.inotify.max_user_watches": 1048576,
    "kernel.numa_balancing": 0,
    "net.core.rmem_max": 268435456,
    "net.core.somaxconn": 4096,
    "net.core.wmem_max": 268435456,
    "vm.max_map_count": 1048576,
    "vm.swappiness": 1,
    "vm.zone_reclaim_mode": 0,
}

ASK = r"""
import json, os, pathlib, resource, subprocess, tempfile

def say(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, **more).stdout.strip()

def read(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return None

# A stand-in for nvidia-smi, so that the program is seen reading GPUs on machines that have none.
SMI = '''#!/bin/sh
echo "0, GPU-1, NVIDIA Test, 50, 20, 81559, 1024, 40, 123.5, 1980, 0"
echo "1, GPU-2, NVIDIA Test, 0, 0, 81559, 0, 30, [N/A], 345, [N/A]"
'''

def monitored_with_gpus():
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "nvidia-smi").write_text(SMI)
        os.chmod(folder + "/nvidia-smi", 0o755)
        path = folder + ":" + os.environ["PATH"]
        subprocess.run(["gpu-monitor", folder], env={"PATH": path}, check=True)
        return json.loads(read(folder + "/metrics.json")), read(folder + "/metrics.prom")

started = subprocess.run(["systemctl", "start", "gpu-monitor.service"], capture_output=True, text=True)
print(json.dumps({
    "container": say("systemd-detect-virt", "--container"),
    "limits": {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("MEMLOCK", "NOFILE")},
    "unlimited": resource.RLIM_INFINITY,
    "service_limits": say("systemctl", "show", "-p", "DefaultLimitMEMLOCK", "-p", "DefaultLimitNOFILE").splitlines(),
    "limits_file": read("/etc/security/limits.d/50-gpu-host.conf"),
    "sysctl_file": read("/etc/sysctl.d/50-gpu-host.conf"),
    "sysctl": {
        name: read("/proc/sys/" + name.replace(".", "/")) for name in json.loads(os.environ["NAMES"])
    },
    "hugepages_file": read("/etc/tmpfiles.d/gpu-host-hugepages.conf"),
    "hugepages": read("/sys/kernel/mm/transparent_hugepage/enabled"),
    "governor": say("systemctl", "is-enabled", "cpu-governor.service"),
    "governor_state": say("systemctl", "show", "-P", "ActiveState", "cpu-governor.service"),
    "governors": sorted({read(str(path)).strip() for path in pathlib.Path("/sys/devices/system/cpu").glob(
        "cpu*/cpufreq/scaling_governor")}),
    "monitor_started": [started.returncode, started.stderr],
    "monitor_timer": say("systemctl", "is-enabled", "gpu-monitor.timer"),
    "monitor_timer_state": say("systemctl", "is-active", "gpu-monitor.timer"),
    "measured": json.loads(read("/run/gpu-monitor/metrics.json") or "null"),
    "prometheus": read("/run/gpu-monitor/metrics.prom"),
    "with_gpus": monitored_with_gpus(),
    "release": os.uname().release,
    "gpu": any("0x10de" in read(str(path)) for path in pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")),
    "versions": json.loads(read("/usr/share/gpu-host/versions.json") or "null"),
    "page": read("/usr/share/doc/gpu-host/README.md"),
    "motd": read("/etc/motd"),
    "packages": dict(line.split(" ") for line in say(
        "dpkg-query", "--show", "--showformat", "${Package} ${Version}\n").splitlines()),
}))
"""


@pytest.fixture(scope="module")
def settings(expected):
    """Kernel settings that were asked for."""
    return expected.get("tuning_sysctl", SYSCTL)


@pytest.fixture(scope="module")
def machine(host, settings):
    """What the machine says about its settings, its measurements and its documentation."""
    return json.loads(host.check_output("NAMES=%s python3 -c %s", json.dumps(list(settings)), ASK))


def test_logins_may_lock_memory_and_open_files(machine, expected):
    assert machine["limits"]["MEMLOCK"] == [machine["unlimited"]] * 2
    assert machine["limits"]["NOFILE"] == [expected.get("tuning_nofile", 1048576)] * 2


def test_services_may_too(machine, expected):
    assert "DefaultLimitMEMLOCK=infinity" in machine["service_limits"]
    assert (
        f"DefaultLimitNOFILE={expected.get('tuning_nofile', 1048576)}" in machine["service_limits"]
    )


def test_kernel_settings_are_written(machine, settings):
    written = dict(re.findall(r"^-(\S+) = (\S+)$", machine["sysctl_file"], re.MULTILINE))
    assert written == {name: str(value) for name, value in settings.items()}


def test_kernel_settings_are_in_force(machine, settings):
    if machine["container"] != "none":
        pytest.skip("the kernel belongs to the host of the container")
    there = {name: value.strip() for name, value in machine["sysctl"].items() if value is not None}
    assert there == {name: str(settings[name]) for name in there}
    assert "vm.swappiness" in there


def test_huge_pages_are_for_those_who_ask(machine, expected):
    wanted = expected.get("tuning_transparent_hugepages", "madvise")
    assert f"transparent_hugepage/enabled - - - - {wanted}\n" in machine["hugepages_file"]
    if machine["container"] == "none":
        assert f"[{wanted}]" in machine["hugepages"]


def test_governor_is_set_where_there_is_one(machine, expected):
    assert machine["governor"] == "enabled"
    if machine["container"] == "none" and machine["governors"]:
        assert machine["governors"] == [expected.get("tuning_cpu_governor", "performance")]
    else:
        assert machine["governor_state"] == "inactive"


def test_measuring_is_timed_and_works(machine):
    assert machine["monitor_timer"] == "enabled"
    assert machine["monitor_timer_state"] == "active"
    assert machine["monitor_started"] == [0, ""]


def test_measurements_tell_the_truth_about_this_machine(machine):
    measured = machine["measured"]
    assert measured["schema"] == 1
    assert measured["kernel"] == machine["release"]
    assert measured["host"]["memory_total_bytes"] > measured["host"]["memory_available_bytes"] > 0
    assert f"\ngpu_count {measured['gpu_count']}\n" in machine["prometheus"]
    if machine["gpu"]:
        assert measured["gpu_count"] >= 1
        assert measured["driver"] is not None
    else:
        assert measured["gpu_count"] == 0
        assert measured["gpus_missing_because"]


def test_measurements_list_gpus(machine):
    measured, prometheus = machine["with_gpus"]
    assert measured["gpu_count"] == 2
    assert measured["gpus"][0]["power_watts"] == 123.5
    assert measured["gpus"][1]["power_watts"] is None
    assert (
        'gpu_power_watts{index="0",uuid="GPU-1",name="NVIDIA Test"} 123.5'
        in prometheus.splitlines()
    )
    assert 'gpu_power_watts{index="1"' not in prometheus


def test_versions_are_those_installed(machine, expected):
    wanted = {name: machine["packages"][name] for name in expected["machine_docs_packages"]}
    assert machine["versions"]["debian"] == wanted
    for venv in expected["machine_docs_venvs"]:
        assert machine["versions"]["python"][venv]


def test_documentation_names_the_versions(machine):
    for name, version in machine["versions"]["debian"].items():
        assert f"| {name} | {version} |" in machine["page"]
        assert re.search(
            rf"{re.escape(name)} +{re.escape(version)}$", machine["motd"], re.MULTILINE
        )


def test_documentation_has_no_time_stamp(machine):
    for text in (machine["page"], machine["motd"], json.dumps(machine["versions"])):
        assert not re.search(r"\d\d:\d\d:\d\d", text)
