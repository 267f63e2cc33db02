"""Which module ``auto`` means, on the project's own table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.compat import rules
from builder.compat.finding import worst
from builder.compat.flavour import choose
from builder.compat.stack import Stack
from builder.compat.table import read_table
from builder.memo import Tree

ROOT = Path(__file__).parents[2]
MONTH = "2026-11"
KERNEL = "6.12.117+deb13-cloud-amd64"


@pytest.fixture(scope="module")
def table():
    found = read_table(Tree(ROOT))
    assert found is not None
    return found


def of_driver(driver, **changed):
    return Stack(driver=driver, **changed)


@pytest.mark.parametrize(
    ("wanted", "flavour"),
    [
        (of_driver("550.163.01", gpus=("H100",)), "proprietary"),
        (of_driver("580.95.05", gpus=("H100",)), "open"),
        (of_driver("580.95.05", gpus=("V100",)), "proprietary"),
        (of_driver("570.124.06", gpus=("B200",)), "open"),
        (of_driver("580.95.05"), "open"),
        (of_driver("550.163.01", kernel=KERNEL), "proprietary"),
        (Stack(), "proprietary"),
    ],
)
def test_auto_means(wanted, flavour, table):
    assert choose(wanted, table) == flavour


def test_auto_has_to_choose_although_nothing_goes(table):
    """The judgement says why: Volta wants one module, Blackwell the other."""
    both = of_driver("580.95.05", gpus=("V100", "B200"))
    flavour = choose(both, table)
    assert worst(rules.judge(replace(both, flavour=flavour), table, MONTH)) == "fail"
