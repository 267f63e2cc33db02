"""The program that checks GPUs, as a whole: real processes, and a library in place of CUDA's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from builder import gpu

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / gpu.PROGRAM
FOUND = {
    "cuda-devices", "cuda-copy", "cuda-kernel", "device-nodes", "pcie-width", "pcie-generation",
    "bandwidth", "peer-access", "topology", "nvlink", "fabric", "kernel-log", "nvidia-smi",
    "gpu-list", "ecc", "persistence-mode", "remapped-rows", "mig-mode",
}  # fmt: skip


@pytest.fixture
def run(gpu_machine, tmp_path):
    """Run the program on the machine; return its exit status and its results by id."""

    def start(*words, program=PROGRAM, **broken):
        argv = [sys.executable, program, *words, "--json", tmp_path / "gpu.json"]
        env = gpu_machine.environment(**broken)
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        written = tmp_path / "gpu.json"
        document = json.loads(written.read_text()) if written.exists() else {"results": []}
        return done, document, {one["id"]: one for one in document["results"]}

    return start


def having(results, outcome):
    return {name for name, one in results.items() if one["outcome"] == outcome}


def test_everything_is_asked_of_a_sound_machine(run, tmp_path):
    done, document, results = run("--level", "medium", "--junit", tmp_path / "gpu.xml")
    assert having(results, "failed") == set(), done.stdout
    assert done.returncode == 0
    assert having(results, "passed") == FOUND
    assert document["outcome"] == "passed"
    assert [one["bus"] for one in document["gpus"]] == ["0000:19:00.0", "0000:3b:00.0"]
    # 8 MiB ten times in the ten milliseconds that everything takes there.
    assert "GPU 1: host_to_device 8.4 GB/s" in results["bandwidth"]["message"]
    assert "NVRTC 12.4 compiled for sm_90, 65536 results" in results["cuda-kernel"]["message"]
    assert "2 of 2 ways are direct" in results["peer-access"]["message"]
    assert len(ET.parse(tmp_path / "gpu.xml").getroot()) == len(results)  # noqa: S314 - our own


def split(gpu_machine):
    """The GPUs that are split now, and their parts."""
    return sorted(path.name for path in gpu_machine.bin.glob("*[01]"))


def test_a_long_run_splits_gpus_and_makes_them_whole_again(run, gpu_machine):
    done, _, results = run("--level", "long")
    assert having(results, "failed") == set(), done.stdout
    assert having(results, "passed") == FOUND | {"mig-instances"}
    made = "1g.10gb made and removed"
    assert results["mig-instances"]["message"] == f"GPU 0: {made}; GPU 1: {made}"
    assert split(gpu_machine) == []


def test_a_long_run_that_is_stopped_makes_gpus_whole_again(gpu_machine, tmp_path):
    (gpu_machine.bin / "profiles").unlink()  # now nvidia-smi hangs, with a GPU that was split
    os.mkfifo(gpu_machine.bin / "asleep")
    argv = [sys.executable, PROGRAM, "--level", "long", "--json", tmp_path / "gpu.json"]
    with subprocess.Popen(argv, env=gpu_machine.environment()) as child:
        (gpu_machine.bin / "asleep").read_text()
        assert split(gpu_machine) == ["split0"]
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 128 + signal.SIGTERM
    assert split(gpu_machine) == []


@pytest.mark.parametrize(
    ("broken", "failing", "said"),
    [
        ({"FAKE_CUDA_BREAK": "context"}, {"cuda-copy"}, "2 (CUDA_ERROR_OUT_OF_MEMORY)"),
        ({"FAKE_CUDA_BREAK": "kernel"}, {"cuda-kernel"}, "1 of 65536 results of the kernel are"),
        ({"FAKE_CUDA_BREAK": "compile"}, {"cuda-kernel"}, "5 (NVRTC_ERROR_INVALID_OPTION)"),
        ({"FAKE_CUDA_BREAK": "crash"}, {"cuda-devices"}, "ended with status -6"),
        ({"FAKE_CUDA_INIT": "802"}, {"cuda-devices"}, "the GPUs wait for their fabric manager"),
        ({"FAKE_CUDA_INIT": "100"}, {"cuda-devices"}, "100 (CUDA_ERROR_NO_DEVICE)"),
        ({"FAKE_CUDA_COUNT": "1"}, {"cuda-devices"}, "CUDA finds 1 devices, nvidia-smi 2"),
    ],
)
def test_what_is_wrong_with_cuda_fails_its_check(run, broken, failing, said):
    done, document, results = run(**broken)
    assert having(results, "failed") == failing, done.stdout
    assert said in results[min(failing)]["message"]
    assert (done.returncode, document["outcome"]) == (1, "failed")


@pytest.mark.parametrize(
    ("broken", "failing", "at"),
    [
        ("copy", {"cuda-copy", "cuda-kernel", "peer-access"}, 33554432),
        ("peer", {"peer-access"}, 0),
    ],
)
def test_bytes_that_come_back_wrong_are_found(run, broken, failing, at):
    _, _, results = run("--level", "medium", FAKE_CUDA_BREAK=broken)
    assert having(results, "failed") == failing
    said = f"of 67108864 bytes, what was copied is wrong from byte {at} on"
    assert said in results["peer-access"]["message"]


def test_gpus_that_do_not_reach_each_other_are_told(run):
    _, _, results = run("--level", "medium", FAKE_CUDA_ACCESS="0")
    assert "0 of 2 ways are direct" in results["peer-access"]["message"]


def test_a_missing_library_is_no_good_answer(run):
    _, _, results = run(LD_LIBRARY_PATH="/nonexistent")
    assert having(results, "skipped") >= {"cuda-devices", "cuda-copy", "cuda-kernel"}
    assert "there is no libcuda" in results["cuda-devices"]["message"]


def test_without_nvrtc_no_kernel_is_run(run, cuda_libraries, tmp_path):
    (tmp_path / "libcuda.so.1").symlink_to(cuda_libraries / "libcuda.so.1")
    _, _, results = run(LD_LIBRARY_PATH=str(tmp_path))
    assert results["cuda-copy"]["outcome"] == "passed"
    assert results["cuda-kernel"]["outcome"] == "skipped"
    assert "libnvrtc.so.12" in results["cuda-kernel"]["message"]


def test_without_a_gpu_nothing_is_checked(run, tmp_path):
    done, document, results = run("--root", tmp_path, "--level", "medium")
    assert (done.returncode, document["outcome"]) == (3, "no-gpu")
    assert done.stderr == "no NVIDIA GPU is here: none on the PCI bus, and no /dev/nvidia0\n"
    assert having(results, "skipped") == set(results) == {"gpu-present"}


def test_whether_a_gpu_is_here_can_be_asked_alone(run, tmp_path):
    done, _, results = run("--present")
    assert (done.returncode, results) == (0, {})
    done, _, results = run("--present", "--root", tmp_path)
    assert (done.returncode, results) == (3, {})


def test_expectations_that_cannot_be_used_are_no_result(run, tmp_path):
    (tmp_path / "expect.json").write_text('{"gpu": 8}')
    done, _, results = run("--expect", tmp_path / "expect.json")
    assert (done.returncode, results) == (2, {})
    assert "gpu: is not known here" in done.stderr


def test_expectations_are_compared_and_kept(run, tmp_path):
    expected = {
        "driver_version": "580.65.06",
        "gpus": {"NVIDIA H100 80GB HBM3": 2},
        "pci_ids": {"A100": ["20B2"]},
    }
    (tmp_path / "expect.json").write_text(json.dumps(expected))
    _, document, results = run("--expect", tmp_path / "expect.json")
    assert document["expected"] == expected
    assert having(results, "failed") == {"driver-version", "declared-gpus"}


def test_packed_into_one_file_it_is_the_same_program(run, tmp_path):
    packed = gpu.packed(ROOT)
    assert packed == gpu.packed(ROOT)
    (tmp_path / "gpu-check.pyz").write_bytes(packed)
    done, document, results = run("--level", "medium", program=tmp_path / "gpu-check.pyz")
    assert (done.returncode, document["outcome"]) == (0, "passed"), done.stdout
    assert having(results, "passed") == FOUND


def test_frameworks_are_asked_in_their_own_interpreter(run, gpu_machine):
    """Of an environment whose torch has no GPU: the real script, on a torch that is a stand-in."""
    venv = gpu_machine.root / "opt/vaultbuild/venvs/default"
    site = venv / "lib/python3.13/site-packages"
    (site / "torch").mkdir(parents=True)
    (site / "torch/__init__.py").write_text(
        "class version: cuda = '12.4'\nclass cuda:\n    is_available = lambda: False\n"
        "__version__ = '2.6.0'\n"
    )
    (venv / "bin").mkdir()
    python = venv / "bin/python"
    # -I keeps PYTHONPATH away, as it should: the stand-in is put on the path by hand.
    begin = f"import sys; sys.path.insert(0, '{site}')"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -c "{begin}\n$1"\n')
    python.chmod(0o755)
    _, _, results = run()
    assert results["torch"]["message"] == "default: torch 2.6.0 with CUDA 12.4 has no GPU"
    assert results["torch"]["outcome"] == "failed"


@pytest.mark.parametrize(
    ("tokens", "outcome", "said"),
    [
        (8, "passed", "vllm: vLLM 0.8.5 answered ' fast'"),
        (3, "failed", "vllm: vLLM 0.8.5 answered ' fast', 3 tokens instead of 8"),
    ],
)
def test_a_prompt_is_answered_in_the_environment_of_vllm(
    run, gpu_machine, tmp_path, tokens, outcome, said
):
    """The real script, on a vLLM that is a stand-in: it must not fetch, and writes on stdout."""
    venv, model = "/opt/vaultbuild/venvs/vllm", "/opt/vaultbuild/models/org/name"
    site = gpu_machine.root / venv[1:] / "lib/python3.12/site-packages"
    site.mkdir(parents=True)
    (site / "vllm.py").write_text(
        "import os, types\n__version__ = '0.8.5'\nSamplingParams = dict\n"
        "class LLM:\n"
        "    def __init__(self, model, **how):\n"
        "        assert os.environ['HF_HUB_OFFLINE'] == '1'\n"
        "        assert os.path.exists(model + '/config.json')\n"
        "    def generate(self, prompts, asked, use_tqdm):\n"
        "        print('INFO: one prompt')\n"
        f"        came = types.SimpleNamespace(text=' fast', token_ids=range({tokens}))\n"
        "        return [types.SimpleNamespace(outputs=[came])]\n"
    )
    python = gpu_machine.root / venv[1:] / "bin/python"
    python.parent.mkdir()
    begin = f"import sys; sys.path.insert(0, '{site}')"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -c "{begin}\n$1" "$2"\n')
    python.chmod(0o755)
    (gpu_machine.root / model[1:]).mkdir(parents=True)
    (gpu_machine.root / model[1:] / "config.json").write_text("{}")
    (tmp_path / "expect.json").write_text(json.dumps({"vllm": {"venv": venv, "model": model}}))
    _, _, results = run("--level", "medium", "--expect", tmp_path / "expect.json")
    assert (results["vllm"]["outcome"], results["vllm"]["message"]) == (outcome, said)


def test_a_stopped_run_leaves_neither_programs_nor_results(gpu_machine, tmp_path):
    (gpu_machine.bin / "query.xml").unlink()  # now nvidia-smi hangs
    os.mkfifo(gpu_machine.bin / "asleep")
    argv = [sys.executable, PROGRAM, "--json", tmp_path / "gpu.json"]
    with subprocess.Popen(argv, env=gpu_machine.environment()) as child:
        hanging = int((gpu_machine.bin / "asleep").read_text())
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 128 + signal.SIGTERM
    assert not Path("/proc", str(hanging)).exists()
    assert not (tmp_path / "gpu.json").exists()
