"""The frameworks: exactly what the lock lists, importable, and able to run a model."""

import hashlib
import json
import re
from pathlib import Path

import pytest

STAGE = Path(__file__).parent.parent
VENV = "/opt/vaultbuild/venvs/default"
MODELS = "/opt/vaultbuild/models"
# relu(x @ weight + bias) of the three rows below, worked out apart from the code under test.
TINY = [[7.75, 0.0, 0.0], [0.5, 0.0, 1.0], [3.875, 0.0, 0.0]]

ASK = r"""
import glob, hashlib, json, os, subprocess, sys
from importlib.metadata import distributions

venv, models = sys.argv[1:]

def run(*command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    return {"status": done.returncode, "output": (done.stdout + done.stderr).strip()}

def bytecode(path):
    with open(path, "rb") as file:
        return int.from_bytes(file.read(8)[4:], "little")

pip = [venv + "/bin/python", "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
packages = glob.glob(venv + "/lib/python3*/site-packages")
compiled = glob.glob(venv + "/lib/**/*.pyc", recursive=True)
files = [os.path.join(folder, name) for folder, _, names in os.walk(models) for name in names]
print(json.dumps({
    "frozen": run(*pip, "freeze"),
    "check": run(*pip, "check"),
    "lock": hashlib.sha256(open(venv + "/requirements.lock", "rb").read()).hexdigest(),
    "left": [name for name in ("requirements.new",) if os.path.exists(venv + "/" + name)],
    "distributions": sorted(one.metadata["Name"].lower() for one in distributions(path=packages)),
    "compiled": len(compiled),
    "dated": [path for path in compiled if bytecode(path) != 1][:5],
    "caches": [path for path in glob.glob("/root/.cache/*") + glob.glob("/root/.config/pip*")],
    "manifest": run("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS", cwd=models),
    "listed": sorted(line.split("  ", 1)[1].strip() for line in open(models + "/SHA256SUMS")),
    "files": sorted(os.path.relpath(path, models) for path in files),
    "writable": [path for path in files if os.stat(path).st_mode & 0o222 or os.stat(path).st_uid],
    "owners": sorted({os.stat(path).st_uid for path in glob.glob(venv + "/**", recursive=True)}),
}))
"""

INFER = r"""
import json, sys
import numpy, onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
x = numpy.array([[1, 2, 3, 4], [0, 0, 0, 0], [-1, 0.5, 0, 2]], dtype=numpy.float32)
(y,) = session.run(["y"], {"x": x})
rng = numpy.random.default_rng(1)
a = rng.standard_normal((32, 32))
print(json.dumps({
    "y": y.tolist(),
    "residual": float(numpy.abs(numpy.linalg.solve(a, a @ numpy.ones(32)) - 1).max()),
    "providers": onnxruntime.get_available_providers(),
    "versions": {"numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__},
}))
"""


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says about its environment and its models."""
    return json.loads(host.check_output("python3 -c %s %s %s", ASK, VENV, MODELS))


@pytest.fixture(scope="module")
def inference(host):
    """What the frameworks compute; imported by the environment's own interpreter."""
    command = "HOME=/nonexistent %s -c %s %s"
    return json.loads(host.check_output(command, f"{VENV}/bin/python", INFER, f"{MODELS}/tiny/model.onnx"))


@pytest.fixture(scope="module")
def lock(expected):
    """The project's lock file, as text."""
    return (STAGE / Path(expected["python_frameworks_requirements"]).name).read_text()


@pytest.fixture(scope="module")
def locked(lock):
    """Versions by name, as the lock lists them."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ \\\n]+)", lock, re.MULTILINE))


def test_environment_is_what_the_lock_lists(machine, locked):
    assert machine["frozen"]["status"] == 0
    frozen = dict(line.split("==") for line in machine["frozen"]["output"].splitlines())
    assert frozen == locked


def test_environment_has_nothing_more_but_pip(machine, locked):
    assert set(machine["distributions"]) - locked.keys() == {"pip"}


def test_environment_remembers_this_lock(machine, lock):
    assert machine["lock"] == hashlib.sha256(lock.encode()).hexdigest()
    assert machine["left"] == []


def test_dependencies_are_complete(machine):
    assert machine["check"] == {"status": 0, "output": "No broken requirements found."}


def test_bytecode_carries_no_time(machine):
    assert machine["compiled"] > 500
    assert machine["dated"] == []


def test_environment_belongs_to_root(machine):
    assert machine["owners"] == [0]


def test_pip_left_nothing_behind(machine):
    assert machine["caches"] == []


def test_frameworks_are_of_the_locked_versions(inference, locked):
    wanted = {name: locked[name] for name in ("numpy", "onnxruntime")}
    assert inference["versions"] == wanted


def test_model_computes_what_it_should(inference):
    # Equality, not closeness: weights and rows are multiples of 1/4, exact in binary.
    assert inference["y"] == TINY


def test_linear_algebra_is_right(inference):
    assert inference["residual"] < 1e-8


def test_models_match_their_manifest(machine):
    assert machine["manifest"] == {"status": 0, "output": ""}
    assert machine["listed"] == [name for name in machine["files"] if name != "SHA256SUMS"]
    assert "tiny/model.onnx" in machine["listed"]


def test_models_are_read_only(machine):
    assert machine["writable"] == []
