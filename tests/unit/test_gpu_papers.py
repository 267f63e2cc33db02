"""What the program that checks GPUs reads and writes: nvidia-smi's XML, expectations, results."""

from __future__ import annotations

import importlib.util
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

# The folders of the tests are no packages, so a file beside this one is loaded by its path.
_spec = importlib.util.spec_from_file_location("gpu_host", Path(__file__).with_name("gpu_host.py"))
h = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(h)

from gpu_check import expect, papers, smi  # noqa: E402 - its path is set above
from gpu_check.host import Host  # noqa: E402
from gpu_check.outcome import Check, Result, Said, carry_out  # noqa: E402

H100, L4, text = h.H100, h.L4, h.text


# --- reading --------------------------------------------------------------------------------------


def test_warnings_before_the_xml_are_passed_over():
    log = smi.parse("WARNING: infoROM is corrupted at gpu 0000:19:00.0\n" + H100)
    assert [gpu.bus for gpu in log.gpus] == h.BUS[H100]
    assert log.gpus[1].facts()["name"] == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    "said", ["N/A", "[N/A]", "[Not Supported]", "", "Requested functionality has been deprecated"]
)
def test_what_a_gpu_does_not_have_is_nothing(said):
    assert smi.parse(text(L4, "persistence_mode", said)).gpus[0].said("persistence_mode") is None


def test_gpus_are_found_on_the_bus_by_class(tmp_path):
    classes = {"19": "0x030200", "1a": "0x040300", "c1": "0x068000", "3b": "0x030000"}
    for bus, kind in classes.items():
        device = tmp_path / f"sys/bus/pci/devices/0000:{bus}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text(f"{kind}\n")
        (device / "device").write_text(f"0x26{bus}\n")
    host = Host(str(tmp_path))
    assert host.gpus_on_the_bus() == ["0000:19:00.0", "0000:3b:00.0"]
    assert host.pci_id("0000:3b:00.0") == "263B"


# --- expectations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"driver": "550"}, "driver: is not known here; known are driver_version, cuda_version"),
        ({"cuda_version": 12.4}, 'cuda_version: must be a version in quotes, such as "12.4"'),
        ({"driver_version": "550.163.01-2"}, "driver_version: must be a version"),
        ({"gpus": ["NVIDIA L4"]}, "gpus: must be names with counts"),
        ({"gpus": {"NVIDIA L4": True}}, "gpus: must be"),
        ({"pci_ids": {"L4": "27B8"}}, "pci_ids: must be PCI device ids by name of a GPU"),
        ({"pci_ids": {"H100": [2330]}}, "pci_ids: must be"),
        ({"pci_ids": {"L4": ["0x27B8"]}}, "pci_ids: must be"),
        ({"ecc": True}, "ecc: must be Enabled or Disabled"),
        ({"mig": "off"}, "mig: must be Enabled or Disabled"),
        ({"bandwidth": {"upwards": 3}}, "bandwidth: must be GB/s by name: host_to_device"),
        ({"peer_access": "yes"}, "peer_access: must be true or false"),
        ({"nvlinks": -1}, "nvlinks: must be a count"),
        ({"fabric_cluster": "yes"}, "fabric_cluster: must be true or false"),
        ({"vllm": {"venv": "/opt/vllm"}}, "vllm: must be venv and model"),
        ({"vllm": {"venv": "vllm", "model": "/opt/model"}}, "vllm: must be venv and model"),
        ({"container_image": ""}, "container_image: must be a text"),
        ([], "is not a JSON object"),
        ("{", "Expecting"),
    ],
)  # fmt: skip
def test_wrong_expectations_are_named(tmp_path, document, said):
    file = tmp_path / "expect.json"
    file.write_text(document if document == "{" else json.dumps(document))
    with pytest.raises(expect.WrongFileError) as error:
        expect.read(str(file))
    assert said in str(error.value)


def test_expectations_that_are_not_there_are_named(tmp_path):
    with pytest.raises(expect.WrongFileError, match="No such file"):
        expect.read(str(tmp_path / "expect.json"))


# --- results --------------------------------------------------------------------------------------


def test_a_check_that_stumbles_has_failed():
    def stumble(machine):
        raise KeyError("volatile")

    result = carry_out(Check("x", "X", stumble), None)
    assert (result.outcome, result.message) == (
        "failed",
        "the check itself broke: KeyError('volatile')",
    )
    assert "Traceback" in result.evidence


def test_evidence_has_an_end():
    result = carry_out(Check("x", "X", lambda _: Said("", "line\n" * 100_000)), None)
    assert 100 < len(result.evidence) <= 8000


RESULTS = [
    Result("a", "A", "passed", "all is well", "\x1b[4mGPU0\x1b[0m"),
    Result("b", "B", "failed", "GPU 0: <3 errors> & more", "seen"),
    Result("c", "C", "skipped", "there is no dcgmi"),
]


@pytest.mark.parametrize(
    ("results", "outcome"),
    [(RESULTS, "failed"), (RESULTS[::2], "passed"), (RESULTS[2:], "failed"), ([], "failed")],
)
def test_what_results_come_to(results, outcome):
    document = papers.document(results, {"level": "quick"})
    assert (document["schema"], document["outcome"]) == (1, outcome)
    assert sum(document["counts"].values()) == len(document["results"]) == len(results)


def test_junit_has_a_case_for_each_check():
    suite = ET.fromstring(papers.junit(RESULTS, "quick"))  # noqa: S314 - our own
    counts = {"tests": "3", "failures": "1", "errors": "0", "skipped": "1"}
    assert suite.attrib == {"name": "gpu-check", "time": "0.00", **counts}
    cases = {case.get("name"): case for case in suite}
    assert cases["b: B"].find("failure").get("message") == "GPU 0: <3 errors> & more"
    assert cases["c: C"].find("skipped").get("message") == "there is no dcgmi"
    assert cases["a: A"].findtext("system-out") == "all is well\n?[4mGPU0?[0m"
