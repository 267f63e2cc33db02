"""Print the versions of packages and virtual environments as JSON.

    versions.py PACKAGE... -- VENV...

Distributions of a virtual environment are read from their folders: nothing is imported, and no
interpreter but this one is started. Run in the guest.
"""
# ruff: noqa: INP001, T201 - a program that is sent to the guest, not a module

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

_LAYOUT = "${db:Status-Status}|${Package}|${Version}\n"


def debian(names: list[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    if not names:
        return {}
    command = ["dpkg-query", "--show", "--showformat", _LAYOUT, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = (line.split("|") for line in done.stdout.splitlines())
    return {name: version for status, name, version in rows if status == "installed"}


def python(venv: str) -> dict[str, str]:
    """Return the versions of the distributions in a virtual environment."""
    folders = [str(path) for path in Path(venv).glob("lib/python3*/site-packages")]
    return {one.metadata["Name"]: one.version for one in distributions(path=folders)}


def main(arguments: list[str]) -> None:
    """Print both tables."""
    split = arguments.index("--")
    venvs = [venv for venv in arguments[split + 1 :] if Path(venv).is_dir()]
    packages = debian(arguments[:split])
    environments = {venv: python(venv) for venv in venvs}
    print(json.dumps({"debian": packages, "python": environments}, sort_keys=True))


if __name__ == "__main__":
    main(sys.argv[1:])
