"""What runs inside the guest before the first role and after the last.

This file is not imported by the driver: it is sent to the guest's Python over SSH, so that it costs
one round trip instead of an Ansible run. Therefore it knows only the standard library, and is
written for every Python from 3.9 on.

``enter`` points the guest's apt to the caches and makes room for temporary files. ``leave`` says
what is installed and takes away every trace of the provisioning. ``freeze`` holds every write while
the host takes a snapshot.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# On tmpfs: gone at the end, whatever happens.
RUN = "run/vaultbuild"
# On the disk: wheels and models of gigabytes do not fit a tmpfs. Taken away by ``leave``.
SCRATCH = "var/tmp/vaultbuild"
# Where Ansible's asynchronous jobs are noted. Mitogen does not let it stand elsewhere.
ASYNC = "root/.ansible_async"
DPKG_STATUS = "var/lib/dpkg/status"
VENVS = "opt/vaultbuild/venvs"
AUTHORIZED_KEYS = "root/.ssh/authorized_keys"
BOOT = "boot"
# FIFREEZE, FITHAW and FITRIM of linux/fs.h; the last takes start, length and smallest extent.
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
FITRIM = 0xC0185879
EVERYTHING = struct.pack("QQQ", 0, 2**64 - 1, 0)
FROZEN = "frozen"


def enter(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Make the folders of provisioning and the configuration of apt, for this boot only."""
    run, scratch = root / RUN, root / SCRATCH
    run.mkdir(parents=True, exist_ok=True)
    (run / "apt.conf").write_text(settings["apt_conf"])
    scratch.mkdir(parents=True, exist_ok=True)
    # Like /tmp: programs of other users (apt's, man-db's) inherit TMPDIR from the role.
    scratch.chmod(0o1777)
    (scratch / "ansible").mkdir(mode=0o700, exist_ok=True)
    return {}


def leave(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the installed packages; remove what provisioning put into the guest."""
    status = root / DPKG_STATUS
    installed = dpkg_packages(status.read_text(encoding="utf-8")) if status.exists() else {}
    packages = {"dpkg": installed, "python": python_packages(root / VENVS)}
    for trace in (ASYNC, RUN, SCRATCH):
        shutil.rmtree(root / trace, ignore_errors=True)
    forget_key(root / AUTHORIZED_KEYS, settings["public_key"])
    return packages


def freeze(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Hold all writes to the root file system, whole and clean, until a line comes on stdin.

    And to ``/boot``, where that is a file system of its own. The build's key is away meanwhile:
    systemd would not replace it when the snapshot is booted. Ends with an error when no line comes
    in time: the snapshot must then not be believed.
    """
    keys = root / AUTHORIZED_KEYS
    held = keys.read_bytes() if keys.exists() else None
    forget_key(keys, settings["public_key"])
    signal.signal(signal.SIGALRM, _give_up)
    os.sync()
    with contextlib.ExitStack() as stack:
        stack.callback(_give_back, keys, held)
        if os.path.ismount(root / BOOT):
            stack.enter_context(_frozen(root / BOOT, settings["patience"], errno.EOPNOTSUPP))
        stack.enter_context(_frozen(root, settings["patience"]))
        sys.stdout.write(FROZEN + "\n")
        sys.stdout.flush()
        heard = sys.stdin.readline()
    if not heard:
        raise EOFError("the host went away")
    return {}


@contextlib.contextmanager
def _frozen(place: Path, patience: int, *passable: int) -> Iterator[None]:
    """Hold all writes to a file system; ``passable`` are errors that say it cannot be held."""
    descriptor = os.open(place, os.O_RDONLY)
    # What the role wrote and removed again, gigabytes of packed wheels perhaps, is not kept.
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, FITRIM, EVERYTHING)
    signal.alarm(patience)
    thaw = [FITHAW]
    try:
        fcntl.ioctl(descriptor, FIFREEZE, 0)
    except OSError as error:
        if error.errno not in passable:
            raise
        thaw = []
    try:
        yield
    finally:
        signal.alarm(0)
        for request in thaw:
            fcntl.ioctl(descriptor, request, 0)
        os.close(descriptor)


def _give_back(keys: Path, held: bytes | None) -> None:
    if held is not None:
        keys.write_bytes(held)
        keys.chmod(0o600)


def _give_up(*_: object) -> None:
    raise TimeoutError("the host took too long")


def dpkg_packages(status: str) -> dict[str, str]:
    """Return the version of each installed package in dpkg's status file."""
    packages: dict[str, str] = {}
    for paragraph in status.split("\n\n"):
        if _field("Status", paragraph, last=True) == "installed":
            name = _field("Package", paragraph)
            if name in packages:
                name = f"{name}:{_field('Architecture', paragraph)}"
            packages[name] = _field("Version", paragraph)
    return packages


def python_packages(venvs: Path) -> dict[str, dict[str, str]]:
    """Return the version of each distribution in each virtual environment; pip is not needed."""
    return {
        venv.name: dict(sorted(map(_distribution, venv.glob(_METADATA))))
        for venv in sorted(venvs.glob("*"))
        if venv.is_dir()
    }


_METADATA = "lib/python3*/site-packages/*.dist-info/METADATA"


def _distribution(metadata: Path) -> tuple[str, str]:
    text = metadata.read_text(encoding="utf-8", errors="replace")
    return _field("Name", text), _field("Version", text)


def _field(name: str, text: str, *, last: bool = False) -> str:
    found = re.search(rf"^{name}:[ \t]*(\S.*)$", text, re.MULTILINE)
    if not found:
        return "unknown"
    words = found.group(1).split()
    return words[-1 if last else 0]


def forget_key(file: Path, public_key: str) -> None:
    """Remove the build's key from the keys that may log in; remove the file when no key is left."""
    if not file.exists():
        return
    kept = [line for line in file.read_text().splitlines() if public_key not in line]
    if any(line.strip() for line in kept):
        file.write_text("\n".join(kept) + "\n")
    else:
        file.unlink()


def main() -> None:
    """Do what the first argument names with the settings in the second."""
    what, settings = sys.argv[1], json.loads(sys.argv[2])
    said = {"enter": enter, "freeze": freeze, "leave": leave}[what](Path("/"), settings)
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
