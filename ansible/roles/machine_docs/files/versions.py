"""Print the versions of packages and virtual environments as JSON.

    versions.py PACKAGE... -- VENV...

Distributions of a virtual environment are read from their folders: nothing is imported, and no
interpreter but this one is started.
"""

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path


def debian(names):
    """Return the versions of those packages that are installed."""
    if not names:
        return {}
    layout = "${db:Status-Abbrev}|${Package}|${Version}\n"
    done = subprocess.run(
        ["dpkg-query", "--show", "--showformat", layout, *names], capture_output=True, text=True, check=False
    )
    rows = (line.split("|") for line in done.stdout.splitlines())
    return {name: version for status, name, version in rows if status[1] == "i"}


def python(venv):
    """Return the versions of the distributions in a virtual environment."""
    folders = [str(path) for path in Path(venv).glob("lib/python3*/site-packages")]
    return {one.metadata["Name"]: one.version for one in distributions(path=folders)}


def main(arguments):
    """Print both tables."""
    split = arguments.index("--")
    venvs = [venv for venv in arguments[split + 1 :] if Path(venv).is_dir()]
    versions = {"debian": debian(arguments[:split]), "python": {venv: python(venv) for venv in venvs}}
    print(json.dumps(versions, sort_keys=True))


if __name__ == "__main__":
    main(sys.argv[1:])
