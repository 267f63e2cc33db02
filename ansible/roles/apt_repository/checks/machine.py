"""What the checks ask about an archive, in one go; prints JSON.

Argument: its name.
"""

import json
import re
import sys
from pathlib import Path

NAME = sys.argv[1]
SOURCE = Path(f"/etc/apt/sources.list.d/{NAME}.sources")


def source():
    """The fields of its source."""
    return dict(re.findall(r"^(\S+): (.*)$", SOURCE.read_text(encoding="utf-8"), re.MULTILINE))


def key():
    """How many bytes its keys have, and who may read them: apt does not as root."""
    found = Path(source()["Signed-By"])
    return {"bytes": found.stat().st_size, "mode": oct(found.stat().st_mode & 0o777)}


def elsewhere():
    """Keys that are good for every archive."""
    return sorted(
        str(path) for path in Path("/etc/apt").glob("trusted.gpg.d/*") if NAME in path.name
    )


ASKED = {"elsewhere": elsewhere, "key": key, "source": source}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
