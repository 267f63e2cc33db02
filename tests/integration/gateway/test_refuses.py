"""The gateway between real sockets: what is refused, and what is reached past the caches."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import threading
import urllib.request

import pytest

from builder import gateway, network
from builder.gateway import Gateway, Pauses, Rules
from builder.gateway.rules import Address

pytestmark = pytest.mark.integration

DEB = "http://mirror.example/debian/pool/main/h/hello.deb"
BODY = b"a package" * 50_000
SHA256 = hashlib.sha256(BODY).hexdigest()


def test_another_host_is_refused_by_name(cache, guest):
    here = guest()
    status, said = here.get("http://files.example/x.tar.gz")
    assert status == 403
    assert b"files.example:80" in said
    assert [each.address for each in here.wrote("refused")] == ["files.example:80"]
    assert cache.asked == []


def test_a_tunnel_is_refused_by_name(cache, guest):
    here = guest()
    with here.connect("files.example:443") as link:
        assert link.recv(100).startswith(b"HTTP/1.1 403")
    assert [each.address for each in here.wrote("refused")] == ["files.example:443"]


def test_what_the_cache_refuses_of_an_archive_is_told_too(cache, guest):
    cache.gives("http://mirror.example/secret", (403, b"no package", {}))
    here = guest()
    assert here.get("http://mirror.example/secret") == (403, b"no package")
    assert [each.address for each in here.wrote("refused")] == ["mirror.example:80"]


def test_a_host_that_the_stage_names_is_reached_past_the_cache(cache, guest, site):
    url = f"{site.url}/x.tar.gz"
    cache.gives(url, (403, b"no package", {}))
    site.gives("/x.tar.gz", BODY)
    here = guest(rules=Rules(hosts=frozenset({str(site.address)})))
    assert here.get(url) == (200, BODY)
    (entry,) = here.wrote("handed")
    assert (entry.cache, entry.url, entry.sha256, entry.origin) == (
        "direct", url, SHA256, "upstream",
    )  # fmt: skip
    assert here.wrote("refused") == []


def test_a_tunnel_to_a_host_that_the_stage_names(guest, site):
    site.gives("/x", b"hello")
    here = guest(rules=Rules(hosts=frozenset({str(site.address)})))
    with here.connect(str(site.address)) as link:
        assert link.recv(100).startswith(b"HTTP/1.1 200")
        link.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while block := link.recv(4096):
            said += block
    assert said.endswith(b"hello")
    for _ in range(100):
        if len(here.wrote("tunnel")) > 1:
            break
        threading.Event().wait(0.02)
    opened, closed = here.wrote("tunnel")
    assert (opened.address, opened.sent, opened.bytes) == (str(site.address), 0, 0)
    assert (closed.address, closed.sent, closed.bytes) == (str(site.address), 28, len(said))
    # Of the role that opened it, however long it stays open.
    assert opened.time == closed.time


def test_a_tunnel_is_written_down_at_once_and_ends_with_the_gateway(
    cache, site, tmp_path, guest_of
):
    rules = Rules(hosts=frozenset({str(site.address)}))
    with contextlib.ExitStack() as stack:
        urls = stack.enter_context(
            gateway.opened(Gateway({"apt": cache.url}, rules, tmp_path), tmp_path / "journal")
        )
        link = guest_of(urls, tmp_path / "journal").connect(str(site.address))
        assert link.recv(100).startswith(b"HTTP/1.1 200")
        (entry,) = network.read_journal(tmp_path / "journal")
        assert (entry.what, entry.bytes) == ("tunnel", 0)
        stack.close()
        with link:
            assert link.recv(100) == b""
    assert len(network.read_journal(tmp_path / "journal")) == 2


def test_a_body_goes_on_as_it_comes_and_ends_the_connection(guest, site):
    site.gives("/upload", b"thanks")
    here = guest(rules=Rules(hosts=frozenset({str(site.address)})))
    assert here.get(f"{site.url}/upload", method="POST", body=b"x" * 300_000) == (200, b"thanks")
    assert site.asked[0][2]["Content-Length"] == "300000"


@pytest.mark.parametrize(
    "head",
    [
        "POST http://{site}/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST http://{site}/x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "GET http://mirror.example/debian/x.deb HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        "CONNECT {site} HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_a_body_that_two_could_understand_in_two_ways_is_refused(guest, site, cache, head, raw):
    hosts = frozenset({str(site.address), "mirror.example"})
    here = guest(rules=Rules(hosts=hosts))
    smuggled = "GET http://mirror.example/debian/secret.deb HTTP/1.1\r\n\r\n"
    said = raw(here.urls["apt"], head.format(site=site.address) + smuggled)
    assert said.startswith(b"HTTP/1.1 400")
    assert said.count(b"HTTP/1.1") == 1
    assert site.asked == cache.asked == []


@pytest.mark.parametrize("target", ["http://other.example/admin", "*", "admin"])
def test_an_index_is_no_proxy(guest, cache, target, raw):
    here = guest()
    said = raw(here.urls["pypi"], f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400")
    assert cache.asked == []


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:18931%2F@mirror.example/pool/a.deb", "http://a@mirror.example/pool/a.deb",
     "http://httpsmirror.example/a.deb", "http://127.0.0.1\\@mirror.example/a.deb"],
)  # fmt: skip
def test_a_url_that_means_two_things_reaches_neither(guest, cache, url, raw):
    here = guest()
    said = raw(here.urls["apt"], f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 403")
    assert cache.asked == []


def test_a_team_s_index_is_asked_with_its_password_and_the_guest_has_none(cache, tmp_path):
    cache.gives("/simple/x/", b"<html>")
    url = cache.url.replace("//", "//user:p%40ss@") + "/simple/"
    rules = Rules(teams=frozenset({cache.address}))
    found = Gateway({"pypi": url}, rules, tmp_path, pauses=Pauses(1))
    with gateway.opened(found, tmp_path / "journal") as urls:
        assert "user" not in urls["pypi"]
        page = urls["pypi"] + "x/"
        with urllib.request.urlopen(page, timeout=20) as answer:  # noqa: S310 - the tests' own
            assert answer.read() == b"<html>"
    assert cache.asked[0][2]["Authorization"] == "Basic dXNlcjpwQHNz"
    assert "ss" not in (tmp_path / "journal").read_text().replace("sha256", "")


def test_a_journal_that_cannot_be_written_ends_the_run(cache, tmp_path, guest_of):
    cache.gives(DEB, BODY)
    (tmp_path / "journal").mkdir()
    rules = Rules(archives=frozenset({Address("mirror.example", 80)}))
    with (
        pytest.raises(OSError, match="journal"),
        gateway.opened(Gateway({"apt": cache.url}, rules, tmp_path), tmp_path / "journal") as urls,
        contextlib.suppress(OSError, http.client.HTTPException),
    ):
        guest_of(urls, tmp_path / "journal").get(DEB)


def test_an_open_network_does_not_lead_to_the_host(guest, site):
    here = guest(rules=Rules(mode="open"))
    assert here.get(f"http://localhost:{site.address.port}/x")[0] == 403
    with here.connect(str(site.address)) as link:
        assert link.recv(100).startswith(b"HTTP/1.1 403")
    assert site.asked == []


def test_offline_a_host_that_the_stage_names_is_not_reached(cache, guest, site):
    here = guest(rules=Rules(hosts=frozenset({str(site.address)}), offline=True))
    with here.connect(str(site.address)) as link:
        assert link.recv(100).startswith(b"HTTP/1.1 403")
    assert site.asked == []


def test_when_the_block_ends_nobody_answers(cache, tmp_path):
    found = Gateway({"apt": cache.url}, Rules(), tmp_path)
    with gateway.opened(found, tmp_path / "journal") as urls:
        host, port = urls["apt"].split("/")[2].split(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
