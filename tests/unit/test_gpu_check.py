"""The quick checks of GPUs, each seen passing, failing and skipped, on a host that is a table."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

# The folders of the tests are no packages, so a file beside this one is loaded by its path.
_spec = importlib.util.spec_from_file_location("gpu_host", Path(__file__).with_name("gpu_host.py"))
h = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(h)

from gpu_check import programs, quick  # noqa: E402 - its path is set above
from gpu_check.host import Answer  # noqa: E402

CHECKS = {one.id: one for one in (*quick.CHECKS, *programs.CHECKS, quick.LAST)}
H100, A100, L4, text, edit, program = h.H100, h.A100, h.L4, h.text, h.edit, h.program
NO_SMI, NO_CUDA, BAD, UNTRIED, step = h.NO_SMI, h.NO_CUDA, h.BAD, h.UNTRIED, h.step
SEEN = "GPU 0: NVIDIA H100 80GB HBM3\nGPU 1: NVIDIA H100 80GB HBM3\n"
DOCKER = {
    "programs": {
        **dict.fromkeys(["podman image", "podman import", "podman rmi", "podman run"]),
        "docker image": "[]", "docker run": SEEN, "docker import": "sha256:0f1e", "docker rmi": "",
    }
}  # fmt: skip
SITE = "/opt/vaultbuild/venvs/default/lib/python3.13/site-packages"
PYTHON = "/opt/vaultbuild/venvs/default/bin/python"


def venv(said, status=0):
    return program(PYTHON, said, status)


# Volta counts in another form, and has pages instead of rows.
OLD = edit(edit(H100, "<dram_uncorrectable>0", "<dram_u>0"), "<sram_uncorrectable_", "<sram_u_")
OLD = edit(edit(OLD, "</sram_uncorrectable_", "</sram_u_"), "</dram_uncorrectable", "</dram_u")
OLD_ERRORS = edit(OLD, "<volatile>", "<volatile><double_bit><total>3</total></double_bit>", 1)
PAGES = text(H100, "pending_retirement", "No", 2)
SLOW = text(H100, "current_link_gen", "3")
# Check: case → (the machine, what is expected of it, a part of what is said).
PASSING = {
    "nvidia-smi": [({}, {}, "driver 550.163.01, CUDA 12.4, 2 GPUs")],
    "driver-version": [
        ({}, {}, "library and module"),
        ({}, {"driver_version": "550.163.01"}, "as expected"),
    ],
    "cuda-version": [
        ({}, {"cuda_version": "12.4"}, "12.4"),
        ({}, {"cuda_version": "12.2"}, "12.4"),
    ],
    "gpu-list": [
        ({}, {}, "2 x NVIDIA H100 80GB HBM3"),
        ({}, {"gpus": {"NVIDIA H100 80GB HBM3": 2}}, "2 x NVIDIA H100"),
        ({"bus": []}, {"gpus": {"NVIDIA H100 80GB HBM3": 2}}, "2 x NVIDIA H100"),
    ],
    "declared-gpus": [
        ({}, {"pci_ids": {"L4": ["27B8"], "H100": ["2331", "2330"]}}, "2 x H100"),
        # Asked of the bus, since a driver that is too old for a GPU does not list it.
        ({**NO_SMI}, {"pci_ids": {"H100": ["2330"]}}, "2 x H100"),
        ({"bus": []}, {"pci_ids": {"H100": ["2330"]}}, "2 x H100"),
    ],
    "ecc": [({}, {}, "2 x Enabled"), ({"xml": OLD}, {"ecc": "Enabled"}, "2 x Enabled")],
    "persistence-mode": [({}, {}, "2 x Enabled")],
    "retired-pages": [({"xml": text(PAGES, "retired_count", "4")}, {}, "4 pages retired")],
    "remapped-rows": [({"xml": text(H100, "remapped_row_corr", "2")}, {}, "2 rows remapped")],
    "mig-mode": [
        ({}, {}, "2 x Disabled"),
        ({"xml": A100}, {"mig": "Enabled"}, "1 x Enabled, 2 MIG devices"),
    ],
    "cuda-devices": [
        ({}, {}, "CUDA 12.4: 0: NVIDIA H100 80GB HBM3, compute capability 9.0, 81062 MiB"),
        # CUDA shows one part of GPUs that are in parts.
        (
            {
                "xml": edit(H100, "<current_mig>Disabled", "<current_mig>Enabled"),
                "cuda": h.cuda(devices=h.cuda()["devices"][:1]),
            },
            {},
            "CUDA 12.4",
        ),
    ],
    "cuda-copy": [({}, {}, "GPU 0: right; GPU 1: right")],
    "cuda-kernel": [({}, {}, "GPU 0: right; GPU 1: right")],
    "device-nodes": [({}, {}, "4 device nodes")],
    "pcie-width": [({}, {}, "2 x x16")],
    "pcie-generation": [
        ({}, {}, "2 x PCIe 5"),
        # Asked while CUDA holds the GPU, its link is as fast as it gets.
        ({"xml": L4, "cuda": h.cuda(text(L4, "current_link_gen", "4"))}, {}, "1 x PCIe 4"),
    ],
    "torch": [({}, {}, "default: torch 2.6.0")],
    "onnxruntime": [
        ({}, {}, "default: "),
        # A build without CUDA beside one with it.
        (
            {
                "files": {"/opt/vaultbuild/venvs/cpu/lib/python3.13/site-packages/onnxruntime": ""},
                "programs": {"venvs/cpu/bin/python": json.dumps(step(None))},
            },
            {},
            "default: ",
        ),
    ],
    "tensorflow": [({}, {}, "default: ")],
    "container": [
        ({}, {"container_image": "cuda"}, "a container of cuda sees 2 GPUs"),
        (DOCKER, {"container_image": "cuda"}, "a container of cuda sees 2 GPUs"),
        ({}, {}, "a container of localhost/gpu-check:check sees 2 GPUs"),
        (DOCKER, {}, "a container of localhost/gpu-check:check sees 2 GPUs"),
    ],
    "kernel-log": [
        ({}, {}, "no Xid in 3 lines"),
        ({"programs": {"journalctl": None}}, {}, "no Xid"),
    ],
}
FAILING = {
    "nvidia-smi": [
        (NO_SMI, {}, "no nvidia-smi"),
        (
            program("nvidia-smi -q", "NVIDIA-SMI has failed", 9),
            {},
            "status 9: NVIDIA-SMI has failed",
        ),
        (program("nvidia-smi -q", "", None), {}, "it wrote nothing"),
        (program("nvidia-smi -q", "<?xml version"), {}, "wrote no XML"),
        (program("nvidia-smi -q", '<?xml version="1.0" ?><log/>'), {}, "another form: log"),
    ],
    "driver-version": [
        ({}, {"driver_version": "580.65.06"}, "the driver is 550.163.01, expected is 580.65.06"),
        ({"files": {"/sys/module/nvidia/version": "535.1"}}, {}, "the loaded module is 535.1"),
    ],
    "cuda-version": [({}, {"cuda_version": "12.10"}, "supports CUDA 12.4, expected is 12.10")],
    "gpu-list": [
        (
            {"bus": [*h.BUS[H100], "0000:ab:00.0"]},
            {},
            "0000:ab:00.0 is on the PCI bus and not driven",
        ),
        ({}, {"gpus": {"NVIDIA H100 80GB HBM3": 8}}, "2 x NVIDIA H100 80GB HBM3, expected are 8"),
        ({}, {"gpus": {"NVIDIA L4": 2}}, "NVIDIA H100 80GB HBM3 is not expected"),
    ],
    "declared-gpus": [
        (
            {"files": {"/sys/bus/pci/devices/0000:3b:00.0/device": "0x26b9"}},
            {"pci_ids": {"L4": ["27B8"], "H100": ["2330", "2331"]}},
            "0000:3b:00.0 has the PCI id 26B9, which is none of L4 (27B8), H100 (2330, 2331)",
        ),
        (NO_SMI, {"pci_ids": {"L4": ["27B8"]}}, "0000:19:00.0 has the PCI id 2330"),
        ({"bus": []}, {"pci_ids": {"L4": ["27B8"]}}, "0000:19:00.0 has the PCI id 2330"),
    ],
    "ecc": [
        ({"xml": text(H100, "pending_ecc", "Disabled")}, {}, "GPU 0: ECC is Enabled, and Disabled"),
        ({}, {"ecc": "Disabled"}, "GPU 1: ECC is Enabled, expected is Disabled"),
        ({"xml": text(H100, "dram_uncorrectable", "2")}, {}, "GPU 0: 2 uncorrectable errors"),
        ({"xml": OLD_ERRORS}, {}, "GPU 0: 3 uncorrectable errors"),
        ({"xml": text(H100, "sram_threshold_exceeded", "Yes")}, {}, "wants to be replaced"),
    ],
    "persistence-mode": [({"xml": text(H100, "persistence_mode", "Disabled")}, {}, "GPU 0: ")],
    "retired-pages": [({"xml": text(PAGES, "pending_retirement", "Yes")}, {}, "GPU 0: pages wait")],
    "remapped-rows": [
        ({"xml": text(H100, "remapped_row_pending", "Yes")}, {}, "GPU 0: rows wait for a reset"),
        ({"xml": text(H100, "remapped_row_failure", "Yes")}, {}, "GPU 0: remapping a row failed"),
    ],
    "mig-mode": [
        ({"xml": text(H100, "pending_mig", "Enabled")}, {}, "GPU 0: MIG is Disabled, and Enabled"),
        ({}, {"mig": "Enabled"}, "MIG is Disabled, expected is Enabled"),
    ],
    "cuda-devices": [
        (NO_CUDA, {"cuda_version": "12.4"}, "CUDA 12.4 is expected, and there is no libcuda"),
        (
            {"cuda": h.cuda(error="cuInit returned 802 (CUDA_ERROR_SYSTEM_NOT_READY)")},
            {},
            "fabric manager",
        ),
        ({"cuda": h.cuda(error="cuInit returned 999 (CUDA_ERROR_UNKNOWN)")}, {}, "999"),
        (
            {"cuda": h.cuda(devices=h.cuda()["devices"][:1])},
            {},
            "CUDA finds 1 devices, nvidia-smi 2",
        ),
        (program("--ask-cuda", "", None), {}, "it wrote nothing"),
        (program("--ask-cuda", "Aborted", -6), {}, "ended with status -6: Aborted"),
    ],
    "cuda-copy": [({"cuda": h.device(copy=BAD)}, {}, "GPU 0: it went wrong")],
    "cuda-kernel": [({"cuda": h.device(kernel=BAD)}, {}, "GPU 0: it went wrong")],
    "device-nodes": [
        ({"files": {"/dev/nvidia-uvm": None}}, {}, "/dev/nvidia-uvm is missing"),
        ({"files": {"/dev/nvidia1": None}}, {}, "/dev/nvidia1 is missing"),
    ],
    "pcie-width": [({"xml": text(H100, "current_link_width", "8x")}, {}, "GPU 0: PCIe x8 of x16")],
    "pcie-generation": [({"xml": SLOW}, {}, "GPU 0: PCIe 3 of 5")],
    "torch": [
        (venv(json.dumps(step(False, "torch has no GPU"))), {}, "default: torch has no GPU"),
        (venv("Segmentation fault", -11), {}, "default: Segmentation fault"),
        ({"programs": {PYTHON: None}}, {}, f"default: {PYTHON}"),
    ],
    "onnxruntime": [(venv(json.dumps(step(False, "fell back to the CPU"))), {}, "fell back")],
    "tensorflow": [(venv("[1, 2]"), {}, "default: [1, 2]")],
    "container": [
        (
            {"files": {"/run/cdi/nvidia.yaml": None}, "programs": {"nvidia-ctk": ""}},
            {},
            "there is no CDI specification",
        ),
        (
            {"programs": {**DOCKER["programs"], "docker run": Answer(125, "CDI is not enabled")}},
            {"container_image": "cuda"},
            "docker ended with status 125",
        ),
        (
            program("podman run", "unresolvable CDI devices", 126),
            {"container_image": "cuda"},
            "126",
        ),
        (program("podman run", "GPU 0: NVIDIA H100\n"), {"container_image": "cuda"}, "sees 1 GPUs"),
        (
            program("podman run", "unresolvable CDI devices", 126),
            {},
            "podman ended with status 126",
        ),
        (program("podman run", "GPU 0: NVIDIA H100\n"), {}, "sees 1 GPUs"),
    ],
    "kernel-log": [
        (program("journalctl", h.LOG + h.XID), {}, "Xid 79 of 0000:19:00"),
        (program("journalctl", h.LOG + h.SXID), {}, "SXid 28006 of 0000:c1:00.0"),
    ],
}
NOTHING = "nvidia-smi lists no GPU"
EMPTY = H100[: H100.index("\t<gpu ")] + "</nvidia_smi_log>"
UNREAD = program("nvidia-smi -q", "NVIDIA-SMI has failed", 9)
SKIPPED = {
    "driver-version": [
        (NO_SMI, {}, "there is no nvidia-smi"),
        ({"files": {"/sys/module/nvidia/version": None}}, {}, "no version is expected"),
    ],
    "cuda-version": [
        ({}, {}, "no version is expected"),
        (UNREAD, {"cuda_version": "12.4"}, "read"),
    ],
    "gpu-list": [({"bus": []}, {}, "no list is expected")],
    "declared-gpus": [
        ({}, {}, "no PCI ids are expected"),
        ({"bus": [], **NO_SMI}, {"pci_ids": {"H100": ["2330"]}}, "there is no nvidia-smi"),
        (
            {"bus": [], "xml": edit(H100, "233010DE", "N/A")},
            {"pci_ids": {"H100": ["2330"]}},
            "neither the PCI bus nor nvidia-smi tells",
        ),
    ],
    "ecc": [
        (
            {"xml": text(text(H100, "current_ecc", "N/A", 2), "pending_ecc", "N/A", 2)},
            {},
            "ECC mode",
        )
    ],
    "persistence-mode": [({"xml": EMPTY}, {}, NOTHING), (UNREAD, {}, "no answer")],
    "retired-pages": [({}, {}, "retired pages")],
    "remapped-rows": [({"xml": text(H100, "remapped_row_pending", "N/A", 2)}, {}, "remapped rows")],
    "mig-mode": [({"xml": L4}, {}, "no GPU here tells its MIG mode")],
    "cuda-devices": [(NO_CUDA, {}, "there is no libcuda")],
    "cuda-copy": [
        (NO_CUDA, {}, "found no device"),
        (program("--ask-cuda", "", None), {}, "no answer"),
    ],
    "cuda-kernel": [({"cuda": h.device(kernel=UNTRIED)}, {}, "GPU 0: no NVRTC here")],
    "device-nodes": [(NO_SMI, {}, "there is no nvidia-smi")],
    "pcie-width": [
        ({"xml": text(H100, "max_link_width", "N/A", 2)}, {}, "a virtual machine may hide")
    ],
    "pcie-generation": [
        ({"xml": text(H100, "max_link_gen", "N/A", 2)}, {}, "a virtual machine may hide it"),
        ({"xml": L4}, {}, "GPU 0: PCIe 1 of 4 in P8"),
        ({"xml": L4, **NO_CUDA}, {}, "GPU 0: PCIe 1 of 4 in P8"),
    ],
    "torch": [
        (
            {"files": {f"{SITE}/torch": None}},
            {},
            "no environment in /opt/vaultbuild/venvs has torch",
        ),
        (venv(json.dumps(step(None, "built without CUDA"))), {}, "default: built without CUDA"),
    ],
    "onnxruntime": [({"files": {f"{SITE}/onnxruntime": None}}, {}, "has onnxruntime")],
    "tensorflow": [({"files": {f"{SITE}/tensorflow": None}}, {}, "has tensorflow")],
    "container": [
        (
            {"programs": dict.fromkeys(one for one in DOCKER["programs"] if "podman" in one)},
            {},
            "there is neither podman nor docker",
        ),
        ({"files": {"/run/cdi/nvidia.yaml": None}}, {}, "there is no CDI specification"),
        ({"programs": {"ldd": None}}, {}, "no container_image is expected, and without ldd"),
        (program("ldd", "not a dynamic executable", 1), {}, "needs: not a dynamic executable"),
        (program("ldd", "libm.so.6 => not found"), {}, "none can be made"),
        (program("podman import", "no space left", 125), {}, "podman made none: no space left"),
        (
            program("podman image", "", 1),
            {"container_image": "cuda"},
            "cuda is not on this machine",
        ),
    ],
    "kernel-log": [
        ({"programs": {"journalctl": None, "dmesg": None}}, {}, "neither"),
        ({"programs": {"journalctl": Answer(1, ""), "dmesg": Answer(0, "")}}, {}, "neither"),
    ],
}
# On a machine with a GPU it can always be asked, and not to get an answer is a failure.
NEVER_SKIPPED = {"nvidia-smi"}


def test_every_check_was_seen_passing_failing_and_skipped():
    assert set(PASSING) == set(FAILING) == set(CHECKS)
    assert set(SKIPPED) == set(CHECKS) - NEVER_SKIPPED


@pytest.mark.parametrize(("check", "machine", "expected", "said"), h.cases(PASSING))
def test_passing(check, machine, expected, said):
    h.passes(CHECKS[check], machine, expected, said)


@pytest.mark.parametrize(("check", "machine", "expected", "said"), h.cases(FAILING))
def test_failing(check, machine, expected, said):
    h.fails(CHECKS[check], machine, expected, said)


@pytest.mark.parametrize(("check", "machine", "expected", "said"), h.cases(SKIPPED))
def test_skipped(check, machine, expected, said):
    h.skips(CHECKS[check], machine, expected, said)


@pytest.mark.parametrize("seen", [SEEN, Answer(126, "unresolvable CDI devices")])
def test_an_image_that_was_made_is_removed(seen):
    asked = []

    def removing(argv):
        asked.append(argv)
        return ""

    h.asked(CHECKS["container"], {"programs": {"podman rmi": removing, "podman run": seen}}, {})
    assert asked == [["podman", "rmi", "--force", "localhost/gpu-check:check"]]
