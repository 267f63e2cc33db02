"""What a guest can reach while it is provisioned."""

from __future__ import annotations

import socket

import pytest

pytestmark = pytest.mark.e2e

REACH = """
- name: Reach what it must not
  ansible.builtin.command:
    argv:
      - python3
      - -c
      - |
        import socket
        for host in {hosts}:
            try:
                socket.create_connection((host, {port}), 3)
            except OSError:
                continue
            print("reached", host)
  register: reached
  failed_when: reached.stdout != ""
  changed_when: false

- name: Resolve a name
  ansible.builtin.command: getent hosts localhost.example.com
  register: resolved
  failed_when: resolved.rc == 0
  changed_when: false
"""


def test_a_guest_reaches_the_caches_and_nothing_else(copy):
    """A service of the host, on every address, is out of its reach; the package came."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104 - to be as near as can be
        hosts = ["127.0.0.1", "10.0.2.2", "10.0.2.100", *_addresses()]
        tasks = copy.project / "ansible/roles/greeting/tasks/main.yml"
        more = REACH.format(hosts=hosts, port=server.getsockname()[1])
        tasks.write_text(tasks.read_text() + more)
        copy("stage", "final", "--engine", "nspawn")


def _addresses() -> list[str]:
    """The addresses by which this host is known to others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return []
        return [probe.getsockname()[0]]
