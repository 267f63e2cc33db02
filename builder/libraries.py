"""The distributions of Python whose versions shape what is in an image."""

from __future__ import annotations

import sys

SHAPING = ("ansible-core", "ansible-runner", "jinja2", "mitogen")
OPTIONAL = "mitogen"
"""The one of them that need not be there."""


def site_packages() -> str:
    """Return where they are installed."""
    return next(path for path in sys.path if path.endswith("site-packages"))


def installed() -> dict[str, str]:
    """Return the version of each."""
    found = {name: _version(name) for name in SHAPING}
    return {name: version for name, version in found.items() if version}


def _version(name: str) -> str | None:
    from importlib import metadata  # late: reads a folder of a hundred entries

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        if name == OPTIONAL:
            return None
        raise
