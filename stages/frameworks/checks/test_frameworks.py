"""The frameworks: exactly what the lock lists, importable, and able to run a model."""

import hashlib
import json
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# relu(x @ weight + bias) of the rows in inference.py, worked out apart from the code under test.
TINY = [[7.75, 0.0, 0.0], [0.5, 0.0, 1.0], [3.875, 0.0, 0.0]]


def ask(host, python, program, *arguments):
    """Run a program in the guest; return what it says."""
    words = " ".join(["%s"] * len(arguments))
    text = (HERE / program).read_text()
    done = host.run(f"HOME=/nonexistent %s -c %s {words}", python, text, *arguments)
    if done.rc:
        pytest.fail(f"{program} gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def venv(expected):
    """The folder of the environment."""
    return expected.get("python_frameworks_venv", "/opt/vaultbuild/venvs/default")


@pytest.fixture(scope="module")
def models(expected):
    """The folder of the models."""
    return expected.get("model_cache_directory", "/opt/vaultbuild/models")


@pytest.fixture(scope="module")
def machine(host, venv, models):
    """What the machine says about its environment and its models."""
    return ask(host, "python3", "machine.py", venv, models)


@pytest.fixture(scope="module")
def inference(host, venv, models):
    """What the frameworks compute."""
    return ask(host, f"{venv}/bin/python", "inference.py", f"{models}/tiny/model.onnx")


@pytest.fixture(scope="module")
def lock(expected):
    """The project's lock file, as text."""
    name = Path(expected["python_frameworks_requirements"]).name
    return (HERE.parent / name).read_text()


@pytest.fixture(scope="module")
def locked(lock):
    """Versions by name, as the lock lists them."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ \\\n]+)", lock, re.MULTILINE))


def test_environment_is_what_the_lock_lists(machine, locked):
    assert machine["frozen"]["status"] == 0
    lines = [f"{name}=={version}" for name, version in locked.items()]
    assert sorted(machine["frozen"]["output"].splitlines()) == sorted(lines)


def test_environment_has_nothing_more_but_pip(machine, locked):
    assert set(machine["installed"]) - locked.keys() == {"pip"}


def test_environment_was_made_from_this_lock(machine, lock):
    assert machine["lock"] == hashlib.sha256(lock.encode()).hexdigest()


def test_dependencies_are_complete(machine):
    assert machine["check"] == {"status": 0, "output": "No broken requirements found."}


def test_bytecode_is_there_and_carries_no_time(machine):
    assert machine["compiled"] > 500
    assert machine["dated"] == []


def test_environment_belongs_to_root(machine):
    assert machine["owners"] == [0]


def test_installing_left_nothing_behind(machine):
    assert machine["left"] == []


def test_frameworks_are_of_the_locked_versions(inference, locked):
    assert inference["versions"] == {name: locked[name] for name in ("numpy", "onnxruntime")}


def test_model_computes_what_it_should(inference):
    # Equality, not closeness: weights and rows are multiples of 1/4, exact in binary.
    assert inference["tiny"] == TINY


def test_linear_algebra_is_right(inference):
    assert inference["residual"] < 1e-8


def test_models_match_their_manifest(machine):
    assert machine["manifest"] == {"status": 0, "output": ""}


def test_every_model_is_in_the_manifest(machine):
    assert machine["listed"] == [name for name in machine["files"] if name != "SHA256SUMS"]
    assert "tiny/model.onnx" in machine["listed"]


def test_models_are_read_only(machine):
    assert machine["writable"] == []
    assert machine["model_owners"] == [0]
