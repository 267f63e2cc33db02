"""The gateway between real sockets: what is handed on, written down, and tried again."""

from __future__ import annotations

import hashlib
import http.client

import pytest

from builder.gateway import Rules

pytestmark = pytest.mark.integration

DEB = "http://mirror.example/debian/pool/main/h/hello.deb"
BODY = b"a package" * 50_000
SHA256 = hashlib.sha256(BODY).hexdigest()


def test_what_a_cache_gives_arrives_and_is_written_down(cache, guest):
    cache.gives(DEB, BODY)
    here = guest()
    assert here.get(DEB) == (200, BODY)
    (entry,) = here.journal
    assert (entry.what, entry.cache, entry.url) == ("handed", "apt", DEB)
    assert (entry.sha256, entry.bytes, entry.kind) == (SHA256, len(BODY), "file")


def test_what_was_fetched_for_this_run_counts_as_upstream_s_once(cache, guest):
    cache.gives(DEB, BODY)
    here = guest(fresh={SHA256: 3.5})
    assert here.get(DEB) == here.get(DEB) == (200, BODY)
    first, second = here.journal
    assert (first.origin, first.seconds) == ("upstream", 3.5)
    assert second.origin == "cache"


def test_an_index_is_named_relative_to_its_cache(cache, guest):
    cache.gives("/root/pypi/+simple/numpy/", b"<html>")
    here = guest()
    assert here.page("/root/pypi/+simple/numpy/") == b"<html>"
    (entry,) = here.journal
    assert (entry.cache, entry.url) == ("pypi", "root/pypi/+simple/numpy/")
    assert entry.kind == "index"


def test_the_whole_is_asked_for_so_that_its_digest_is_known(cache, guest):
    cache.gives(DEB, BODY)
    here = guest()
    asked = {"Range": "bytes=5-", "If-Modified-Since": "x", "Accept-Encoding": "gzip", "X-A": "1"}
    assert here.get(DEB, headers=asked.items()) == (200, BODY)
    ((_, _, headers),) = cache.asked
    assert not {"Range", "If-Modified-Since"} & set(headers)
    assert (headers["Accept-Encoding"], headers["X-A"]) == ("identity", "1")


def test_an_answer_of_unknown_length_arrives_whole(cache, guest):
    cache.gives(DEB, (200, BODY, {"Content-Length": None}))
    here = guest()
    assert here.get(DEB) == (200, BODY)
    assert here.journal[0].sha256 == SHA256


def test_nothing_is_written_down_of_what_is_not_there(cache, guest):
    here = guest()
    assert here.get(DEB)[0] == 404
    assert here.journal == ()


def test_asking_what_a_thing_is_like_hands_nothing_out(cache, guest):
    cache.gives(DEB, BODY)
    here = guest()
    assert here.get(DEB, method="HEAD") == (200, b"")
    assert here.journal == ()


def test_several_requests_on_one_connection(cache, guest):
    cache.gives(DEB, BODY)
    here = guest()
    link = http.client.HTTPConnection(here.urls["apt"].split("/")[2], timeout=20)
    for _ in range(3):
        link.request("GET", DEB)
        assert link.getresponse().read() == BODY
    link.close()
    assert len(here.journal) == 3


@pytest.mark.parametrize("trouble", [(503, b"busy", {}), ("drop", b"", {}), (500, b"", {})])
def test_what_passes_by_itself_is_asked_again(cache, guest, trouble):
    cache.gives(DEB, trouble, BODY)
    here = guest()
    assert here.get(DEB) == (200, BODY)
    assert len(cache.asked) == 2


def test_what_does_not_pass_is_told_as_it_is(cache, guest):
    cache.gives(DEB, (503, b"no upstream", {}))
    here = guest()
    assert here.get(DEB) == (503, b"no upstream")
    assert len(cache.asked) == 2
    assert here.wrote("handed") == []


def test_a_cache_that_is_gone_is_told(cache, guest):
    here = guest()
    cache.stop()
    status, said = here.get(DEB)
    assert status == 503
    assert b"refused" in said
    cache.__init__()


def test_a_404_is_not_asked_again(cache, guest):
    here = guest()
    here.get(DEB)
    assert len(cache.asked) == 1


def test_a_mirror_s_copy_is_handed_out_under_the_name_that_was_asked_for(cache, guest):
    said = []
    cache.gives(DEB, (503, b"", {}))
    cache.gives("http://other.example/d/pool/main/h/hello.deb", BODY)
    mirrors = {"http://mirror.example/debian": ["http://other.example/d"]}
    here = guest(mirrors=mirrors, told=said.append)
    assert here.get(DEB) == (200, BODY)
    assert here.wrote("handed")[0].url == DEB
    assert said == [
        "http://mirror.example:80 does not answer: going on with http://other.example:80"
    ]


def test_without_upstream_the_cache_by_itself_answers(cache, guest, another):
    alone = another()
    alone.gives(DEB, BODY)
    cache.gives(DEB, (503, b"", {}))
    here = guest(alone=lambda _: alone.address)
    assert here.get(DEB) == (200, BODY)
    assert here.wrote("handed")[0].origin == "stale"


def test_a_truncated_answer_is_broken_off_and_not_written_down_as_handed(cache, guest):
    cache.gives(DEB, (200, BODY, {"Content-Length": str(len(BODY) + 10)}))
    here = guest()
    with pytest.raises(http.client.IncompleteRead):
        here.get(DEB)
    assert here.wrote("handed") == []
    assert here.wrote("failed")[0].url == DEB


def cut(body, at=300_000):
    return 200, body[:at], {"Content-Length": str(len(body))}


def test_what_breaks_inside_is_gone_on_with_and_the_guest_hears_nothing(cache, guest):
    cache.gives(DEB, cut(BODY), cut(BODY, 100_000), BODY)
    here = guest()
    assert here.get(DEB) == (200, BODY)
    (entry,) = here.journal
    assert (entry.sha256, entry.bytes) == (SHA256, len(BODY))
    assert len(cache.asked) == 3


@pytest.mark.parametrize("other", [BODY[::-1], BODY + b"more", BODY[:1000]])
def test_what_is_another_thing_by_then_is_not_gone_on_with(cache, guest, other):
    cache.gives(DEB, cut(BODY), other)
    here = guest()
    with pytest.raises(http.client.IncompleteRead):
        here.get(DEB)
    assert here.wrote("handed") == []


def test_what_is_wrong_only_at_its_end_comes_right_in_the_end(cache, guest):
    url = f"http://mirror.example/debian/dists/x/main/by-hash/SHA256/{SHA256}"
    cache.gives(url, BODY[:-1] + b"?", BODY)
    here = guest()
    assert here.get(url) == (200, BODY)


def test_what_stands_in_a_url_and_is_secret_is_not_written_down(cache, guest, site):
    site.gives("/x?sig=s3cr3t", BODY)
    here = guest(rules=Rules(hosts=frozenset({str(site.address)})))
    assert here.get(f"http://{site.address}/x?sig=s3cr3t") == (200, BODY)
    # A login belongs into a header, and is none of a gateway's business there.
    assert here.get(f"http://me:s3cr3t@{site.address}/x")[0] == 403
    assert here.get("http://me:s3cr3t@mirror.example/x?sig=s3cr3t")[0] == 403
    assert "s3cr3t" not in str(here.journal)
    # Nobody else is asked: whoever writes down what it is asked would have it.
    assert cache.asked == []


def test_bytes_that_their_own_address_denies_do_not_arrive_whole(cache, guest):
    url = f"http://mirror.example/debian/dists/x/main/by-hash/SHA256/{'0' * 64}"
    cache.gives(url, BODY)
    here = guest()
    with pytest.raises(http.client.IncompleteRead):
        here.get(url)
    assert here.wrote("handed") == []


def test_a_file_of_our_cache_that_changed_is_fetched_again(cache, guest, tmp_path):
    place = tmp_path / "var/apt/packages/mirror.example/debian/pool/main/h/hello.deb"
    said = []
    here = guest(own=frozenset({"apt"}), told=said.append)
    cache.gives(DEB, BODY)
    here.get(DEB)
    place.parent.mkdir(parents=True)
    place.write_bytes(BODY)
    here.get(DEB)
    assert place.exists()
    place.write_bytes(b"A" + BODY[1:])
    here.get(DEB)
    assert not place.exists()
    assert "is damaged" in said[0]
    # There before and after; damaged, so that it had to be fetched.
    assert [each.origin for each in here.wrote("handed")] == ["upstream", "cache", "upstream"]
