"""What archives offer, asked once; a mirror in the midst of a renewal does not count."""

import pytest

from builder.errors import VaultbuildError
from builder.fetch.transient import PermanentError
from builder.upstream.suites import Suites

SUITE = "http://mirror.example/debian/dists/trixie"
MAIN = "main/binary-amd64"


class Answered:
    def __init__(self, body, headers):
        self.body, self.headers = body, headers


class Web:
    """Stands in for a fetcher: what is not among the pages is not there."""

    def __init__(self, pages):
        self.pages, self.asked = pages, []

    def read(self, url, *, limit=0):
        self.asked.append(url)
        if url not in self.pages:
            raise PermanentError(f"there is no {url}")
        return Answered(self.pages[url], {})


def test_a_list_is_fetched_by_its_hash_and_once(archives):
    archives.publish(SUITE, {MAIN: {"openssl": "1"}})
    web = Web(archives.pages)
    suites = Suites(web)
    for _ in range(2):
        current = suites.release(f"{SUITE}/InRelease")
        (package,) = suites.packages(current, MAIN)
    assert (package.name, package.version) == ("openssl", "1")
    assert [url.rpartition("/dists/")[2].split("SHA256/")[0] for url in web.asked] == [
        "trixie/InRelease", "trixie/main/binary-amd64/by-hash/",
    ]  # fmt: skip


def test_an_archive_without_names_by_hash_and_one_that_is_flat(archives):
    archives.publish(SUITE, {"": {"cuda": "12.4"}}, fields="")
    web = Web(archives.pages)
    suites = Suites(web)
    (package,) = suites.packages(suites.release(f"{SUITE}/InRelease"), "")
    assert package.name == "cuda"
    assert web.asked[-1] == f"{SUITE}/Packages.xz"


def test_a_list_that_is_not_what_its_suite_says_does_not_count(archives):
    archives.publish(SUITE, {MAIN: {"openssl": "1"}}, fields="")
    archives.pages[f"{SUITE}/{MAIN}/Packages.xz"] += b"more"
    suites = Suites(Web(archives.pages))
    current = suites.release(f"{SUITE}/InRelease")
    with pytest.raises(VaultbuildError, match="is not what") as caught:
        suites.packages(current, MAIN)
    assert "renewed" in caught.value.hint


def test_a_list_that_is_gone(archives):
    archives.publish(SUITE, {MAIN: {"openssl": "1"}})
    suites = Suites(Web(archives.pages))
    with pytest.raises(VaultbuildError, match="has no list contrib/binary-amd64"):
        suites.packages(suites.release(f"{SUITE}/InRelease"), "contrib/binary-amd64")


def test_what_cannot_be_had_is_asked_for_once():
    web = Web({f"{SUITE}-x/InRelease": b"<html>sign in</html>"})
    suites = Suites(web)
    for _ in range(2):
        with pytest.raises(PermanentError):
            suites.release(f"{SUITE}/InRelease")
        with pytest.raises(VaultbuildError, match="is no list of a suite: it lists no files"):
            suites.release(f"{SUITE}-x/InRelease")
    assert len(web.asked) == 2
