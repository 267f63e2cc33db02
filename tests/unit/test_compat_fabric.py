"""GPUs judged by the platform of the fabric manager, on the project's own table."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compat import hardware
from builder.compat.stack import Stack
from builder.compat.table import read_table
from builder.memo import Tree

ROOT = Path(__file__).parents[2]
MONTH = "2026-11"
SWITCHED = ("V100", "A100", "H100", "H200")
ALONE = ("T4", "A10G", "A6000", "L4", "L40S", "H200-NVL", "GH200", "RTX-PRO-6000")
# Platform: the GPUs that it serves. The role's README says the same of its machines.
SERVED = {
    "nvswitch": SWITCHED,
    "nvlink5": (*SWITCHED, "B200", "B300"),
    "imex": ("GB200",),
}


@pytest.fixture(scope="module")
def table():
    found = read_table(Tree(ROOT))
    assert found is not None
    return found


def levels(table, platform, *gpus):
    wanted = Stack(gpus=gpus, fabric_platform=platform)
    return [each.level for each in hardware.fabric_platform(wanted, table, MONTH)]


@pytest.mark.parametrize("platform", SERVED)
def test_a_platform_serves_the_gpus_that_it_is_for_and_no_other(table, platform):
    found = {name: levels(table, platform, name) for name in table.gpus if name not in ALONE}
    expected = {name: ["ok" if name in SERVED[platform] else "fail"] for name in found}
    assert found == expected


@pytest.mark.parametrize("platform", ["", *SERVED])
def test_gpus_without_switches_want_no_platform(table, platform):
    assert levels(table, platform, *ALONE) == []


def test_without_a_platform_each_kind_of_switch_is_a_note(table):
    assert levels(table, "", *table.gpus) == ["note", "note", "note"]


def test_one_gpu_of_several_that_is_not_served_is_a_failure(table):
    assert levels(table, "nvswitch", "H100", "B200", "L4") == ["ok", "fail"]


def test_where_nothing_is_said_of_a_platform_none_is_missed(table):
    """A question about GPUs and drivers names no role."""
    assert levels(table, None, "B200", "GB200") == []


def test_what_would_do_is_told(table):
    wanted = Stack(gpus=("GB200",), fabric_platform="nvswitch")
    (found,) = hardware.fabric_platform(wanted, table, MONTH)
    assert (found.cure, found.fact) == ("fabric_manager_platform: imex", "fabric_platform")
