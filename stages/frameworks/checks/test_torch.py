"""torch, where an environment has it: its CUDA is its wheels', and it trains."""

import json
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# What every image has code for; beside that, the GPUs that one is for.
TARGETS = [75, 80, 86, 89, 90]


def locked_in(use):
    """Versions by name, as an environment's lock lists them."""
    text = (HERE.parent / Path(use["python_frameworks_requirements"]).name).read_text()
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ \\\n]+)", text, re.MULTILINE))


def has_torch(use):
    """Whether an environment brings torch."""
    return "torch" in locked_in(use)


pytestmark = [
    pytest.mark.each_use("python_frameworks", where=has_torch),
    pytest.mark.anywhere,
]


@pytest.fixture(scope="module")
def locked(use):
    """Versions by name, as the lock lists them."""
    return locked_in(use)


@pytest.fixture(scope="module")
def training(host, use):
    """What torch says about itself, and computes."""
    text = (HERE / "training.py").read_text()
    done = host.run(
        "HOME=/nonexistent %s -c %s", f"{use['python_frameworks_venv']}/bin/python", text
    )
    if done.rc:
        pytest.fail(f"training.py gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def wheel_of(locked, name):
    """Return the version of NVIDIA's wheel of a library, as numbers, however it is called."""
    found = (version for key, version in locked.items() if re.fullmatch(f"{name}(-cu[0-9]+)?", key))
    return [int(number) for number in next(found).split(".")]


def test_torch_is_of_the_locked_version(training, locked):
    # What stands after "+" says for what it was built, which test_torch_is_for_the_cuda_* asks.
    versions = {name: version.partition("+")[0] for name, version in training["versions"].items()}
    assert versions == {name: locked[name] for name in ("numpy", "torch")}


def test_torch_is_for_the_cuda_of_its_wheels(training, locked):
    minor = wheel_of(locked, "nvidia-cuda-runtime")[:2]
    assert training["cuda"] == "{}.{}".format(*minor)


def test_torch_loads_the_libraries_of_its_wheels(training, locked):
    for name in ("cudnn", "nccl"):
        major, minor, patch, *_ = wheel_of(locked, f"nvidia-{name}")
        assert training[name] == major * 10000 + minor * 100 + patch


def test_torch_finds_cuda_in_its_environment(training, use):
    # The system has a libcudart, too.
    names = {Path(path).name.partition(".so")[0] for path in training["loaded"]}
    assert {"libcublas", "libcudart", "libcudnn", "libnccl"} - names == set()
    inside = f"{use['python_frameworks_venv']}/"
    assert [path for path in training["loaded"] if not path.startswith(inside)] == []


def first_code(training, target):
    """The first architecture of a target's generation that there is machine code for: it runs on
    the later devices of the generation.
    """
    found = re.findall(r"\bsm_([0-9]+)\b", " ".join(training["architectures"]))
    ours = [int(number) for number in found if int(number) // 10 == target // 10]
    return min(ours, default=target + 1)


@pytest.mark.parametrize("target", TARGETS)
def test_torch_has_code_for(training, target):
    assert first_code(training, target) <= target


def test_torch_has_code_for_the_gpus_of_the_image(training, gpus):
    if not gpus:
        pytest.skip("no GPU is named in particular")
    without = [name for name, target in gpus.items() if first_code(training, target) > target]
    assert without == []


def test_torch_trains(training):
    # From w = 0: loss = mean(y²); w' = rate · 2/n · xᵀy = 0.125 · (7, 10); all exact in binary.
    assert training["trained"] == {"weights": [[0.875, 1.25]], "losses": [2.5, 18.640625]}


def test_torch_convolves(training):
    assert training["convolved"] == [[[[9.0, 9.0], [9.0, 9.0]]]]


def test_linear_algebra_of_torch_is_right(training):
    assert training["residual"] < 1e-8
