"""The checks of the role apt_repository, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/apt_repository/checks/test_apt_repository.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/apt_repository"
MACHINE = "machine.py"
URI, KEY = "https://packages.example/debian13/x86_64", "/etc/apt/keyrings/nvidia.asc"


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    given = {
        "apt_repository_name": "nvidia",
        "apt_repository_uris": [URI],
        "apt_repository_keyring": "stages/drivers/nvidia.asc",
    }
    machine = {
        "elsewhere": [],
        "key": {"bytes": 1668, "mode": "0o644"},
        "source": {"Types": "deb", "URIs": URI, "Suites": "/", "Signed-By": KEY},
    }
    return {"expected": defaults | given, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


ARCHIVE = "test_the_archive_is_the_one_asked_for"
READ, ALONE = "test_its_key_can_be_read_by_apt", "test_its_key_is_good_for_it_alone"
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "with components": (
        {"expected": {"apt_repository_components": (..., ["main", "contrib"])}}
        | told(source={"Components": "main contrib"}),
    ),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "another address": (told(source={"URIs": "https://mirror.example/"}), ARCHIVE),
    "every key is good for it": (told(source=("Signed-By", None)), ARCHIVE),
    "no signature is asked for": (told(source={"Trusted": "yes"}), ARCHIVE),
    "apt cannot read its key": (told(key={"mode": "0o600"}), READ),
    "anybody may write its key": (told(key={"mode": "0o666"}), READ),
    "its key is empty": (told(key={"bytes": 0}), READ),
    "its key is good for all": (told(elsewhere=["/etc/apt/trusted.gpg.d/nvidia.asc"]), ALONE),
}
