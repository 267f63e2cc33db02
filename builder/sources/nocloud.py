"""What cloud-init finds on the disk of its NoCloud source: the project's words, and this run's key.

A cloud image has no host keys and lets nobody in before cloud-init has run; without a source of
data it does not run at all. So the first boot of one always gets such a disk, and no later one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_seed(
    folder: Path, user_data: Mapping[str, Any], *, public_key: str, instance: str
) -> tuple[Path, Path]:
    """Write ``user-data`` and ``meta-data`` to ``folder``; return where.

    ``public_key`` lets us in beside those whom ``user_data`` lets in; ``instance`` names the boot
    that cloud-init is to take for the first of its kind.
    """
    keys = [*user_data.get("ssh_authorized_keys", []), public_key]
    settings = {"disable_root": False, **user_data, "ssh_authorized_keys": keys}
    words, names = folder / "user-data", folder / "meta-data"
    # YAML has JSON in it.
    words.write_text(f"#cloud-config\n{json.dumps(settings, indent=2)}\n")
    names.write_text(json.dumps({"instance-id": instance}) + "\n")
    return words, names
