"""What other programs do with the GPUs: frameworks in their environments, and a container."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import contextlib
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_check import rootfs
from gpu_check.judge import of_steps
from gpu_check.outcome import Check, Failed, Said, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpu_check.machine import Machine

VENVS = "/opt/vaultbuild/venvs"
_SECONDS = 600
# Docker knows CDI from version 25 on; an older one says so itself, and the check fails.
_RUNTIMES = ("podman", "docker")
# Made where no image is named, and removed.
_IMAGE = "localhost/gpu-check:check"
_CDI_PLACES = ("/etc/cdi/*", "/run/cdi/*", "/var/run/cdi/*")

# Each is run by the interpreter of an environment, and its last line is a STEP as in
# gpu_check/cuda.py. A build without CUDA cannot be asked; one that has it must get a GPU. Sums may
# differ by what TF32 rounds away.
_SAY = """
import json, sys
def say(ok, said):
    print(json.dumps({"ok": ok, "said": said}))
    sys.exit()
"""
_TORCH = """
import torch
if torch.version.cuda is None:
    say(None, f"torch {torch.__version__} is built without CUDA")
if not torch.cuda.is_available():
    say(False, f"torch {torch.__version__} with CUDA {torch.version.cuda} has no GPU")
torch.manual_seed(0)
a, b = torch.rand(512, 512), torch.rand(512, 512)
for index in range(torch.cuda.device_count()):
    device = f"cuda:{index}"
    worst = ((a.to(device) @ b.to(device)).cpu() - a @ b).abs().max().item()
    if not worst < 0.5:
        say(False, f"torch {torch.__version__}: a product on {device} is off by {worst:g}")
say(True, f"torch {torch.__version__}, CUDA {torch.version.cuda}: products on "
    f"{torch.cuda.device_count()} GPUs are those of the CPU")
"""
# The model: y = x + x for two floats, in ONNX's own form.
_ONNXRUNTIME = """
import base64, numpy, onnxruntime
version = onnxruntime.__version__
if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    have = ", ".join(onnxruntime.get_available_providers())
    say(None, f"onnxruntime {version} is built without CUDA: {have}")
model = base64.b64decode("MODEL")
session = onnxruntime.InferenceSession(model, providers=["CUDAExecutionProvider"])
if "CUDAExecutionProvider" not in session.get_providers():
    say(False, f"onnxruntime {version} fell back to {', '.join(session.get_providers())}")
came = session.run(None, {"x": numpy.array([1.5, -2.0], dtype=numpy.float32)})[0].tolist()
if came != [3.0, -4.0]:
    say(False, f"onnxruntime {version} computed {came} instead of [3.0, -4.0]")
say(True, f"onnxruntime {version}: CUDAExecutionProvider computes what it should")
"""
_TENSORFLOW = """
import tensorflow as tf
if not tf.test.is_built_with_cuda():
    say(None, f"tensorflow {tf.__version__} is built without CUDA")
devices = tf.config.list_logical_devices("GPU")
if not devices:
    say(False, f"tensorflow {tf.__version__} has no GPU")
a, b = tf.random.uniform((512, 512), seed=1), tf.random.uniform((512, 512), seed=2)
with tf.device("/CPU:0"):
    right = tf.matmul(a, b)
for device in devices:
    with tf.device(device.name):
        worst = float(tf.reduce_max(tf.abs(tf.matmul(a, b) - right)))
    if not worst < 0.5:
        say(False, f"tensorflow {tf.__version__}: a product on {device.name} is off by {worst:g}")
say(True, f"tensorflow {tf.__version__}: products on {len(devices)} GPUs are those of the CPU")
"""


# One answer by a model that lies on the machine: nothing is fetched, kept or reported. vLLM logs on
# stdout, and threads of it outlive the answer.
_VLLM = """
import os, sys, tempfile
folder = tempfile.TemporaryDirectory(prefix="gpu-check.")
os.environ.update(
    HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CACHE_ROOT=folder.name, VLLM_LOGGING_LEVEL="ERROR", TRITON_CACHE_DIR=folder.name,
)
import vllm
model = vllm.LLM(model=sys.argv[1], enforce_eager=True, max_model_len=128, seed=1)
asked = vllm.SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
came = model.generate(["GPUs are"], asked, use_tqdm=False)[0].outputs[0]
count, said = len(came.token_ids), f"vLLM {vllm.__version__} answered {came.text!r}"
if count != 8:
    said += f", {count} tokens instead of 8"
print(json.dumps({"ok": count == 8, "said": said}))
sys.stdout.flush()
folder.cleanup()
os._exit(0)
"""


def _onnx_model() -> str:
    """Return the model in base64: protobuf by hand, since nothing here may need a library."""
    import base64

    def field(number: int, content: bytes | int) -> bytes:
        if isinstance(content, int):
            return bytes([number << 3, content])
        return bytes([number << 3 | 2, len(content)]) + content

    shape = field(2, field(1, field(1, 2)))
    kind = field(2, field(1, field(1, 1) + shape))
    ends = [field(1, name) + kind for name in (b"x", b"y")]
    node = field(1, b"x") + field(1, b"x") + field(2, b"y") + field(4, b"Add")
    graph = field(1, node) + field(2, b"check") + field(11, ends[0]) + field(12, ends[1])
    model = field(1, 8) + field(7, graph) + field(8, field(2, 13))
    return base64.b64encode(model).decode()


SCRIPTS = {
    "torch": _SAY + _TORCH,
    "onnxruntime": _SAY + _ONNXRUNTIME.replace("MODEL", _onnx_model()),
    "tensorflow": _SAY + _TENSORFLOW,
}


def framework(name: str, machine: Machine) -> Said:
    """In each environment that has it, a framework computes on the GPU what the CPU does."""
    found = machine.host.find(f"{VENVS}/*/lib/python3*/site-packages/{name}")
    if not found:
        raise Skipped(f"no environment in {VENVS} has {name}")
    venvs = [path.partition("/lib/python3")[0] for path in found]
    steps = [(venv.rpartition("/")[2], _asked(machine, venv, SCRIPTS[name])) for venv in venvs]
    # What is built without CUDA beside what is built with it: only the second was to be asked.
    return of_steps([one for one in steps if one[1]["ok"] is not None] or steps)


def prompt(machine: Machine) -> Said:
    """A prompt is answered by vLLM, with a model that lies on the machine."""
    named = machine.expected.vllm
    if not named:
        raise Skipped("no vllm is expected: neither an environment nor a model is named")
    venv, model = named["venv"], named["model"]
    if not machine.host.find(f"{model}/config.json"):
        raise Failed(f"there is no model in {model}: it has no config.json")
    where = machine.host.real(model)
    return of_steps([(venv.rpartition("/")[2], _asked(machine, venv, _SAY + _VLLM, where))])


def _asked(machine: Machine, venv: str, script: str, *words: str) -> dict[str, Any]:
    python = machine.host.real(f"{venv}/bin/python")
    try:
        answer = machine.host.run([python, "-I", "-c", script, *words], timeout=_SECONDS)
    except OSError as error:
        return {"ok": False, "said": str(error)}
    try:
        step = json.loads(answer.stdout.splitlines()[-1])
        return {"ok": step["ok"], "said": step["said"]}
    except (IndexError, KeyError, TypeError, ValueError):
        return {"ok": False, "said": answer.last}


def container(machine: Machine) -> Said:
    """A container that is given all GPUs by CDI sees all of them."""
    host, image = machine.host, machine.expected.container_image
    runtime = next((each for each in _RUNTIMES if host.has(each)), None)
    if runtime is None:
        raise Skipped(f"there is neither {' nor '.join(_RUNTIMES)}")
    if not any(host.find(place) for place in _CDI_PLACES):
        without = "there is no CDI specification (nvidia-ctk cdi generate writes one)"
        # Who installs the Container Toolkit wants containers with GPUs.
        raise (Failed if host.has("nvidia-ctk") else Skipped)(without)
    if not image:
        with _made_image(machine, runtime) as made:
            return _seen(machine, runtime, made)
    if host.run([runtime, "image", "inspect", image]).status != 0:
        raise Skipped(f"{image} is not on this machine, and nothing is fetched")
    return _seen(machine, runtime, image)


@contextlib.contextmanager
def _made_image(machine: Machine, runtime: str) -> Iterator[str]:
    """Yield an image of what nvidia-smi is linked with, and remove it."""
    if not machine.host.has("ldd"):
        raise Skipped("no container_image is expected, and without ldd none can be made")
    with tempfile.TemporaryDirectory(prefix="gpu-check.") as folder:
        archive = Path(folder, "root.tar")
        try:
            archive.write_bytes(rootfs.packed(machine.host, "nvidia-smi"))
        except OSError as error:
            raise Skipped(f"no container_image is expected, none can be made: {error}") from error
        answer = machine.host.run([runtime, "import", str(archive), _IMAGE], timeout=_SECONDS)
    if answer.status != 0:
        raise Skipped(f"no container_image is expected, {runtime} made none: {answer.last}")
    try:
        yield _IMAGE
    finally:
        machine.host.run([runtime, "rmi", "--force", _IMAGE])


def _seen(machine: Machine, runtime: str, image: str) -> Said:
    argv = [runtime, "run", "--rm", "--pull=never", "--network=none"]
    argv += ["--device", "nvidia.com/gpu=all", image, "nvidia-smi", "-L"]
    answer = machine.host.run(argv, timeout=_SECONDS)
    if answer.status != 0:
        raise Failed(f"{runtime} ended with status {answer.status}: {answer.last}", answer.said)
    seen = sum(line.startswith("GPU ") for line in answer.stdout.splitlines())
    if seen != len(machine.gpus):
        raise Failed(
            f"the container sees {seen} GPUs, this machine has {len(machine.gpus)}", answer.said
        )
    return Said(f"a container of {image} sees {seen} GPUs", answer.stdout.strip())


CHECKS = (
    *(Check(name, f"{name} on the GPUs", partial(framework, name)) for name in SCRIPTS),
    Check("container", "A container with CDI", container),
)
