"""The medium and the long checks of GPUs, each seen passing, failing and skipped, on a table."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

# The folders of the tests are no packages, so a file beside this one is loaded by its path.
_spec = importlib.util.spec_from_file_location("gpu_host", Path(__file__).with_name("gpu_host.py"))
h = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(h)

from gpu_check import long, medium  # noqa: E402 - its path is set above
from gpu_check.host import Answer  # noqa: E402

CHECKS = {one.id: one for one in (*medium.CHECKS, *long.CHECKS)}
H100, L4, edit, program = h.H100, h.L4, h.edit, h.program
NO_SMI, NO_CUDA, BAD, UNTRIED, step = h.NO_SMI, h.NO_CUDA, h.BAD, h.UNTRIED, h.step
NO_DCGM = {"dcgmi diag": None, "dcgmi discovery": None}
HALF_UP = h.LINKS.replace("Link 3: 26.562 GB/s", "Link 3: <inactive>")
# A card without a bridge, beside one that a bridge joins to others.
BRIDGED = h.LINKS.partition("GPU 1")[0] + (
    "GPU 1: NVIDIA H100 NVL (UUID: GPU-1)\n\t Link 0: <inactive>\n\t Link 1: <inactive>\n"
)
NONE_UP = "\n".join(
    line if "GPU" in line else "\t Link 0: <inactive>" for line in h.LINKS.split("\n")
)
RACK = edit(H100, "NVIDIA H100 80GB HBM3</product_name>", "NVIDIA GB200</product_name>")
NONE, CLUSTER = "00000000-0000-0000-0000-000000000000", "6c3a9f1e-0000-4d2b-9d55-1f0e8f2b7a10"
IN_RACK = edit(RACK, NONE, CLUSTER)
VLLM = {"vllm": {"venv": "/opt/vaultbuild/venvs/vllm", "model": "/opt/vaultbuild/models/opt"}}
MODEL = {"/opt/vaultbuild/models/opt/config.json": "{}"}
NO_ENGINE = "Error: unable to establish a connection to the specified host: localhost"


def splitting(**how):
    """A machine whose nvidia-smi splits GPUs."""
    return {"programs": {"nvidia-smi": h.Splitting(**how)}}


def vllm(said, status=0, files=MODEL):
    """A machine with a model, and an environment in which vLLM says something."""
    return {"files": files, **program("venvs/vllm/bin/python", said, status)}


FAILED_TEST = h.DIAGNOSIS.replace('"status": "Skip"', '"status": "Fail"')

# Check: case → (the machine, what is expected of it, a part of what is said).
PASSING = {
    "bandwidth": [
        ({}, {}, "host_to_device 50.1 GB/s"),
        ({}, {"bandwidth": {"device_to_device": 2000}}, "2500 GB/s"),
    ],
    "peer-access": [
        ({}, {"peer_access": True, "bandwidth": {"peer": 300}}, "2 of 2 ways are direct, 380 to"),
        ({"cuda": h.peer(access=False)}, {}, "1 of 2 ways"),
    ],
    "dcgm-1": [({}, {}, "2 x Pass, 1 x Skip")],
    "dcgm-2": [({}, {}, "2 x Pass, 1 x Skip")],
    "dcgm-3": [({}, {}, "2 x Pass, 1 x Skip")],
    "dcgm-discovery": [({}, {}, "DCGM found 2 GPUs")],
    "mig-instances": [
        (splitting(), {}, "GPU 0: 1g.10gb made and removed; GPU 1: 1g.10gb made and removed"),
        (
            {
                "xml": edit(H100, "<current_mig>Disabled", "<current_mig>Enabled"),
                **splitting(mode="Enabled"),
            },
            {},
            "GPU 1: 1g.10gb made and removed",
        ),
    ],
    "vllm": [(vllm(json.dumps(step(True, "vLLM 0.8.5 answered"))), VLLM, "vllm: vLLM 0.8.5 ans")],
    "topology": [({}, {}, "a matrix of 2 GPUs")],
    "nvlink": [
        ({}, {}, "2 x 18 links"),
        ({}, {"nvlinks": 18}, "2 x 18 links"),
        (program("nvidia-smi nvlink", BRIDGED), {}, "1 x 18 links, 1 x 0 links"),
        (program("nvidia-smi nvlink", NONE_UP), {"nvlinks": 0}, "2 x 0 links"),
    ],
    "fabric": [
        ({}, {}, "2 x Completed"),
        ({}, {"fabric_cluster": False}, "2 x Completed"),
        ({"xml": IN_RACK}, {}, f"2 x Completed, cluster {CLUSTER}"),
        ({"xml": RACK}, {"fabric_cluster": False}, "2 x Completed"),
    ],
}
FAILING = {
    "bandwidth": [
        ({}, {"bandwidth": {"host_to_device": 55}}, "host_to_device 50.1 GB/s, expected are 55"),
        ({"cuda": h.device(bandwidth=BAD)}, {}, "GPU 0: it went wrong"),
    ],
    "peer-access": [
        ({"cuda": h.peer(**BAD, bandwidth=None)}, {}, "0 -> 1: it went wrong"),
        ({"cuda": h.peer(access=False)}, {"peer_access": True}, "0 -> 1: peer access is False"),
        ({"cuda": h.peer(bandwidth=9.0)}, {"bandwidth": {"peer": 300}}, "9 GB/s, expected are 300"),
    ],
    "dcgm-1": [
        (program("dcgmi diag", FAILED_TEST, 226), {}, "memory: Fail"),
        (program("dcgmi diag", "out of memory", 1), {}, "status 1: out of memory"),
        (program("dcgmi diag", "{}"), {}, "status 0"),
        (program("dcgmi diag", "{ not JSON"), {}, "status 0"),
    ],
    "dcgm-2": [(program("dcgmi diag", "", None), {}, "it wrote nothing")],
    "dcgm-3": [(program("dcgmi diag", FAILED_TEST, 226), {}, "memory: Fail")],
    "dcgm-discovery": [
        (program("dcgmi discovery", edit(h.DISCOVERY, "2 GPUs", "3 GPUs")), {}, "DCGM found 3"),
        (
            program("dcgmi discovery", edit(h.DISCOVERY, ":3B:", ":AB:")),
            {},
            "DCGM does not list 0000:3b:00.0",
        ),
        (program("dcgmi discovery", "Segmentation fault", -11), {}, "status -11: Segmentation"),
        (program("dcgmi discovery", ""), {}, "status 0: it wrote nothing"),
    ],
    "mig-instances": [
        (splitting(_mig1=Answer(3, "Unknown Error")), {}, "GPU 0: MIG could not be enabled: Unk"),
        (splitting(_lgip=Answer(0, "no profile")), {}, "GPU 0: there is no profile"),
        (splitting(_cgi=Answer(7, "Insufficient Resources")), {}, "-C ended with status 7: Insuf"),
        (
            splitting(_cgi=Answer(0, "")),
            {},
            "GPU 1: one part of 1g.10gb was made, nvidia-smi lists",
        ),
        (splitting(_dgi=Answer(19, "In use")), {}, "GPU 0: 1 parts could not be removed: In use"),
        (
            splitting(_mig0=Answer(0, "")),
            {},
            "GPU 0: MIG was Disabled and could not be set back: Enabled, then Enabled",
        ),
    ],
    "vllm": [
        (vllm(json.dumps(step(False, "3 tokens instead of 8"))), VLLM, "vllm: 3 tokens instead"),
        (vllm("ValueError: No available memory", 1), VLLM, "vllm: ValueError: No available"),
        (vllm("", files={}), VLLM, "there is no model in /opt/vaultbuild/models/opt"),
        ({"files": MODEL}, VLLM, "vllm: /opt/vaultbuild/venvs/vllm/bin/python"),
    ],
    "topology": [
        (program("nvidia-smi topo", "no topology", 6), {}, "status 6: no topology"),
        (program("nvidia-smi topo", "GPU0\t X \n"), {}, "1 rows for 2 GPUs"),
    ],
    "nvlink": [
        (program("nvidia-smi nvlink", HALF_UP), {}, "GPU 0: links 3 are down"),
        (program("nvidia-smi nvlink", HALF_UP), {"nvlinks": 18}, "GPU 0: 17 links are up"),
        (program("nvidia-smi nvlink", NONE_UP), {"nvlinks": 18}, "GPU 1: 0 links are up"),
    ],
    "fabric": [
        (
            {"xml": edit(H100, "<state>Completed", "<state>In Progress", 1)},
            {},
            "GPU 0: the fabric is In",
        ),
        ({"xml": edit(H100, "<status>Success", "<status>N/A", 1)}, {}, "its status unknown"),
        ({"xml": edit(H100, "<bandwidth>N/A", "<bandwidth>Degraded", 1)}, {}, "is Degraded"),
        ({"xml": RACK}, {}, f"GPU 0 belongs to no cluster: its ClusterUUID is {NONE}"),
        ({}, {"fabric_cluster": True}, "GPU 1 belongs to no cluster"),
        (
            {"xml": IN_RACK},
            {"fabric_cluster": False},
            f"to the cluster {CLUSTER}, expected is none",
        ),
        ({"xml": edit(IN_RACK, CLUSTER, NONE, 1)}, {}, "the GPUs belong to different clusters"),
    ],
}
SKIPPED = {
    "bandwidth": [
        (NO_CUDA, {}, "found no device"),
        ({"cuda": h.device(bandwidth=UNTRIED)}, {}, "GPU 0"),
    ],
    "peer-access": [
        ({"cuda": h.cuda(devices=h.cuda()["devices"][:1])}, {}, "one GPU"),
        ({"cuda": h.cuda(peers=[])}, {}, "fewer than two"),
    ],
    "dcgm-1": [
        ({"programs": NO_DCGM}, {}, "there is no dcgmi"),
        (
            program("dcgmi diag", "Error: unable to establish a connection to the host", 1),
            {},
            "engine",
        ),
        (program("dcgmi diag", h.DIAGNOSIS.replace("Pass", "Skip")), {}, "skipped all"),
    ],
    "dcgm-2": [({"programs": NO_DCGM}, {}, "there is no dcgmi")],
    "dcgm-3": [({"programs": NO_DCGM}, {}, "there is no dcgmi")],
    "dcgm-discovery": [
        ({"programs": NO_DCGM}, {}, "there is no dcgmi"),
        (program("dcgmi discovery", NO_ENGINE, 1), {}, "DCGM's host engine does not run"),
        (NO_SMI, {}, "there is no nvidia-smi"),
    ],
    "mig-instances": [
        ({"xml": L4}, {}, "no GPU here tells its MIG mode"),
        (splitting(parts=2), {}, "GPU 0 is in parts, which are left alone; GPU 1 is in parts"),
        (
            splitting(_mig1=Answer(9, "Unable to enable MIG Mode: In use by another client")),
            {},
            "GPU 0 is in use: Unable to enable",
        ),
        (splitting(_mig1=Answer(0, "pending")), {}, "GPU 1: MIG takes a reset"),
    ],
    "vllm": [({}, {}, "no vllm is expected")],
    "topology": [(NO_SMI, {}, "there is no nvidia-smi")],
    "nvlink": [(program("nvidia-smi nvlink", NONE_UP), {}, "none is expected")],
    "fabric": [({"xml": L4}, {}, "no NVSwitch")],
}


def test_every_check_was_seen_passing_failing_and_skipped():
    assert set(PASSING) == set(FAILING) == set(CHECKS)
    assert set(SKIPPED) == set(CHECKS)


@pytest.mark.parametrize(("check", "machine", "expected", "said"), h.cases(PASSING))
def test_passing(check, machine, expected, said):
    h.passes(CHECKS[check], machine, expected, said)


@pytest.mark.parametrize(("check", "machine", "expected", "said"), h.cases(FAILING))
def test_failing(check, machine, expected, said):
    h.fails(CHECKS[check], machine, expected, said)


@pytest.mark.parametrize(("check", "machine", "expected", "said"), h.cases(SKIPPED))
def test_skipped(check, machine, expected, said):
    h.skips(CHECKS[check], machine, expected, said)


def test_gpus_that_were_whole_are_whole_afterwards():
    smi = h.Splitting()
    h.asked(CHECKS["mig-instances"], {"programs": {"nvidia-smi": smi}}, {})
    assert set(map(tuple, smi.modes.values())) == {("Disabled", "Disabled")}
    assert set(smi.parts.values()) == {0}


def test_what_was_made_of_a_gpu_is_removed_where_the_check_fails():
    smi = h.Splitting()

    def too_many():
        del smi.wrong["-cgi"]
        smi.parts["0"] = 2
        return Answer(0, "")

    smi.wrong["-cgi"] = too_many
    result = h.asked(CHECKS["mig-instances"], {"programs": {"nvidia-smi": smi}}, {})
    assert result.message == "GPU 0: one part of 1g.10gb was made, nvidia-smi lists 2"
    assert set(map(tuple, smi.modes.values())) == {("Disabled", "Disabled")}
    assert set(smi.parts.values()) == {0}
