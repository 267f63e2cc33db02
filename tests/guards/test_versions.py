"""Modules that put bytes into images cannot change without somebody thinking of their version."""

import hashlib
import json
from pathlib import Path

import pytest

from builder.pipeline import CLOUD_IMAGE_VERSION, INSTALLATION_VERSION, SEALING_VERSION
from builder.provision import PROVISIONING_VERSION
from builder.sources.bootstrap import BOOTSTRAP_VERSION

PINNED = Path(__file__).with_name("versions.json")
# By the version that is part of the key of what they make.
MODULES = {
    "PROVISIONING_VERSION": (
        PROVISIONING_VERSION,
        [
            "builder/checkpoints.py",
            "builder/engines/supervisor.py",
            "builder/guest.py",
            "builder/in_guest.py",
            "builder/provision.py",
            "builder/sources/nocloud.py",
        ],
    ),
    "SEALING_VERSION": (
        SEALING_VERSION,
        [
            "builder/mount_points.py",
            "builder/partitions.py",
            "builder/rawdisk.py",
            "builder/sealing.py",
        ],
    ),
    "INSTALLATION_VERSION": (INSTALLATION_VERSION, ["builder/sources/iso.py"]),
    "CLOUD_IMAGE_VERSION": (
        CLOUD_IMAGE_VERSION,
        ["builder/sources/cloud_image.py", "builder/sources/growth.py"],
    ),
    "BOOTSTRAP_VERSION": (
        BOOTSTRAP_VERSION,
        ["builder/sources/bootstrap.py", "builder/sources/rootdisk.py"],
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_change_is_a_decision_about_the_version(name, root):
    version, paths = MODULES[name]
    now = {"version": version, **{path: _digest(root / path) for path in paths}}
    pinned = json.loads(PINNED.read_text())
    if now == pinned[name]:
        return
    changed = [what for what in now if now[what] != pinned[name].get(what)]
    pytest.fail(
        f"{', '.join(changed)}: changed since {name} was {pinned[name]['version']}.\n"
        f"Can this put other bytes into an image? Then raise {name}, else two different images have"
        " one key. If it cannot, leave it, and nothing is built anew.\n"
        f"When that is decided, {PINNED.relative_to(root)} has to say:\n"
        f"{json.dumps(pinned | {name: now}, indent=2)}",
        pytrace=False,
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
