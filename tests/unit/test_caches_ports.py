"""A taken port is noticed, and its holder named."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from builder import ports


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, 0))
        server.listen(1)
        yield server.getsockname()[1]


def test_a_free_port_can_be_listened_on():
    port = ports.free()
    assert not ports.taken(port)
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, port))


def test_free_ports_are_low_enough_for_every_server():
    assert all(ports.free() <= ports.HIGHEST for _ in range(20))


def test_a_taken_port_is_noticed(listener):
    assert ports.taken(listener)


def test_the_holder_is_named(listener):
    name = Path("/proc/self/comm").read_text().strip()
    assert ports.holder(listener) == f"{name} (process {os.getpid()})"


def test_nobody_holds_a_free_port():
    assert ports.holder(ports.free()) == "a program of another user"


def test_a_server_on_all_addresses_holds_the_port_too():
    with socket.create_server(("", 0)) as server:
        assert ports.taken(server.getsockname()[1])
