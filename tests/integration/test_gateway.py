"""The gateway between real sockets: what is handed on, written down, refused and tried again."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from builder import gateway, network
from builder.gateway import Gateway, Pauses, Rules
from builder.gateway.rules import Address

pytestmark = pytest.mark.integration

DEB = "http://mirror.example/debian/pool/main/h/hello.deb"
BODY = b"a package" * 50_000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Cache:
    """A server whose answers a test writes: by target, each once, the last for ever."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        cache = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                cache.asked.append((self.command, self.path, dict(self.headers)))
                known = cache.answers.get(self.path, [(404, b"no such file", {})])
                status, body, headers = known.pop(0) if len(known) > 1 else known[0]
                if status == "drop":
                    self.connection.close()
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                self.close_connection = True

            do_HEAD = do_GET  # noqa: N815

            def do_POST(self):
                left = int(self.headers["Content-Length"])
                while left and (block := self.rfile.read(min(left, 65536))):
                    left -= len(block)
                self.do_GET()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def address(self):
        return Address("127.0.0.1", self.server.server_address[1])

    @property
    def url(self):
        return f"http://{self.address}"

    def gives(self, target, *answers):
        self.answers[target] = [
            answer if isinstance(answer, tuple) else (200, answer, {}) for answer in answers
        ]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def cache():
    found = Cache()
    yield found
    found.stop()


@pytest.fixture
def guest(cache, tmp_path):
    """Call it with what the gateway is to be like: returns a guest's requests through it."""
    with contextlib.ExitStack() as stack:

        def build(**said):
            said = {"pauses": Pauses(attempts=2, first=0), **said}
            rules = said.pop("rules", Rules(archives=frozenset({Address("mirror.example", 80)})))
            found = Gateway(
                urls={"apt": cache.url, "pypi": f"{cache.url}/root/pypi/+simple/"},
                rules=rules, var=tmp_path / "var", **said,
            )  # fmt: skip
            urls = stack.enter_context(gateway.opened(found, tmp_path / "network.jsonl"))
            return Guest(urls, tmp_path / "network.jsonl")

        yield build


class Guest:
    """Somebody who knows the gateway and nothing else."""

    def __init__(self, urls, journal):
        self.urls = urls
        self._journal = journal

    def get(self, url, *, method="GET", headers=(), body=None):
        """Ask the proxy for a URL; return status and body."""
        request = urllib.request.Request(  # noqa: S310 - the tests' own URLs
            url, headers=dict(headers), method=method, data=body
        )
        handler = urllib.request.ProxyHandler({"http": self.urls["apt"]})
        try:
            with urllib.request.build_opener(handler).open(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def page(self, path):
        address = self.urls["pypi"].split("/")[2]
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
            return answer.read()

    def connect(self, target):
        host, port = self.urls["apt"].split("/")[2].split(":")
        link = socket.create_connection((host, int(port)), timeout=20)
        link.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        return link

    @property
    def journal(self):
        return network.read_journal(self._journal)

    def wrote(self, what):
        return [each for each in self.journal if each.what == what]


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


def test_without_upstream_the_cache_by_itself_answers(cache, guest):
    alone = Cache()
    alone.gives(DEB, BODY)
    cache.gives(DEB, (503, b"", {}))
    here = guest(alone=lambda _: alone.address)
    assert here.get(DEB) == (200, BODY)
    assert here.wrote("handed")[0].origin == "stale"
    alone.stop()


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
    here = guest(rules=Rules(hosts=frozenset({"127.0.0.1"})))
    assert here.get(f"http://me:s3cr3t@{site.address}/x?sig=s3cr3t") == (200, BODY)
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


@pytest.fixture
def site():
    """A host beside the caches."""
    found = Cache()
    yield found
    found.stop()


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


def test_a_tunnel_is_written_down_before_it_ends_and_ends_with_the_gateway(cache, site, tmp_path):
    rules = Rules(hosts=frozenset({str(site.address)}))
    with contextlib.ExitStack() as stack:
        urls = stack.enter_context(
            gateway.opened(Gateway({"apt": cache.url}, rules, tmp_path), tmp_path / "journal")
        )
        link = Guest(urls, tmp_path / "journal").connect(str(site.address))
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


def raw(url, text):
    """Send a request as it stands and return all that is said until the connection ends."""
    host, port = url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as link:
        link.sendall(text.encode())
        said = b""
        while block := link.recv(4096):
            said += block
    return said


@pytest.mark.parametrize(
    "head",
    [
        "POST http://{site}/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST http://{site}/x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "GET http://mirror.example/debian/x.deb HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        "CONNECT {site} HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_a_body_that_two_could_understand_in_two_ways_is_refused(guest, site, cache, head):
    hosts = frozenset({str(site.address), "mirror.example"})
    here = guest(rules=Rules(hosts=hosts))
    smuggled = "GET http://mirror.example/debian/secret.deb HTTP/1.1\r\n\r\n"
    said = raw(here.urls["apt"], head.format(site=site.address) + smuggled)
    assert said.startswith(b"HTTP/1.1 400")
    assert said.count(b"HTTP/1.1") == 1
    assert site.asked == cache.asked == []


@pytest.mark.parametrize("target", ["http://other.example/admin", "*", "admin"])
def test_an_index_is_no_proxy(guest, cache, target):
    here = guest()
    said = raw(here.urls["pypi"], f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400")
    assert cache.asked == []


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:18931%2F@mirror.example/pool/a.deb", "http://a@mirror.example/pool/a.deb",
     "http://httpsmirror.example/a.deb", "http://127.0.0.1\\@mirror.example/a.deb"],
)  # fmt: skip
def test_a_url_that_means_two_things_reaches_neither(guest, cache, url):
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


def test_a_journal_that_cannot_be_written_ends_the_run(cache, tmp_path):
    cache.gives(DEB, BODY)
    (tmp_path / "journal").mkdir()
    rules = Rules(archives=frozenset({Address("mirror.example", 80)}))
    with (
        pytest.raises(OSError, match="journal"),
        gateway.opened(Gateway({"apt": cache.url}, rules, tmp_path), tmp_path / "journal") as urls,
        contextlib.suppress(OSError, http.client.HTTPException),
    ):
        Guest(urls, tmp_path / "journal").get(DEB)


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
