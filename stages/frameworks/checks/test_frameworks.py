"""The frameworks: exactly what the locks list, importable, and able to run a model.

There is one environment for each use of the role ``python_frameworks``.
"""

import hashlib
import json
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# relu(x @ weight + bias) of the rows in inference.py, worked out apart from the code under test.
TINY = [[7.75, 0.0, 0.0], [0.5, 0.0, 1.0], [3.875, 0.0, 0.0]]
# Packages whose versions begin with the CUDA that they belong to; others count by themselves. Up to
# CUDA 12 their names end in the major version, and of CUDA 13 most do not.
OF_CUDA = re.compile(r"nvidia-(cuda-cupti|cuda-nvrtc|cuda-runtime|nvtx)(-cu[0-9]+)?")
# Those that share its major version alone: cuBLAS 13.1 is of CUDA 13.0, as nvJitLink 13.5 may be.
OF_ITS_MAJOR = re.compile(r"nvidia-(cublas|nvjitlink)(-cu[0-9]+)?")

# The first Python whose venv brings no setuptools.
SETUPTOOLS_LEFT = [3, 12]

# Imports, inference and locks: no boot changes what they say.
pytestmark = pytest.mark.anywhere
each_environment = pytest.mark.each_use("python_frameworks")


def ask(host, python, program, *arguments):
    """Run a program in the guest; return what it says."""
    words = " ".join(["%s"] * len(arguments))
    text = (HERE / program).read_text()
    done = host.run(f"HOME=/nonexistent %s -c %s {words}", python, text, *arguments)
    if done.rc:
        pytest.fail(f"{program} gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def lock_of(use):
    """The project's lock file of an environment, as text."""
    return (HERE.parent / Path(use["python_frameworks_requirements"]).name).read_text()


def locked_in(use):
    """Versions by name, as the lock lists them."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ \\\n]+)", lock_of(use), re.MULTILINE))


def has_cuda(use):
    """Whether an environment brings a CUDA of its own."""
    return any(OF_CUDA.fullmatch(name) or OF_ITS_MAJOR.fullmatch(name) for name in locked_in(use))


def has_onnxruntime(use):
    """Whether an environment can run a model in ONNX's form."""
    return {"numpy", "onnxruntime"} <= locked_in(use).keys()


cached = pytest.mark.if_used("model_cache")
running = pytest.mark.if_used("python_frameworks", where=has_onnxruntime)


@pytest.fixture(scope="module")
def models(expected):
    """The folder of the models."""
    return expected.get("model_cache_directory", "/opt/vaultbuild/models")


@pytest.fixture(scope="module")
def machine(host, uses, models):
    """What the machine says about its environments and its models."""
    venvs = [use["python_frameworks_venv"] for use in uses("python_frameworks")]
    return ask(host, "python3", "machine.py", models, *venvs)


@pytest.fixture(scope="module")
def environment(machine, use):
    """What the machine says about one environment."""
    venv = use["python_frameworks_venv"]
    return {
        name: said[venv]
        for name, said in machine.items()
        if isinstance(said, dict) and venv in said
    }


@pytest.fixture(scope="module")
def runtime(uses):
    """The environment that runs the model: the first that can."""
    return next(filter(has_onnxruntime, uses("python_frameworks")))


@pytest.fixture(scope="module")
def inference(host, runtime, models):
    """What the frameworks of that environment compute."""
    python = f"{runtime['python_frameworks_venv']}/bin/python"
    return ask(host, python, "inference.py", f"{models}/tiny/model.onnx")


@pytest.fixture(scope="module")
def locked(use):
    """Versions by name, as the lock of one environment lists them."""
    return locked_in(use)


@each_environment
def test_environment_is_what_the_lock_lists(environment, locked):
    assert environment["frozen"]["status"] == 0
    lines = environment["frozen"]["output"].splitlines()
    named = [line.partition("==") for line in lines]
    found = [f"{re.sub('[-_.]+', '-', name).lower()}=={rest}" for name, _, rest in named]
    assert sorted(found) == sorted(f"{name}=={version}" for name, version in locked.items())


@each_environment
def test_environment_has_nothing_more_but_what_venv_brings(environment, locked):
    brought = {"pip"} if environment["python"] >= SETUPTOOLS_LEFT else {"pip", "setuptools"}
    assert environment["installed"].keys() - locked.keys() == brought


@each_environment
def test_environment_was_made_from_this_lock(environment, use):
    assert environment["lock"] == hashlib.sha256(lock_of(use).encode()).hexdigest()


@each_environment
def test_dependencies_are_complete(environment):
    assert environment["check"] == {"status": 0, "output": "No broken requirements found."}


@each_environment
def test_bytecode_is_there_and_carries_no_time(environment):
    assert environment["compiled"] > 500
    assert environment["dated"] == []


@each_environment
def test_environment_belongs_to_root(environment):
    assert environment["owners"] == [0]


@each_environment
def test_installing_left_nothing_behind(environment, machine):
    assert environment["left"] == machine["caches"] == []


@each_environment
def test_wheels_work_with_the_c_library(environment, machine):
    # A wheel that needs a newer one is installed all the same where pip is told its platform.
    needed = {name: glibc for name, glibc in environment["manylinux"].items() if glibc}
    assert needed
    assert {name: glibc for name, glibc in needed.items() if glibc > machine["glibc"]} == {}


@pytest.mark.each_use("python_frameworks", where=has_cuda)
def test_environment_has_one_cuda(environment):
    numbers = {name: version.split(".") for name, version in environment["installed"].items()}
    minors = {name: tuple(of[:2]) for name, of in numbers.items() if OF_CUDA.fullmatch(name)}
    assert len(set(minors.values())) <= 1, minors
    loose = {name: (of[0],) for name, of in numbers.items() if OF_ITS_MAJOR.fullmatch(name)}
    majors = {name: of[0] for name, of in (minors | loose).items()}
    assert len(set(majors.values())) == 1, majors


@cached
@running
def test_frameworks_are_of_the_locked_versions(inference, runtime):
    locked = locked_in(runtime)
    assert inference["versions"] == {name: locked[name] for name in ("numpy", "onnxruntime")}


@cached
@running
def test_model_computes_what_it_should(inference):
    # Equality, not closeness: weights and rows are multiples of 1/4, exact in binary.
    assert inference["tiny"] == TINY


@cached
@running
def test_linear_algebra_is_right(inference):
    assert inference["residual"] < 1e-8


@cached
def test_models_match_their_manifest(machine):
    assert machine["manifest"] == {"status": 0, "output": ""}


@cached
def test_every_model_is_in_the_manifest(machine):
    assert machine["listed"] == [name for name in machine["files"] if name != "SHA256SUMS"]
    assert "tiny/model.onnx" in machine["listed"]


@cached
def test_models_are_read_only(machine):
    assert machine["writable"] == []
    assert machine["model_owners"] == [0]
