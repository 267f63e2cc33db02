"""The probe for KVM: its sector runs where a processor is right, and its answer is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from builder import kvm

pytestmark = pytest.mark.integration

EMULATION = ("-machine", "q35,accel=tcg", "-cpu", "max")


@pytest.fixture(autouse=True)
def qemu(require_program):
    return require_program("qemu-system-x86_64")


def machines() -> set[str]:
    """The processes of QEMU that this test's process started."""
    mine = str(os.getpid())
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, name, rest = stat.read_text().replace(")", "(").split("(", 2)
        except (OSError, ValueError):
            continue
        if rest.split()[1] == mine and name.startswith("qemu-system"):
            found.add(stat.parent.name)
    return found


def test_the_sector_is_a_boot_sector():
    assert len(kvm.sector()) == 512
    assert kvm.sector().endswith(b"\x55\xaa")


def test_the_sector_runs_on_a_right_processor():
    # In emulation, so that a failure under KVM can only be KVM's.
    assert kvm.probe(EMULATION, seconds=30) == (True, "a guest reached 64-bit mode")


def test_a_processor_without_what_kernels_use_fails():
    works, reason = kvm.probe(("-machine", "q35,accel=tcg", "-cpu", "qemu32"), seconds=2)
    assert not works
    assert "first instructions" in reason


def test_a_machine_that_hangs_is_ended_in_time():
    works, reason = kvm.probe((*EMULATION, "-S"), seconds=0.5)
    assert (works, reason) == (False, "a guest hung for 0.5 s in its first instructions")
    assert not machines()


def test_what_qemu_complains_about_is_the_reason():
    works, reason = kvm.probe(("-machine", "no-such-machine"))
    assert not works
    assert "machine type" in reason


def test_the_answer_is_kept_until_the_host_boots_again(tmp_path):
    cache = tmp_path / "index/kvm.json"
    answer = kvm.usable(cache)
    if not cache.exists():
        assert answer[0] is False  # no device, so nothing was booted
        return
    document = json.loads(cache.read_text())
    cache.write_text(json.dumps({**document, "works": True, "reason": "remembered"}))
    assert kvm.usable(cache) == (True, "remembered")
    cache.write_text(json.dumps({**document, "boot": "another", "reason": "old"}))
    assert kvm.usable(cache)[1] != "old"


@pytest.mark.parametrize("text", ["", "[]", "{}", '"kvm"'])
def test_a_damaged_answer_is_asked_again(text, tmp_path):
    cache = tmp_path / "kvm.json"
    cache.write_text(text)
    works, reason = kvm.usable(cache)
    assert isinstance(works, bool)
    assert reason
