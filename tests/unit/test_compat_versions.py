"""Comparing versions as drivers, toolkits, kernels and wheels write them."""

import pytest

from builder.compat import versions


@pytest.mark.parametrize(
    ("version", "plain"),
    [
        ("550.163.01-2", "550.163.01"),
        ("1:550.163.01-2", "550.163.01"),
        ("12.4.127~12.4.1-2", "12.4.127"),
        ("6.12.117+deb13-cloud-amd64", "6.12.117"),
        ("2.6.0+cu124", "2.6.0"),
        ("0.8.5.post1", "0.8.5"),
        ("580", "580"),
        ("nightly", ""),
        ("", ""),
    ],
)
def test_what_a_version_is(version, plain):
    assert versions.plain(version) == plain


@pytest.mark.parametrize(
    ("version", "floor", "right"),
    [
        ("550.163.01", "550.54.15", True),
        ("550.54.15", "550.54.15", True),
        ("550.54.14", "550.54.15", False),
        ("550.90.07", "550.163.01", False),
        ("550", "550.163.01", True),
        ("535", "550.54", False),
        ("12.10", "12.9", True),
        ("nightly", "1", False),
    ],
)
def test_a_version_reaches_a_floor(version, floor, right):
    assert versions.reaches(version, floor) is right


@pytest.mark.parametrize(
    ("version", "right"), [("3.13", True), ("3.8.19", False), ("3.9", True), ("3.14", False)]
)
def test_a_version_lies_in_a_range(version, right):
    assert versions.between(version, ("3.9", "3.13")) is right
