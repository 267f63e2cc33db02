"""cuDNN: one, made for the CUDA of the image, held."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says."""
    done = host.run("python3 -c %s", PROGRAM)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def test_packages_are_pinned_and_held(machine, expected):
    names = expected["cudnn_packages"] or [f"libcudnn9-cuda-{expected['cudnn_cuda_major']}"]
    pinned = {name: [expected["cudnn_version"], "hold"] for name in names}
    assert {name: machine["packages"].get(name) for name in pinned} == pinned


def test_it_is_for_one_cuda(machine, expected):
    found = [name for name in machine["packages"] if name.startswith(("libcudnn", "nvidia-cudnn"))]
    others = [name for name in found if not name.endswith(f"-cuda-{expected['cudnn_cuda_major']}")]
    assert others == []


def test_the_library_is_there_once(machine, expected):
    # 9.10.2.21-1: its file carries 9.10.2.
    version = expected["cudnn_version"].partition("-")[0].split(".")[:3]
    assert machine["libraries"] == [".".join(version)]
