"""Values of QEMU's options that a VM gets whoever starts it: Packer from a template, or the engine.

One place, because both must restrict the guest's network in the same way.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def quoted(path: Path) -> str:
    """Return a path as it stands among QEMU's options, where a single comma ends a value."""
    return str(path).replace(",", ",,")


def credential(public_key: str) -> str:
    """Return the value of ``-smbios`` that hands the guest's systemd our public key."""
    encoded = base64.b64encode(f"{public_key.strip()}\n".encode()).decode()
    return f"type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root={encoded}"


def user_network(
    name: str,
    ssh_port: int | str | None,
    leads: Mapping[tuple[str, int], str],
    *,
    relay: str,
) -> str:
    """Return the value of ``-netdev``: SSH in from ``ssh_port``, what ``leads`` names out.

    Without a port nothing leads in.
    ``leads``: address and port in the guest's network → ``HOST:PORT`` as this host reaches it.
    ``relay`` is socat. The ``-cmd:`` form of guestfwd starts a program for each connection; the
    ``-tcp:`` form hangs after its first one (QEMU 7.2). QEMU splits the command at blanks itself
    and starts no shell.
    """
    words = ["user", f"id={name}", "restrict=on"]
    if ssh_port is not None:
        words.append(f"hostfwd=tcp:127.0.0.1:{ssh_port}-:22")
    for (host, port), to in leads.items():
        words.append(f"guestfwd=tcp:{host}:{port}-cmd:{relay} - TCP:{to}")
    return ",".join(words)
