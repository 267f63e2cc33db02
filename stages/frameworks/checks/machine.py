"""What the checks ask about an environment and the models; see the base stage's machine.py.

Arguments: the environment's folder, the models' folder.
"""

import hashlib
import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

VENV, MODELS = map(Path, sys.argv[1:])
PIP = (f"{VENV}/bin/python", "-m", "pip", "--disable-pip-version-check", "--no-cache-dir")
MANIFEST = "SHA256SUMS"


def run(*command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return {"status": done.returncode, "output": (done.stdout + done.stderr).strip()}


def compiled():
    return sorted(VENV.glob("lib/**/*.pyc"))


def dated():
    """Bytecode that carries a time: the flags behind the magic number are then not 1."""
    return [str(path) for path in compiled() if path.read_bytes()[4:8] != b"\x01\0\0\0"]


def installed():
    folders = [str(path) for path in VENV.glob("lib/python3*/site-packages")]
    return sorted(one.metadata["Name"].lower() for one in distributions(path=folders))


def files():
    return sorted(path for path in MODELS.rglob("*") if path.is_file())


def listed():
    lines = (MODELS / MANIFEST).read_text(encoding="utf-8").splitlines()
    return sorted(line.split("  ", 1)[1] for line in lines)


ASKED = {
    "check": lambda: run(*PIP, "check"),
    "compiled": lambda: len(compiled()),
    "dated": lambda: dated()[:5],
    "files": lambda: [str(path.relative_to(MODELS)) for path in files()],
    "frozen": lambda: run(*PIP, "freeze"),
    "installed": installed,
    "left": lambda: [
        str(path) for path in (VENV / "requirements.new", Path("/root/.cache")) if path.exists()
    ],
    "listed": listed,
    "lock": lambda: hashlib.sha256((VENV / "requirements.lock").read_bytes()).hexdigest(),
    "manifest": lambda: run("sha256sum", "--check", "--strict", "--quiet", MANIFEST, cwd=MODELS),
    "model_owners": lambda: sorted({path.lstat().st_uid for path in (MODELS, *MODELS.rglob("*"))}),
    "owners": lambda: sorted({path.lstat().st_uid for path in VENV.rglob("*")}),
    "writable": lambda: [str(path) for path in files() if path.stat().st_mode & 0o222],
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
