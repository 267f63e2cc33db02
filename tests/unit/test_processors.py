"""How many processors a guest gets."""

import pytest

from builder.engines.qemu import QemuEngine


@pytest.mark.parametrize(("accelerator", "processors"), [("kvm", 4), ("tcg", 1)])
def test_an_emulated_guest_has_one_processor(accelerator, processors):
    assert QemuEngine(accelerator).processors(4) == processors
