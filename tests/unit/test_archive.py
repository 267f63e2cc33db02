"""Index files of a Debian archive, from their text alone."""

import bz2
import gzip
import itertools
import lzma
import subprocess

import pytest

from builder.upstream import archive

RELEASE = """\
Origin: Somebody
Suite: stable
Codename: trixie
Date: Sat, 21 Nov 2026 09:15:44 UTC
Valid-Until: Sat, 28 Nov 2026 09:15:44 UTC
Acquire-By-Hash: yes
MD5Sum:
 3e498904a30e240573dac8ddac594e6f  100 main/binary-amd64/Packages.xz
SHA256:
 AA00  7 main/binary-amd64/Packages
 bb00  3 main/binary-amd64/Packages.gz
 cc00  2 main/binary-amd64/Packages.xz
 dd00  9 main/i18n/Translation-en.xz
"""
SIGNED = f"""\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

{RELEASE}- -----a line that began with dashes: x
-----BEGIN PGP SIGNATURE-----

SHA256:
 iQIzBAEBCAAdFiEE not a file
-----END PGP SIGNATURE-----
"""
PACKAGES = """\
Package: openssl
Version: 3.5.4-1
Architecture: amd64
Description: a line
 Version: not this one
Filename: pool/main/o/openssl/openssl_3.5.4-1_amd64.deb
Size: 1500
SHA256: abcd

Package: tzdata
Version: 2026c-1
Architecture: all
Filename: pool/main/t/tzdata/tzdata_2026c-1_all.deb
Size: 10
SHA256: ef01
"""
# Each list is in order: whatever stands before is older.
ORDERS = [
    ["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-0ubuntu1", "1.0-1", "1.0a", "1.0+", "1.0.1"],
    ["2.10-3~deb13u1", "2.10-3", "2.10-3+b1", "2.10-3+deb13u1", "2.10-3.1", "2.10-10"],
    ["9", "10", "0:11", "1:0", "1:1~rc1", "1:1", "2:0.0.1"],
    ["550.163.01-2", "550.163.1-3", "550.163.02-1", "570.133.07-1"],
    ["12.4.127~12.4.1-2", "12.4.127-1", "12.4.131~12.4.1-2"],
    ["6.1.176-1", "6.12.107-1", "6.12.117-1", "6.12.117-1.1"],
    ["1.2-rc-1", "1.2-rc-2", "1.2.1-1", "1.2.a-1"],
    ["1~", "1", "1-1", "1z", "1+", "1."],
]
SAME = [("1.0", "1.0-0"), ("1.0", "0:1.0"), ("1.01", "1.1"), ("1.0-00", "1.0"), ("a0", "a")]


def pairs():
    for order in ORDERS:
        yield from itertools.combinations(order, 2)


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [*pairs()])
def test_what_is_newer(old, new):
    assert archive.compare_versions(old, new) == -1
    assert archive.compare_versions(new, old) == 1
    assert archive.compare_versions(new, new) == 0


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_is_the_same_though_written_differently(one, other):
    assert archive.compare_versions(one, other) == archive.compare_versions(other, one) == 0


def test_dpkg_says_the_same(require_program):
    dpkg = require_program("dpkg")
    versions = sorted({version for order in ORDERS for version in order if version[0].isdigit()})
    words = {-1: "lt", 0: "eq", 1: "gt"}
    for one, other in itertools.combinations(versions, 2):
        relation = words[archive.compare_versions(one, other)]
        done = subprocess.run([dpkg, "--compare-versions", one, relation, other], check=False)
        assert done.returncode == 0, f"dpkg denies that {one} {relation} {other}"


def test_versions_sort():
    mixed = [*ORDERS[0][::2], *ORDERS[0][1::2]]
    assert sorted(mixed, key=archive.version_order) == ORDERS[0]


# --- a suite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [RELEASE, SIGNED, SIGNED.replace("\n", "\r\n")])
def test_a_release_is_read_with_and_without_its_signature(text):
    found = archive.read_release(text)
    assert (found.suite, found.codename) == ("stable", "trixie")
    assert found.date == "Sat, 21 Nov 2026 09:15:44 UTC"
    assert found.valid_until == "Sat, 28 Nov 2026 09:15:44 UTC"
    assert found.by_hash
    assert not found.optional
    assert found.files["main/binary-amd64/Packages"] == archive.Listed(
        "main/binary-amd64/Packages", "aa00", 7
    )
    assert len(found.files) == 4


def test_the_smallest_form_of_a_list_comes_first():
    found = archive.read_release(RELEASE).packages_in("main/binary-amd64")
    assert [each.path.rpartition("/")[2] for each in found] == [
        "Packages.xz", "Packages.gz", "Packages",
    ]  # fmt: skip
    assert archive.read_release(RELEASE).packages_in("contrib/binary-amd64") == ()


def test_backports_are_optional():
    assert archive.read_release("NotAutomatic: yes\n" + RELEASE).optional


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>Sign in to the network</html>", "lists no files"),
        ("SHA256:\n aa 1\n", "lists no file: aa 1"),
    ],
)
def test_what_is_no_release_is_refused(text, message):
    with pytest.raises(archive.ArchiveError, match=message):
        archive.read_release(text)


# --- a list of packages ---------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bz2.compress, bytes])
def test_packages_are_read_however_they_are_packed(pack):
    first, second = archive.read_packages(archive.unpack(pack(PACKAGES.encode())))
    file = "pool/main/o/openssl/openssl_3.5.4-1_amd64.deb"
    assert first == archive.Package("openssl", "3.5.4-1", "amd64", file, "abcd", 1500)
    assert (second.name, second.architecture) == ("tzdata", "all")


def test_half_a_list_is_refused():
    with pytest.raises(archive.ArchiveError, match="cannot be unpacked"):
        archive.unpack(lzma.compress(PACKAGES.encode())[:-20])


def test_a_package_without_a_version_is_refused():
    with pytest.raises(archive.ArchiveError, match="Version"):
        list(archive.read_packages("Package: openssl\nArchitecture: amd64\n"))


def test_an_empty_list_offers_nothing():
    assert list(archive.read_packages("")) == []


def test_the_newest_of_several_lists_is_what_apt_would_take():
    old, tz = archive.read_packages(PACKAGES)
    new = next(archive.read_packages(PACKAGES.replace("3.5.4-1", "3.5.10-1")))
    assert archive.newest([new, old, tz]) == {"openssl": new, "tzdata": tz}
    assert archive.newest([old, new])["openssl"] is new


# --- addresses ------------------------------------------------------------------------------------

SUITE = "http://mirror.example/debian/dists/trixie"


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("main/binary-amd64/Packages.xz", "main/binary-amd64"),
        ("main/binary-amd64/by-hash/SHA256/" + "a" * 64, "main/binary-amd64"),
        ("updates/main/binary-all/Packages", "updates/main/binary-all"),
        ("Packages.gz", ""),
        ("by-hash/SHA256/" + "a" * 64, ""),
        ("main/i18n/by-hash/SHA256/" + "a" * 64, None),
        ("main/i18n/Translation-en.xz", None),
        ("InRelease", None),
    ],
)
def test_which_list_a_url_is(path, folder):
    assert archive.folder_of_list(SUITE, f"{SUITE}/{path}") == folder


def test_a_list_of_another_suite_is_not_of_this_one():
    url = f"{SUITE}-security/main/binary-amd64/Packages.xz"
    assert archive.folder_of_list(SUITE, url) is None


def test_the_name_by_hash():
    listed = archive.Listed("main/binary-amd64/Packages.xz", "ab", 1)
    assert archive.by_hash(SUITE, listed) == f"{SUITE}/main/binary-amd64/by-hash/SHA256/ab"
    assert archive.by_hash(SUITE, archive.Listed("Packages", "ab", 1)) == (
        f"{SUITE}/by-hash/SHA256/ab"
    )


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (f"{SUITE}/pool/h/hello_2.10-3_amd64.deb", ("hello", "2.10-3", "amd64")),
        (f"{SUITE}/pool/x/libx_1%3a2%2bb1-1_all.deb", ("libx", "2+b1-1", "all")),
        (f"{SUITE}/pool/h/hello_2.10-3.dsc", None),
        (f"{SUITE}/hello.deb", None),
    ],
)
def test_what_the_name_of_a_package_file_tells(url, found):
    assert archive.package_file(url) == found


def test_an_archive_behind_the_cache():
    assert archive.behind_cache("http://HTTPS///cuda.example/repos") == "https://cuda.example/repos"
    assert archive.behind_cache("http://mirror.example/x") == "http://mirror.example/x"
    assert archive.is_release(f"{SUITE}/InRelease")
    assert not archive.is_release(f"{SUITE}/main/binary-amd64/Release.gpg")


@pytest.mark.parametrize(
    ("line", "suite", "folders"),
    [
        ("deb http://m.example/debian trixie main contrib", "http://m.example/debian/dists/trixie",
         ("main/binary-amd64", "contrib/binary-amd64")),
        ("deb [signed-by=/x arch=amd64] http://m.example/debian/ trixie/updates main # a word",
         "http://m.example/debian/dists/trixie/updates", ("main/binary-amd64",)),
        ("deb http://HTTPS///cuda.example/repos/x86_64 /", "https://cuda.example/repos/x86_64",
         ("",)),
        ("deb http://m.example/flat ./", "http://m.example/flat", ("",)),
        ("deb http://m.example/flat sub/", "http://m.example/flat/sub", ("",)),
    ],
)  # fmt: skip
def test_a_line_of_sources(line, suite, folders):
    assert archive.read_source(line, "amd64") == archive.Origin(suite, folders)


def test_other_lines_of_sources_are_none():
    assert archive.read_source("deb-src http://m.example/debian trixie main", "amd64") is None
    assert archive.read_source("# deb http://m.example/debian trixie main", "amd64") is None
