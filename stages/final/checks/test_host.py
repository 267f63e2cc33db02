"""The finished host: tuned, measured and documented, with or without a GPU."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()
# The role's own settings, for a pipeline that sets none.
SETTINGS = {
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

tuned, monitored, documented = map(pytest.mark.if_used, ("tuning", "monitoring", "machine_docs"))


@pytest.fixture(scope="module")
def settings(expected):
    """Kernel settings that were asked for; one may have several values."""
    asked = expected.get("tuning_sysctl", SETTINGS)
    return {name: str(value).split() for name, value in asked.items()}


@pytest.fixture(scope="module")
def memlock(expected):
    """How much memory may be locked: as limits.d has it, in bytes, and as systemd says it."""
    asked = expected.get("tuning_memlock", "unlimited")
    if asked == "unlimited":
        return SimpleNamespace(written=asked, number=None, service="infinity")
    number = int(asked) << 10
    return SimpleNamespace(written=asked, number=number, service=str(number))


@pytest.fixture(scope="module")
def machine(host, settings, expected):
    """What the machine says about its settings, its measurements and its documentation."""
    folder = f"/run/{expected.get('monitoring_directory', 'gpu-monitor')}"
    done = host.run("python3 -c %s %s %s", PROGRAM, json.dumps(list(settings)), folder)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


@tuned
def test_logins_may_lock_memory_and_open_files(machine, container, expected, memlock):
    files = expected.get("tuning_nofile", 1048576)
    lines = re.findall(r"^(\S+) +- +(\S+) +(\S+)$", machine["limits_file"], re.MULTILINE)
    for who in ("*", "root"):
        assert (who, "memlock", memlock.written) in lines
        assert (who, "nofile", str(files)) in lines
    if not container:
        number = machine["unlimited"] if memlock.number is None else memlock.number
        assert machine["limits"]["MEMLOCK"] == [number] * 2
        assert machine["limits"]["NOFILE"] == [files] * 2


@tuned
def test_services_may_too(machine, expected, memlock):
    files = expected.get("tuning_nofile", 1048576)
    wanted = [f"DefaultLimitMEMLOCK={memlock.service}", f"DefaultLimitNOFILE={files}"]
    assert sorted(machine["service_limits"]) == sorted(wanted)


@tuned
def test_kernel_settings_are_written(machine, settings):
    written = re.findall(r"^-(\S+) = (.+)$", machine["sysctl_file"], re.MULTILINE)
    assert {name: value.split() for name, value in written} == settings


@tuned
def test_kernel_settings_are_in_force(machine, container, settings):
    if container:
        pytest.skip("the kernel belongs to the host of the container")
    there = {name: said.split() for name, said in machine["sysctl"].items() if said is not None}
    assert there == {name: settings[name] for name in there}
    assert bool(there) == bool(settings), "this kernel knows none of them"


@tuned
def test_huge_pages_are_for_those_who_ask(machine, container, expected):
    wanted = expected.get("tuning_transparent_hugepages", "madvise")
    line = f"w!- /sys/kernel/mm/transparent_hugepage/enabled - - - - {wanted}"
    assert line in machine["hugepages_file"]
    if not container:
        assert f"[{wanted}]" in machine["hugepages"]


@tuned
def test_governor_is_set_where_there_is_one(machine, container, expected):
    assert machine["governor"]["enabled"] == "enabled"
    if not container and machine["governors"]:
        assert machine["governors"] == [expected.get("tuning_cpu_governor", "performance")]
    else:
        assert machine["governor"]["state"] == "inactive"


@monitored
def test_measuring_is_timed_and_works(machine):
    assert machine["timer"] == {"enabled": "enabled", "state": "active"}
    assert machine["measured"]["failed"] == ""


@monitored
def test_measurements_tell_the_truth(machine):
    measured = machine["measured"]["json"]
    assert measured["schema"] == 1
    assert measured["kernel"] == machine["release"]
    assert measured["host"]["memory_total_bytes"] > measured["host"]["memory_available_bytes"] > 0
    assert f"gpu_count {measured['gpu_count']}" in machine["measured"]["prometheus"]


@monitored
def test_measurements_know_whether_there_is_a_gpu(machine):
    measured = machine["measured"]["json"]
    assert (measured["gpu_count"] > 0) == machine["gpu"]
    assert (measured["driver"] is not None) == machine["gpu"]
    assert bool(measured["gpus_missing_because"]) != machine["gpu"]


@monitored
def test_measurements_list_gpus(machine):
    measured = machine["measured_with_gpus"]["json"]
    assert measured["gpu_count"] == 2
    assert [gpu["power_watts"] for gpu in measured["gpus"]] == [123.5, None]
    lines = [line for line in machine["measured_with_gpus"]["prometheus"] if "power_watts{" in line]
    assert lines == ['gpu_power_watts{index="0",uuid="GPU-1",name="NVIDIA Test"} 123.5']


@documented
def test_versions_are_those_installed(machine, expected):
    wanted = {name: machine["packages"].get(name) for name in expected["machine_docs_packages"]}
    assert machine["versions"]["debian"] == wanted
    assert sorted(machine["versions"]["python"]) == sorted(expected["machine_docs_venvs"])
    assert all(machine["versions"]["python"].values())


@documented
def test_documentation_names_the_versions(machine):
    for name, version in machine["versions"]["debian"].items():
        assert f"| {name} | {version} |" in machine["page"]
        shown = rf"{re.escape(name)} +{re.escape(version)}$"
        assert re.search(shown, machine["motd"], re.MULTILINE)


@documented
def test_documentation_has_no_time_stamp(machine):
    for text in (machine["page"], machine["motd"], json.dumps(machine["versions"])):
        assert not re.search(r"\d\d:\d\d:\d\d", text)
