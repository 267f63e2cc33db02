"""The checks of the role node_exporter, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/node_exporter/checks/test_node_exporter.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/node_exporter"
MACHINE = "machine.py"
VERSION = "1.9.0-1+b4"


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    machine = {
        "arguments": [
            "--web.listen-address=127.0.0.1:9100",
            "--collector.textfile.directory=/run/gpu-monitor",
        ],
        "enabled": "enabled",
        "measured": ["go_info", "node_exporter_build_info", "node_load", "node_uname_info"],
        "version": VERSION,
    }
    return {"expected": defaults | {"node_exporter_version": VERSION}, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


RELEASE = "test_it_is_of_the_version_asked_for"
STARTS, MEASURES = "test_it_starts_at_boot", "test_it_measures"
LISTENS = "test_it_listens_and_reads_as_it_was_told"
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "one argument more": (
        {"expected": {"node_exporter_arguments": (..., ["--no-collector.wifi"])}}
        | told(arguments=(None, "--no-collector.wifi")),
    ),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "of another version": (told(version="1.8.2-1"), RELEASE),
    "not there": (told(version=""), RELEASE),
    "not enabled": (told(enabled="disabled"), STARTS),
    "does not answer": (told(measured="error: URLError"), MEASURES),
    "measures nothing of the host": (told(measured=("node_load", None)), MEASURES),
    "listens on every address": (
        told(arguments=("--web.listen-address=127.0.0.1:9100", "--web.listen-address=:9100")),
        LISTENS,
    ),
    "reads no file of others": (
        told(arguments=("--collector.textfile.directory=/run/gpu-monitor", None)),
        LISTENS,
    ),
}
