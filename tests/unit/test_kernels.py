"""A newer kernel is taken with a module that compiles for it, and held back without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compat.stack import Stack
from builder.compat.table import KernelRow, Table
from builder.kernel import Kernel
from builder.upstream import pins
from builder.upstream.kernels import Booting, names_kernel, new_kernel

PATH = Path("stages/pipeline.yml")
TEXT = """\
variants:
  one:
    source:
      bootstrap:
        packages:
          - linux-image-6.12.117+deb13-cloud-amd64=6.12.117-1
          - linux-headers-6.12.117+deb13-cloud-amd64=6.12.117-1  # for DKMS
          - openssl=3.5.4-1
        hold: [linux-image-6.12.117+deb13-cloud-amd64, linux-headers-6.12.117+deb13-cloud-amd64]
    variables:
      kernel_pin_release: 6.12.117+deb13-cloud-amd64
      kernel_pin_version: 6.12.117-1
      nvidia_driver_version: 550.163.01-2
"""
OFFERS = {
    "linux-image-6.12.117+deb13-cloud-amd64": "6.12.117-1",
    "linux-image-6.12.118+deb13-cloud-amd64": "6.12.118-1",
    "linux-image-6.12.119+deb13-cloud-amd64": "6.12.119-1",
    "linux-image-6.12.119+deb13-amd64": "6.12.119-1",
    "linux-image-cloud-amd64": "6.12.119-1",
    "linux-image-6.12.94+deb13-cloud-amd64": "6.12.94-1",
}
KERNEL = Kernel("6.12.117+deb13-cloud-amd64", "6.12.117-1")
STACK = Stack(driver="550.163.01-2", flavour="proprietary", kernel="6.12.117+deb13-cloud-amd64")


GENERIC = Kernel("6.12.117+deb13-amd64", "6.12.117-1")
SHARED = """\
variants:
  one:
    source: &source
      bootstrap:
        kernel: {release: 6.12.117+deb13, version: 6.12.117-1}  # the newest
        packages: [openssl=3.5.4-1]
  two: {source: *source, kernel_flavour: generic}
"""


def row(kernel, *, builds, ending="-cloud-amd64"):
    return KernelRow.model_validate(
        {
            "driver": "550.163.01", "flavour": "proprietary", "builds": builds, "why": "it broke",
            "kernel": f"{kernel}+deb13{ending}", "source": "here",
        }
    )  # fmt: skip


@pytest.fixture
def found():
    """What is found with some rows of kernels: the edits by line, and the notes."""

    def find(*rows, offers=OFFERS, text=TEXT, others=()):
        table = Table.model_validate({"schema": 1, "updated": "now", "sources": {}})
        table = table.model_copy(update={"kernel_builds": list(rows)})
        booting = [
            Booting(KERNEL, offers, STACK),
            *(Booting(each, offers, STACK) for each in others),
        ]
        return new_kernel(pins.places_in(PATH, text), booting, table)

    return find


def test_the_newest_kernel_that_the_module_compiles_for_is_taken(found):
    edits, notes = found(row("6.12.119", builds=True), row("6.12.118", builds=True))
    assert notes == []
    after = pins.edited(PATH, TEXT, edits)
    assert after == TEXT.replace("6.12.117", "6.12.119")


def test_a_kernel_that_breaks_the_module_is_held_back(found):
    edits, notes = found(row("6.12.119", builds=False), row("6.12.118", builds=True))
    assert "6.12.118" in pins.edited(PATH, TEXT, edits)
    (note,) = notes
    assert note.what == "linux-image-6.12.119+deb13-cloud-amd64=6.12.119-1"
    assert note.why.startswith("held back: the proprietary module of 550.163.01 does not compile")
    assert "it broke" in note.why


def test_a_kernel_that_nobody_tried_is_held_back(found):
    edits, notes = found()
    assert edits == []
    assert [each.what.split("+")[0] for each in notes] == [
        "linux-image-6.12.119", "linux-image-6.12.118",
    ]  # fmt: skip
    assert all("nobody has seen" in each.why for each in notes)


def test_where_there_is_no_newer_one_nothing_is_said(found):
    offers = {name: version for name, version in OFFERS.items() if version <= "6.12.117-1"}
    assert found(row("6.12.119", builds=True), offers=offers) == ([], [])


def test_a_kernel_of_another_kind_is_no_newer_one(found):
    offers = {"linux-image-6.12.119+deb13-amd64": "6.12.119-1"}
    assert found(offers=offers) == ([], [])


def test_where_no_kernel_is_pinned_none_is_named():
    assert names_kernel(pins.places_in(PATH, TEXT))
    assert names_kernel(pins.places_in(PATH, SHARED))
    text = TEXT.replace("linux-image-6.12.117+deb13-cloud-amd64=6.12.117-1", "linux-image-amd64")
    text = text.replace("linux-headers-6.12.117+deb13-cloud-amd64=6.12.117-1", "dkms")
    assert not names_kernel(pins.places_in(PATH, text))


# --- one pin, several flavours --------------------------------------------------------------------


def test_a_pin_changes_with_all_who_share_it(found):
    both = row("6.12.119", builds=True), row("6.12.119", builds=True, ending="-amd64")
    edits, notes = found(*both, text=SHARED, others=[GENERIC])
    assert notes == []
    assert pins.edited(PATH, SHARED, edits) == SHARED.replace("6.12.117", "6.12.119")


def test_a_pin_waits_for_the_flavour_that_nobody_tried(found):
    edits, (newest, _) = found(row("6.12.119", builds=True), text=SHARED, others=[GENERIC])
    assert edits == []
    assert newest.what == "linux-image-6.12.119+deb13-amd64=6.12.119-1"
    assert "nobody has seen" in newest.why


def test_a_pin_waits_for_the_flavour_that_no_archive_has(found):
    rows = row("6.12.118", builds=True), row("6.12.118", builds=True, ending="-amd64")
    edits, (_, older) = found(*rows, text=SHARED, others=[GENERIC])
    assert edits == []
    assert str(older) == (
        "linux-image-6.12.118+deb13-amd64=6.12.118-1: held back: no archive offers it"
    )
