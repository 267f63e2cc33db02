"""What the checks ask about the node exporter, in one go; prints JSON.

Argument: where it listens.
"""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

ADDRESS = re.sub("^:", "127.0.0.1:", sys.argv[1])
UNIT = "prometheus-node-exporter.service"
VERSION = ("dpkg-query", "--show", "--showformat", "${Version}", "prometheus-node-exporter")


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def measured():
    """The names of its measurements; asked past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{ADDRESS}/metrics", timeout=20) as answered:
        text = answered.read().decode()
    return sorted(set(re.findall(r"^([a-z_]+)", text, re.MULTILINE)))


def arguments():
    """Those of the process that runs."""
    pid = say("systemctl", "show", "--value", "-p", "MainPID", UNIT)
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")[1:-1]


ASKED = {
    "arguments": arguments,
    "enabled": lambda: say("systemctl", "is-enabled", UNIT),
    "measured": measured,
    "version": lambda: say(*VERSION),
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
