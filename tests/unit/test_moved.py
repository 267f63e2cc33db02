"""What moved upstream, from values alone."""

import pytest

from builder.network import Handed
from builder.upstream import moved
from builder.upstream.archive import Package
from builder.upstream.moved import Built, Moved, Pinned, Refresh, Suite, Unknown

SUITE = "http://mirror.example/debian/dists/trixie"
DEB = "http://mirror.example/debian/pool/o"


def handed(url, sha256="aa", cache="apt"):
    return Handed(cache, url, sha256, 1, "index", "upstream")


def offer(name, version, *, optional=False):
    return optional, Package(name, version, "amd64", f"{name}.deb", "", 1)


def moves(packages, *offers, pinned=None, **other):
    found = moved.moved_packages("base", packages, offers, pinned or Pinned(), **other)
    return [(one.what, one.before, one.after) for one in found]


# --- what a stage saw -----------------------------------------------------------------------------


def test_suites_and_lists_are_read_off_what_was_handed_out():
    found = moved.suites_of([
        handed(f"{SUITE}/InRelease", "a1"),
        handed(f"{SUITE}/main/binary-amd64/by-hash/SHA256/b1", "b1"),
        handed(f"{SUITE}/contrib/binary-amd64/Packages.xz", "c1"),
        handed(f"{SUITE}/main/i18n/by-hash/SHA256/d1", "d1"),
        handed(f"{DEB}/openssl_3.5.4-1_amd64.deb"),
        handed("+f/numpy.whl", cache="pypi"),
    ], {})  # fmt: skip
    assert list(found) == [f"{SUITE}/InRelease"]
    suite = found[f"{SUITE}/InRelease"]
    assert suite.digests == {"a1"}
    assert suite.lists == {"main/binary-amd64": {"b1"}, "contrib/binary-amd64": {"c1"}}


def test_a_stage_that_went_on_has_seen_old_lists_and_new_ones():
    found = moved.suites_of([
        handed(f"{SUITE}/InRelease", "a1"),
        handed(f"{SUITE}/main/binary-amd64/Packages.xz", "b1"),
        handed(f"{SUITE}/InRelease", "a2"),
        handed(f"{SUITE}/main/binary-amd64/Packages.xz", "b2"),
    ], {})  # fmt: skip
    suite = found[f"{SUITE}/InRelease"]
    assert (suite.digests, suite.lists) == ({"a1", "a2"}, {"main/binary-amd64": {"b1", "b2"}})


def test_a_stage_sees_what_the_one_below_saw_unless_it_looked_itself():
    main, contrib = "main/binary-amd64", "contrib/binary-amd64"
    below = {
        "x/InRelease": Suite("x/InRelease", {"a1"}, {main: {"b1"}, contrib: {"c1"}}),
        "y/InRelease": Suite("y/InRelease", {"d1"}, {main: {"e1"}}),
    }
    own = [handed("x/InRelease", "a2"), handed(f"x/{main}/Packages.xz", "b2")]
    found = moved.suites_of(own, below)
    assert found["x/InRelease"] == Suite("x/InRelease", {"a2"}, {main: {"b2"}, contrib: {"c1"}})
    assert found["y/InRelease"] == below["y/InRelease"]
    assert moved.suites_of([], below) == below


def test_an_archive_behind_tls_is_known_by_its_own_address():
    found = moved.suites_of([
        handed("http://HTTPS///cuda.example/x86_64/InRelease", "a1"),
        handed("http://HTTPS///cuda.example/x86_64/Packages.gz", "b1"),
    ], {})  # fmt: skip
    assert found["https://cuda.example/x86_64/InRelease"].lists == {"": {"b1"}}


def test_a_package_belongs_to_the_first_stage_that_has_it_so():
    lineage = [
        Built("base", {"openssl": "1", "zstd": "1"}, ()),
        Built("drivers", {"openssl": "2", "zstd": "1", "cuda": "12"}, ()),
        Built("final", {"openssl": "2", "zstd": "1", "cuda": "12"}, ()),
    ]
    found = moved.brought(lineage, bootstrapped=True)
    assert {each.stage: packages for each, packages in found} == {
        "base": {"openssl": "1", "zstd": "1"},
        "drivers": {"openssl": "2", "cuda": "12"},
        "final": {},
    }


def test_of_a_cloud_image_only_what_came_over_the_network_counts():
    files = (handed(f"{DEB}/zstd_1_amd64.deb"), handed(f"{DEB}/openssl_1_amd64.deb"))
    lineage = [Built("base", {"openssl": "2:1", "zstd": "2", "in-the-image": "1"}, files)]
    ((_, packages),) = moved.brought(lineage, bootstrapped=False)
    assert packages == {"openssl": "2:1"}, "zstd was replaced since, the other came with the image"


def test_of_a_source_without_an_image_on_it_the_names_of_files_tell():
    source = (handed(f"{DEB}/openssl_3.5.4-1_amd64.deb"),)
    ((_, packages),) = moved.brought([Built("base", None, None, source)], bootstrapped=True)
    assert packages == {"openssl": "3.5.4-1"}


# --- what moved -----------------------------------------------------------------------------------


def test_newer_packages_moved_and_nothing_else():
    installed = {"openssl": "3.5.4-1", "zstd": "1.5", "gone": "1", "curl:amd64": "8.1"}
    offers = [offer("openssl", "3.5.5-1"), offer("zstd", "1.4"), offer("other", "1")]
    offers += [offer("openssl", "3.5.4-1"), offer("curl", "8.2")]
    assert moves(installed, *offers) == [("curl", "8.1", "8.2"), ("openssl", "3.5.4-1", "3.5.5-1")]
    assert moves(installed, *offers[1:3]) == []


def test_what_the_project_pins_or_holds_stays():
    offers = [offer("openssl", "2"), offer("held", "2"), offer("driver", "550.2-1")]
    installed = {"openssl": "1", "held": "1", "driver": "550.1-1"}
    settings = {"packages": ["openssl=1", "held", "driver"], "hold": ["held"]}
    found = moved.pinned_by(settings, {"driver_version": "550.1-1", "text": "hello"})
    assert moves(installed, *offers, pinned=found) == []
    assert len(moves(installed, *offers)) == 3


def test_pins_in_lists_and_mappings_of_variables_count():
    variables = {"extra": ["modprobe=570-1"], "deep": {"more": [{"x": "tool:amd64=2.1"}]}}
    found = moved.pinned_by({}, variables)
    assert found.names == {"modprobe", "tool"}
    assert not found.holds("extra", "1")


def test_backports_count_for_what_came_from_there():
    offers = [offer("openssl", "4~bpo13+1", optional=True), offer("zstd", "2~bpo1", optional=True)]
    installed = {"openssl": "3.5", "zstd": "1.9~bpo13+1"}
    assert moves(installed, *offers) == [("zstd", "1.9~bpo13+1", "2~bpo1")]


def test_a_new_epoch_is_newer_but_names_of_files_have_none():
    assert moves({"a": "2.0"}, offer("a", "1:1.0")) == [("a", "2.0", "1:1.0")]
    assert moves({"a": "2.0"}, offer("a", "1:2.0"), epochs=False) == []
    assert moves({"a": "2.0"}, offer("a", "1:2.1"), epochs=False) == [("a", "2.0", "1:2.1")]


# --- an answer ------------------------------------------------------------------------------------

OPENSSL = Moved("base", "package", "openssl", "1", "2")
NUMPY = Moved("frameworks", "wheels", "numpy of x.lock", "2.5.5", "2.5.6", pinned=True)
WHOLE = Refresh("2026-11-22T10:00:00Z", (OPENSSL, NUMPY), (Unknown("m.example", "no answer"),))


def test_only_what_is_not_pinned_is_a_reason_to_build():
    (reason,) = WHOLE.reasons["base"]
    assert (reason.kind, reason.what, reason.before, reason.after) == (
        "upstream", "openssl", "1", "2",
    )  # fmt: skip
    assert list(WHOLE.reasons) == ["base"]


def test_an_answer_can_be_kept():
    assert Refresh.from_json(WHOLE.to_json()) == WHOLE


def test_an_answer_in_lines():
    head, newer = WHOLE.lines()
    assert head == (
        "upstream    asked 2026-11-22T10:00:00Z: 1 moved, 1 newer than pinned, 1 unknown"
    )
    assert newer.split() == [
        "numpy", "of", "x.lock", "2.5.5", "→", "2.5.6", "(vaultbuild", "lock", "takes", "it)",
    ]  # fmt: skip
    assert list(Refresh("now").lines()) == ["upstream    asked now: nothing moved"]
    assert WHOLE.about("base") == "asked 2026-11-22T10:00:00Z: openssl 1 → 2"
    assert WHOLE.about("frameworks").endswith("nothing of it moved")
    assert list(WHOLE.warnings()) == ["upstream: m.example: no answer"]


@pytest.mark.parametrize(
    ("before", "renewed", "stuck"),
    [
        (None, {"base"}, ()),
        (Refresh("then", (OPENSSL,)), set(), ()),
        (Refresh("then", (OPENSSL,)), {"base"}, (OPENSSL,)),
        (Refresh("then", (), (), (OPENSSL,)), set(), (OPENSSL,)),
        (Refresh("then", (Moved("base", "package", "openssl", "1", "1.5"),)), {"base"}, ()),
        (Refresh("then", (NUMPY,)), {"frameworks"}, ()),
    ],
    ids=["first", "not-built-since", "built-since", "stays-stuck", "moved-further", "pinned"],
)
def test_what_building_did_not_help_is_set_aside(before, renewed, stuck):
    found = moved.settle(WHOLE, before, renewed)
    assert found.stuck == stuck
    assert set(found.moved) == set(WHOLE.moved) - set(stuck)
    if stuck:
        assert "base, built since, kept 1" in list(found.warnings())[-1]
