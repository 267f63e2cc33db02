"""What the checks ask about the environments and the models; see the base stage's machine.py.

Arguments: the models' folder, the folder of each environment. What is asked of an environment is
answered for each of them, by its folder.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

MODELS, *VENVS = map(Path, sys.argv[1:])
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-cache-dir")
MANIFEST = "SHA256SUMS"
# The bytecode's flags say that it is never compared with its source: no time of it is in there.
UNDATED = b"\x01\0\0\0"


def run(*command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return {"status": done.returncode, "output": (done.stdout + done.stderr).strip()}


def pip(venv, *words):
    return run(f"{venv}/bin/python", *PIP, *words)


def python(venv):
    """The version of an environment's interpreter, as numbers."""
    said = run(f"{venv}/bin/python", "-c", "import sys; print(*sys.version_info[:2])")
    return [int(number) for number in said["output"].split()]


def compiled(venv):
    return sorted(venv.glob("lib/**/*.pyc"))


def flags(path):
    with path.open("rb") as file:
        return file.read(8)[4:]


def packages(venv):
    """Name and metadata of each package; one name however it is spelt."""
    folders = [str(path) for path in venv.glob("lib/python3*/site-packages")]
    found = distributions(path=folders)
    return {re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one for one in found}


def manylinux(package):
    """The oldest glibc with which a wheel says it works, of all that it names; none where it does
    not matter."""
    old = {"manylinux1_": "2.5_", "manylinux2010_": "2.12_", "manylinux2014_": "2.17_"}
    text = package.read_text("WHEEL") or ""
    for name, version in old.items():
        text = text.replace(name, f"manylinux_{version.replace('.', '_')}")
    found = re.findall(r"manylinux_([0-9]+)_([0-9]+)_", text)
    return min(([int(major), int(minor)] for major, minor in found), default=None)


def files():
    return sorted(path for path in MODELS.rglob("*") if path.is_file())


def listed():
    lines = (MODELS / MANIFEST).read_text(encoding="utf-8").splitlines()
    return sorted(line.split("  ", 1)[1] for line in lines)


def glibc():
    """The C library's version, as numbers."""
    return [int(part) for part in os.confstr("CS_GNU_LIBC_VERSION").split()[1].split(".")]


def each(ask):
    """Ask about each environment; what one cannot tell, another may."""
    return lambda: {str(venv): answer(partial(ask, venv)) for venv in VENVS}


ASKED = {
    "caches": lambda: [str(path) for path in (Path("/root/.cache"),) if path.exists()],
    "check": each(lambda venv: pip(venv, "check")),
    "compiled": each(lambda venv: len(compiled(venv))),
    "dated": each(lambda venv: [str(p) for p in compiled(venv) if flags(p) != UNDATED][:5]),
    "files": lambda: [str(path.relative_to(MODELS)) for path in files()],
    "frozen": each(lambda venv: pip(venv, "freeze")),
    "glibc": glibc,
    "installed": each(lambda venv: {name: one.version for name, one in packages(venv).items()}),
    "left": each(lambda venv: [str(p) for p in (venv / "requirements.new",) if p.exists()]),
    "listed": listed,
    "lock": each(lambda v: hashlib.sha256((v / "requirements.lock").read_bytes()).hexdigest()),
    "manifest": lambda: run("sha256sum", "--check", "--strict", "--quiet", MANIFEST, cwd=MODELS),
    "manylinux": each(lambda v: {name: manylinux(one) for name, one in packages(v).items()}),
    "model_owners": lambda: sorted({path.lstat().st_uid for path in (MODELS, *MODELS.rglob("*"))}),
    "owners": each(lambda venv: sorted({path.lstat().st_uid for path in venv.rglob("*")})),
    "python": each(python),
    "writable": lambda: [str(path) for path in files() if path.stat().st_mode & 0o222],
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
