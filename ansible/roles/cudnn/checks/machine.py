"""What the checks ask about cuDNN, in one go; prints JSON."""

import json
import subprocess
from pathlib import Path

VERSIONS = (
    "dpkg-query",
    "--show",
    "--showformat",
    "${db:Status-Status} ${db:Status-Want} ${Package} ${Version}\n",
)


def packages():
    """Name: version, and whether it is held. Not from apt-mark: apt makes caches."""
    said = subprocess.run(VERSIONS, capture_output=True, text=True, check=True).stdout
    rows = (line.split(" ") for line in said.splitlines())
    return {name: [version, want] for state, want, name, version in rows if state == "installed"}


def libraries():
    """The files of the library, by the version at their end."""
    found = Path("/usr/lib/x86_64-linux-gnu").glob("libcudnn.so.9.*")
    return sorted(path.name.removeprefix("libcudnn.so.") for path in found if not path.is_symlink())


ASKED = {"libraries": libraries, "packages": packages}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
