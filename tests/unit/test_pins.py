"""Versions in YAML files: found, decided about, and replaced at their place."""

from pathlib import Path

import pytest

from builder.errors import ProjectError
from builder.upstream import pins
from builder.upstream.pins import Note, Scope

PATH = Path("stages/pipeline.yml")
TEXT = """\
# Größe: the offsets are those of characters, not of bytes
variants:
  one:
    source:
      bootstrap:
        packages:
          - openssl=3.5.4-1   # why it is pinned
          - 'zstd=1.5'
          - plain
          - linux-image-6.12.117+deb13-cloud-amd64=6.12.117-1
        hold: [zstd]
    variables:
      driver_version: 550.163.01-2
      driver_extra: [modprobe=570.1-1, "tool:amd64=2.1"]
      kernel_version: 6.12.117-1
      words: hello
"""
OFFERS = {
    "openssl": "3.5.5-1",
    "zstd": "1.6",
    "plain": "2",
    "modprobe": "580.1-1",
    "tool": "2.1",
    "driver": "555.1-1",
    "libdriver": "555.1-1",
    "linux-image-6.12.117+deb13-cloud-amd64": "6.12.117-1",
    "linux-image-6.12.120+deb13-cloud-amd64": "6.12.120-1",
    "linux-image-6.12.119+deb13-cloud-amd64": "6.12.119-1",
    "linux-image-6.12.121+deb13-amd64": "6.12.121-1",
}
INSTALLED = {
    "base": {
        "openssl": "3.5.4-1",
        "linux-image-6.12.117+deb13-cloud-amd64": "6.12.117-1",
        "linux-libc-dev": "6.12.117-1",
    },
    "drivers": {"driver": "550.163.01-2", "libdriver:i386": "550.163.01-2"},
}


def scope(offers=OFFERS, held=("zstd",), installed=INSTALLED):
    return Scope("one", offers, frozenset(held), installed)


def decide(*scopes, chosen=(), text=TEXT):
    found = pins.new_pins(pins.places_in(PATH, text), scopes or [scope()], frozenset(chosen))
    return {edit.what: (edit.before, edit.after) for edit in found[0]}, found[1], found[0]


# --- what to change -------------------------------------------------------------------------------


def test_packages_and_variables_get_what_archives_offer():
    edits, notes, _ = decide()
    assert edits == {
        "openssl": ("3.5.4-1", "3.5.5-1"),
        "driver_version": ("550.163.01-2", "555.1-1"),
        "modprobe": ("570.1-1", "580.1-1"),
    }
    held, kernel = notes
    assert held == Note("zstd", "1.5 is held; 1.6 is there (vaultbuild lock zstd takes it)")
    assert "linux-image-6.12.120+deb13-cloud-amd64=6.12.120-1 is there" in kernel.why
    assert "by hand" in kernel.why


def test_what_is_named_changes_alone_and_also_where_it_is_held():
    assert decide(chosen=["zstd"])[:2] == ({"zstd": ("1.5", "1.6")}, [])
    assert decide(chosen=["driver_version"])[0] == {"driver_version": ("550.163.01-2", "555.1-1")}
    assert decide(chosen=["words"])[:2] == ({}, [])


def test_what_is_older_in_the_archive_stays():
    edits, notes, _ = decide(scope({"openssl": "3.0", "zstd": "1.5"}))
    assert edits == {}
    assert [note.what for note in notes] == [
        "linux-image-6.12.117+deb13-cloud-amd64", "modprobe", "tool",
    ][1:]  # fmt: skip
    assert "no archive" in notes[0].why


def test_a_variable_whose_packages_go_apart_stays():
    edits, notes, _ = decide(scope({**OFFERS, "libdriver": "555.2-1"}), chosen=["driver_version"])
    assert edits == {}
    assert notes == [Note("driver_version", "550.163.01-2 stays: there are 555.1-1, 555.2-1")]


def test_a_variable_is_a_version_only_where_an_image_says_so():
    edits, _, _ = decide(scope(installed=None))
    assert "driver_version" not in edits


def test_variants_that_share_a_pin_must_agree():
    other = scope({**OFFERS, "openssl": "3.9"})
    edits, notes, _ = decide(scope(), other)
    assert "openssl" not in edits
    assert Note("openssl", "3.5.4-1 stays: there are 3.5.5-1, 3.9") in notes
    assert "openssl" in decide(scope(), scope({}))[0], "who does not know it has no say"


# --- how it is changed ----------------------------------------------------------------------------


def test_only_the_version_changes():
    changed = pins.edited(PATH, TEXT, decide()[2])
    expected = (
        TEXT.replace("openssl=3.5.4-1", "openssl=3.5.5-1")
        .replace("version: 550.163.01-2", "version: 555.1-1")
        .replace("modprobe=570.1-1", "modprobe=580.1-1")
    )
    assert changed == expected


def test_quotes_stay():
    changed = pins.edited(PATH, TEXT, decide(chosen=["zstd"])[2])
    assert changed == TEXT.replace("'zstd=1.5'", "'zstd=1.6'")


def test_what_an_alias_names_is_one_place():
    text = "variables:\n  a: &it [tool=1.0]\n  b: *it\n"
    _, _, edits = decide(scope({"tool": "1.1"}), text=text)
    assert len(edits) == 1
    assert pins.edited(PATH, text, edits) == text.replace("1.0", "1.1")


def test_what_cannot_be_replaced_is_refused():
    text = 'variables:\n  a: ["tool=1.\\x30"]\n'
    _, _, edits = decide(scope({"tool": "1.1"}), text=text)
    assert edits
    with pytest.raises(ProjectError, match=r"pipeline.yml:2: 1.0 cannot be replaced"):
        pins.edited(PATH, text, edits)


@pytest.mark.parametrize("after", ["1.1 # so", "1.1, b", "1.1: x"])
def test_an_edit_that_would_mean_something_else_is_refused(after):
    text = "variables:\n  a: [tool=1.0, other=2]\n"
    place = pins.places_in(PATH, text)[0]
    with pytest.raises(ProjectError):
        pins.edited(PATH, text, [pins.Edit(place, "tool", "1.0", after)])


def test_a_file_that_is_no_yaml_is_refused():
    with pytest.raises(ProjectError, match="is not YAML"):
        pins.places_in(PATH, "a: [b")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("linux-image-6.12.117+deb13-cloud-amd64", True),
        ("linux-headers-6.8.0-45-generic", True),
        ("linux-image-cloud-amd64", False),
        ("linux-libc-dev", False),
    ],
)
def test_which_packages_are_kernels(name, is_one):
    assert pins.is_kernel(name) is is_one
