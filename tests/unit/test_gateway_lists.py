"""What the lists in the apt cache say of packages, and what a guest's release was good for."""

import bz2
import gzip
import hashlib
import lzma

import pytest

from builder.gateway.ledger import Ledger
from builder.gateway.lists import Lists, read
from builder.gateway.stock import AptStock, Storekeeper

ONE, TWO = "1" * 64, "2" * 64
LIST = f"Package: a\nFilename: pool/a.deb\nSHA256: {ONE}\nSize: 3\n\nPackage: b\n".encode()
RELEASE = "http://mirror.example/debian/dists/x/InRelease"


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress, bz2.compress])
def test_a_list_is_read_however_it_is_packed(pack):
    assert read(pack(LIST)) == {"pool/a.deb": ONE}


@pytest.mark.parametrize("content", [b"", b"\0\xff", lzma.compress(LIST)[:40], b"SHA256: abc\n"])
def test_what_is_no_list_says_nothing(content):
    assert read(content) == {}


@pytest.mark.parametrize(
    ("place", "deb"),
    [
        ("debian/dists/x/main/binary-amd64/by-hash/SHA256/abc", "debian/pool/a.deb"),
        ("debian/dists/x/main/binary-amd64/Packages.xz", "debian/pool/a.deb"),
        ("debian/dists/x/updates/main/binary-all/Packages", "debian/pool/a.deb"),
        ("repos/x86_64/Packages.gz", "repos/x86_64/pool/a.deb"),
        ("repos/by-hash/SHA256/abc", "repos/pool/a.deb"),
        ("Packages", "pool/a.deb"),
    ],
)
def test_packages_are_found_by_their_lists(tmp_path, place, deb):
    file = tmp_path / "mirror.example" / place
    file.parent.mkdir(parents=True)
    file.write_bytes(LIST)
    lists = Lists(tmp_path)
    assert lists.digests(tmp_path / "mirror.example" / deb) == {ONE}
    assert lists.digests(tmp_path / "other.example" / deb) == frozenset()
    assert lists.digests(tmp_path / "mirror.example/x" / deb) == frozenset()


def test_a_list_that_changed_is_read_again(tmp_path):
    file = tmp_path / "h/Packages"
    file.parent.mkdir()
    file.write_bytes(LIST)
    lists = Lists(tmp_path)
    assert lists.digests(tmp_path / "h/pool/a.deb") == {ONE}
    file.write_bytes(LIST.replace(ONE.encode(), TWO.encode()) + b"\n")
    assert lists.digests(tmp_path / "h/pool/a.deb") == {TWO}


@pytest.mark.parametrize("place", ["dists/x/main/i18n/by-hash/SHA256/abc", "pool/Packages"])
def test_other_indexes_are_not_read(tmp_path, place):
    file = tmp_path / "h" / place
    file.parent.mkdir(parents=True)
    file.write_bytes(LIST)
    assert Lists(tmp_path).digests(tmp_path / "h/pool/a.deb") == frozenset()


# --- who is asked about what ----------------------------------------------------------------------


@pytest.fixture
def keeper(tmp_path):
    """Call it for someone who looks after a cache with one list."""
    folder = tmp_path / "packages"
    (folder / "mirror.example/debian/dists/x/main/binary-amd64").mkdir(parents=True)
    file = folder / "mirror.example/debian/dists/x/main/binary-amd64/Packages"
    file.write_bytes(LIST)
    said = []

    def make(**more):
        ledger = Ledger(tmp_path / "ledger")
        return Storekeeper("apt", AptStock(folder), ledger, tmp_path / "quarantine", said.append,
                           lists=Lists(folder), **more)  # fmt: skip

    make.said, make.folder = said, folder
    return make


def test_a_list_denies_a_package_that_nobody_had_before(keeper):
    url = "http://mirror.example/debian/pool/a.deb"
    one = keeper()
    assert one.denies(url, TWO) == ONE
    assert one.denies(url, ONE) is None
    assert one.denies("http://mirror.example/debian/pool/other.deb", TWO) is None
    one.handed(url, TWO, 3, None)
    # What was good once is not looked up each time.
    assert one.denies(url, TWO) is None


def release(keeper, content: bytes, *, length: int | None = None):
    place = keeper.folder / "mirror.example/debian/dists/x/InRelease"
    place.write_bytes(content)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length or len(content)}\r\nLast-Modified: now\r\n"
    place.with_name("InRelease.head").write_text(head)
    return place


def given(one, content: bytes) -> None:
    one.handed(RELEASE, hashlib.sha256(content).hexdigest(), len(content), "now")


def test_a_release_that_led_to_a_list_is_known_and_its_damage_seen(keeper):
    place = release(keeper, b"release")
    one = keeper()
    given(one, b"release")
    one.handed(RELEASE.replace("InRelease", "main/by-hash/SHA256/" + ONE), ONE, 3, None)
    keeper().inspect(RELEASE)
    assert place.exists()
    place.write_bytes(b"damaged")
    keeper().inspect(RELEASE)
    assert not place.exists()
    assert "InRelease in the apt cache is damaged" in keeper.said[0]


@pytest.mark.parametrize("asked", ["Release", "Release.gpg"])
def test_asking_for_another_form_of_a_release_is_no_use_of_it(keeper, asked):
    place = release(keeper, b"release")
    one = keeper()
    given(one, b"release")
    one.handed(RELEASE.replace("InRelease", asked), TWO, 3, None)
    keeper().inspect(RELEASE)
    assert not place.exists()
    assert keeper.said == []


def test_a_release_that_comes_the_same_again_is_believed(keeper):
    place = release(keeper, b"release")
    one = keeper()
    one.inspect(RELEASE)
    assert not place.exists()
    release(keeper, b"release")
    given(one, b"release")
    keeper().inspect(RELEASE)
    assert place.exists()


def test_offline_a_release_stays_whatever_it_led_to(keeper):
    place = release(keeper, b"release")
    keeper(asks=False).inspect(RELEASE)
    assert place.exists()


def test_what_is_only_coming_is_left_alone(keeper):
    place = release(keeper, b"rel", length=100)
    keeper().inspect(RELEASE)
    assert place.exists()


def test_a_file_of_which_nothing_is_written_down_yet_is_left_alone(keeper):
    """apt-cacher-ng makes the file first: another run has just asked for it."""
    place = keeper.folder / "mirror.example/debian/pool/a.deb"
    place.parent.mkdir()
    place.write_bytes(b"half")
    one = keeper()
    one.inspect("http://mirror.example/debian/pool/a.deb")
    assert place.exists()
    place.with_name("a.deb.head").write_text("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n")
    one.inspect("http://mirror.example/debian/pool/a.deb")
    assert not place.exists()


def test_what_has_a_secret_in_its_address_is_not_remembered(keeper, tmp_path):
    one = keeper()
    one.handed("http://mirror.example/debian/pool/c.deb?token=x", TWO, 3, None)
    one.handed("http://me:x@mirror.example/debian/pool/c.deb", TWO, 3, None)
    assert not (tmp_path / "ledger").exists()
