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
    return _told("ssh.authorized_keys.root", f"{public_key.strip()}\n")


def console_patience(seconds: int) -> str:
    """Return the value of ``-smbios`` that has the guest wait so long for its serial console.

    systemd gives a device 90 s, which in emulation on a busy host is too short: the console then
    has no login prompt as long as the guest runs. Read by systemd from 256 on, and ignored by
    older ones (systemd.system-credentials(7), ``systemd.unit-dropin``).
    """
    drop_in = f"[Unit]\nJobRunningTimeoutSec={seconds}\n"
    return _told("systemd.unit-dropin.dev-ttyS0.device", drop_in)


def _told(name: str, content: str) -> str:
    encoded = base64.b64encode(content.encode()).decode()
    return f"type=11,value=io.systemd.credential.binary:{name}={encoded}"


def user_network(
    name: str,
    ssh_port: int | str | None,
    leads: Mapping[tuple[str, int], str],
    *,
    relay: str,
) -> str:
    """Return the value of ``-netdev``: SSH in from ``ssh_port``, what ``leads`` names out.

    Without a port nothing leads in. There is no IPv6: nothing could be reached by it, and Debian's
    installer takes a network that it configured by IPv6 for one that needs no DHCP.
    ``leads``: address and port in the guest's network → ``HOST:PORT`` as this host reaches it.
    ``relay`` is socat. The ``-cmd:`` form of guestfwd starts a program for each connection; the
    ``-tcp:`` form hangs after its first one (QEMU 7.2). QEMU splits the command at blanks itself
    and starts no shell.
    """
    words = ["user", f"id={name}", "restrict=on", "ipv6=off"]
    if ssh_port is not None:
        words.append(f"hostfwd=tcp:127.0.0.1:{ssh_port}-:22")
    for (host, port), to in leads.items():
        words.append(f"guestfwd=tcp:{host}:{port}-cmd:{relay} - TCP:{to}")
    return ",".join(words)
