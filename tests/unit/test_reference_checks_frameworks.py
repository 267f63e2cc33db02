"""The checks of the frameworks stage, on answers of sound and of broken machines."""

from __future__ import annotations

import hashlib
import re
import runpy
from pathlib import Path

CHECKS = "stages/frameworks/checks/test_frameworks.py"
ROOT = Path(__file__).parents[2]
# As in the variant debian-13-torch: the default environment and one more.
DEFAULT, TORCH = "python_frameworks", "python_frameworks:torch"
FILES = {DEFAULT: "requirements.lock", TORCH: "torch.lock"}
VENVS = {DEFAULT: "/opt/vaultbuild/venvs/default", TORCH: "/opt/vaultbuild/venvs/torch"}
LOCKS = {name: (ROOT / "stages/frameworks" / file).read_text() for name, file in FILES.items()}
LOCKED = {
    name: dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
    for name, text in LOCKS.items()
}
UNKNOWN = "error: FileNotFoundError()"
ROWS = [[1, 2, 3, 4], [0, 0, 0, 0], [-1, 0.5, 0, 2]]
# As pip writes some of the names that a lock has in small letters and with hyphens.
SPELT = {"jinja2": "Jinja2", "markupsafe": "MarkupSafe", "typing-extensions": "typing_extensions"}
SOUND_CHECK = {"status": 0, "output": "No broken requirements found."}


def computed():
    """relu(x @ weight + bias) with the numbers of the program that makes the model."""
    made = runpy.run_path(str(ROOT / "ansible/roles/model_cache/files/make_models.py"))
    wide, weight = made["OUTPUTS"], made["WEIGHT"]
    return [
        [
            max(0.0, sum(x * weight[k * wide + n] for k, x in enumerate(row)) + made["BIAS"][n])
            for n in range(wide)
        ]
        for row in ROWS
    ]


def frozen(name):
    return "\n".join(f"{SPELT.get(n, n)}=={v}" for n, v in LOCKED[name].items())


def environments(venvs):
    """What is answered about each environment, by its folder."""

    def each(ask):
        return {venv: ask(name) for name, venv in venvs.items()}

    return {
        "check": each(lambda _: SOUND_CHECK),
        "compiled": each(lambda _: 1391),
        "dated": each(lambda _: []),
        "frozen": each(lambda name: {"status": 0, "output": frozen(name)}),
        "installed": each(lambda name: {**LOCKED[name], "pip": "25.1.1"}),
        "left": each(lambda _: []),
        "lock": each(lambda name: hashlib.sha256(LOCKS[name].encode()).hexdigest()),
        "manylinux": each(lambda name: {**dict.fromkeys(LOCKED[name]), "numpy": [2, 27]}),
        "owners": each(lambda _: [0]),
        "python": each(lambda _: [3, 13]),
    }


def answer():
    machine = {
        **environments(VENVS),
        "caches": [],
        "files": ["SHA256SUMS", "tiny/model.onnx"],
        "glibc": [2, 41],
        "listed": ["tiny/model.onnx"],
        "manifest": {"status": 0, "output": ""},
        "model_owners": [0],
        "writable": [],
    }
    inference = {
        "residual": 2.6e-14,
        "tiny": computed(),
        "versions": {name: LOCKED[DEFAULT][name] for name in ("numpy", "onnxruntime")},
    }
    uses = {
        name: {
            "python_frameworks_requirements": f"stages/frameworks/{FILES[name]}",
            "python_frameworks_venv": VENVS[name],
        }
        for name in FILES
    } | {"model_cache": {}}
    return {
        "expected": uses[DEFAULT],
        "uses": uses,
        "machine.py": machine,
        "inference.py": inference,
    }


def told(**machine):
    return {"machine.py": machine}


def of(name, **said):
    """What differs in one environment."""
    return told(**{question: {VENVS[name]: change} for question, change in said.items()})


def computes(**said):
    return {"inference.py": said}


def elsewhere():
    """All environments in other folders, and the models too."""
    venvs = {DEFAULT: "/opt/venv", TORCH: "/opt/torch"}
    uses = {name: {"python_frameworks_venv": venv} for name, venv in venvs.items()}
    expected = {"model_cache_directory": "/models", **uses[DEFAULT]}
    moved = {question: (..., said) for question, said in environments(venvs).items()}
    return {"expected": expected, "uses": uses, **told(**moved)}


def of_python_311(**installed):
    """An environment of Python 3.11, whose venv brings setuptools as well."""
    return of(DEFAULT, python=[3, 11], installed=installed)


ENVIRONMENT = "test_environment_is_what_the_lock_lists"
MORE = "test_environment_has_nothing_more_but_what_venv_brings"
LOCK = "test_environment_was_made_from_this_lock"
COMPLETE = "test_dependencies_are_complete"
BYTECODE = "test_bytecode_is_there_and_carries_no_time"
OWNER = "test_environment_belongs_to_root"
LEFT = "test_installing_left_nothing_behind"
GLIBC = "test_wheels_work_with_the_c_library"
CUDA = "test_environment_has_one_cuda"
MATCH = "test_models_match_their_manifest"
EVERY = "test_every_model_is_in_the_manifest"
VERSIONS = "test_frameworks_are_of_the_locked_versions"
READ_ONLY = "test_models_are_read_only"
COMPUTES = [VERSIONS, "test_model_computes_what_it_should", "test_linear_algebra_is_right"]


def cudas(**versions):
    """Another CUDA among the installed packages."""
    return of(TORCH, installed={name.replace("_", "-"): v for name, v in versions.items()})


# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "on Python 3.11": (of_python_311(setuptools="66.1.1"),),
    "folders of its own": (elsewhere(),),
    # What torch 2.13 requires, by the names of torch 2.6.
    "cuBLAS of CUDA 13.0 Update 2, and a newer nvJitLink": (
        cudas(
            nvidia_cublas_cu12="13.1.0.3",
            nvidia_cuda_cupti_cu12="13.0.85",
            nvidia_cuda_nvrtc_cu12="13.0.88",
            nvidia_cuda_runtime_cu12="13.0.96",
            nvidia_nvjitlink_cu12="13.5.37",
            nvidia_nvtx_cu12="13.0.85",
        ),
    ),
    "another model too": (told(files=(None, "tiny/other.onnx"), listed=(None, "tiny/other.onnx")),),
    "without the role model_cache": (
        {
            "uses": ("model_cache", None),
            **told(files=(..., []), listed=UNKNOWN, manifest=UNKNOWN, model_owners=UNKNOWN),
            "inference.py": None,
        },
        *(*COMPUTES, MATCH, EVERY, READ_ONLY),
    ),
}


def of_another_version(name):
    """Each package of an environment but the last, as pip tells another version of it."""
    spelt = {SPELT.get(package, package): version for package, version in LOCKED[name].items()}
    return {
        f"{package} of another version": (
            {"frozen": {"output": (f"{package}=={version}\n", f"{package}==9.post1\n")}},
            ENVIRONMENT,
        )
        for package, version in list(spelt.items())[:-1]
    }


def wrong(name):
    """What can be wrong in an environment, and which checks say so."""
    locked, lock = LOCKED[name], LOCKS[TORCH if name == DEFAULT else DEFAULT]
    numpy, first = f"numpy=={locked['numpy']}", next(iter(locked))
    return {
        "a package is missing": (
            {"frozen": {"output": (f"{numpy}\n", "")}, "installed": ("numpy", None)},
            ENVIRONMENT,
        ),
        "a package more": (
            {
                "frozen": {"output": (numpy, f"wheel==0.45.1\n{numpy}")},
                "installed": {"wheel": "0.45.1"},
            },
            ENVIRONMENT,
            MORE,
        ),
        "a package from a folder": (
            {"frozen": {"output": (numpy, f"onnx @ file:///tmp/onnx.whl\n{numpy}")}},
            ENVIRONMENT,
        ),
        "a package that pip does not list": ({"installed": {"wheel": "0.45.1"}}, MORE),
        "pip freeze fails": ({"frozen": {"status": 1}}, ENVIRONMENT),
        "no pip": ({"installed": ("pip", None)}, MORE),
        "made from another lock": ({"lock": hashlib.sha256(b"numpy==1.0\n").hexdigest()}, LOCK),
        "made from the lock of the other": (
            {"lock": hashlib.sha256(lock.encode()).hexdigest()},
            LOCK,
        ),
        "a requirement is unmet": (
            {"check": {"status": 1, "output": f"{first} 1 requires six, which is not installed."}},
            COMPLETE,
        ),
        "no bytecode": ({"compiled": 0}, BYTECODE),
        "bytecode carries times": ({"dated": [f"{VENVS[name]}/lib/python3.13/a.pyc"]}, BYTECODE),
        "files of a user": ({"owners": (None, 1000)}, OWNER),
        "half a lock is left": ({"left": [f"{VENVS[name]}/requirements.new"]}, LEFT),
        "a wheel for a newer C library": ({"manylinux": {first: [2, 42]}}, GLIBC),
        "a wheel for the C library of the year 3000": ({"manylinux": {first: [3, 0]}}, GLIBC),
        "no wheel says for which C library it is": (
            {"manylinux": (..., dict.fromkeys(locked))},
            GLIBC,
        ),
    }


def in_one(name):
    """What can be wrong in one environment: each case fails its checks of that alone."""
    cases = of_another_version(name) | wrong(name)
    return {
        f"{name}: {case}": (of(name, **said), *(f"{check}[{name}]" for check in failing))
        for case, (said, *failing) in cases.items()
    }


# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    **in_one(DEFAULT),
    **in_one(TORCH),
    "setuptools on Python 3.13": (
        of(DEFAULT, installed={"setuptools": "66.1.1"}),
        f"{MORE}[{DEFAULT}]",
    ),
    "Python 3.11 without setuptools": (of_python_311(), f"{MORE}[{DEFAULT}]"),
    "a package more on Python 3.11": (
        of_python_311(setuptools="66.1.1", wheel="0.45.1"),
        f"{MORE}[{DEFAULT}]",
    ),
    "cuBLAS of CUDA 13": (cudas(nvidia_cublas_cu12="13.1.0.3"), f"{CUDA}[{TORCH}]"),
    "nvJitLink of CUDA 13": (cudas(nvidia_nvjitlink_cu12="13.5.37"), f"{CUDA}[{TORCH}]"),
    "a part of CUDA 12.5": (cudas(nvidia_cuda_nvrtc_cu12="12.5.82"), f"{CUDA}[{TORCH}]"),
    "the runtime of CUDA 13 beside that of 12": (
        of(TORCH, installed={"nvidia-cuda-runtime": "13.0.96"}),
        f"{CUDA}[{TORCH}]",
        f"{MORE}[{TORCH}]",
    ),
    "pip's cache is left": (
        told(caches=["/root/.cache"]),
        f"{LEFT}[{DEFAULT}]",
        f"{LEFT}[{TORCH}]",
    ),
    "a C library that is too old": (
        told(glibc=[2, 26]),
        f"{GLIBC}[{DEFAULT}]",
        f"{GLIBC}[{TORCH}]",
    ),
    "models of a user": (told(model_owners=(None, 1000)), "test_models_are_read_only"),
    "another numpy is imported": (computes(versions={"numpy": "1.26.4"}), VERSIONS),
    "another onnxruntime is imported": (computes(versions={"onnxruntime": "1.0.0"}), VERSIONS),
    "the model computes something else": (
        computes(tiny=[[7.75, 0.0, 0.0], [0.5, 0.0, 1.0], [3.875, 0.0, 1e-7]]),
        "test_model_computes_what_it_should",
    ),
    "linear algebra is inexact": (computes(residual=1e-3), "test_linear_algebra_is_right"),
    "linear algebra gives no number": (
        computes(residual=float("nan")),
        "test_linear_algebra_is_right",
    ),
    "a model has another checksum": (
        told(manifest={"status": 1, "output": "tiny/model.onnx: FAILED"}),
        MATCH,
    ),
    "a line of the manifest is none": (
        told(manifest={"output": "sha256sum: WARNING: 1 line is improperly formatted"}),
        MATCH,
    ),
    "a model is in no manifest": (told(files=(None, "tiny/other.onnx")), EVERY),
    "a model of the manifest is gone": (told(files=("tiny/model.onnx", None)), EVERY),
    "no model at all": (told(files=["SHA256SUMS"], listed=[]), EVERY),
    "a model may be written": (
        told(writable=["/opt/vaultbuild/models/tiny/model.onnx"]),
        "test_models_are_read_only",
    ),
}
