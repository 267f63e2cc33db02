"""Fetching from a server that fails in every way a server can, over real sockets."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from builder.fetch import PermanentError, TransientError

pytestmark = pytest.mark.integration

DATA = bytes(range(256)) * 1200  # 300 KiB
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = DATA[::-1]
ROOT = Path(__file__).parents[2]


def beside(target: Path) -> list[str]:
    """What stands in the folder of a target, without the target."""
    return sorted(path.name for path in target.parent.glob("*") if path != target)


# --- what goes well -------------------------------------------------------------------------------


def test_a_file_is_fetched(upstream, fetcher, target, said):
    upstream.put("/a.bin", DATA)
    seen: list[int] = []

    got = fetcher().file(upstream.url + "/a.bin", target, sha256=SHA, progress=seen.append)

    assert target.read_bytes() == DATA
    assert (got.path, got.sha256, got.bytes, got.received) == (target, SHA, len(DATA), len(DATA))
    assert got.etag
    assert got.modified
    assert seen[-1] == len(DATA)
    assert beside(target) == []
    assert said == []


def test_what_is_there_is_not_fetched(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    target.parent.mkdir()
    target.write_bytes(DATA)

    got = fetcher().file(upstream.url + "/a.bin", target, sha256=SHA.upper())

    assert (got.sha256, got.received, upstream.requests) == (SHA, 0, [])


def test_other_bytes_at_the_target_are_replaced(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    target.parent.mkdir()
    target.write_bytes(OTHER)

    fetcher().file(upstream.url + "/a.bin", target, sha256=SHA)

    assert target.read_bytes() == DATA


def test_an_empty_file_is_a_file(upstream, fetcher, target):
    upstream.put("/a.bin", b"")

    got = fetcher().file(upstream.url + "/a.bin", target)

    assert (target.read_bytes(), got.bytes) == (b"", 0)


def test_a_condition_that_holds_fetches_nothing(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    first = fetcher().file(upstream.url + "/a.bin", target)

    got = fetcher().file(
        upstream.url + "/a.bin", target, headers={"If-None-Match": first.etag or ""}
    )

    assert (got.sha256, got.received) == (SHA, 0)
    assert [request.status for request in upstream.requests] == [200, 304]


def test_connections_are_kept(upstream, fetcher, tmp_path):
    upstream.put("/a.bin", DATA)
    one = fetcher()
    for number in range(3):
        one.file(upstream.url + "/a.bin", tmp_path / str(number), sha256=SHA)

    assert len(upstream.requests) == 3


def test_a_document_is_read(upstream, fetcher):
    upstream.put("/index", b"text", headers={"X-Serial": "7"})
    one = fetcher()

    answer = one.read(upstream.url + "/index")
    again = one.read(upstream.url + "/index", headers={"If-None-Match": answer.headers["etag"]})

    assert (answer.status, answer.body, answer.headers["x-serial"]) == (200, b"text", "7")
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("announced", [True, False])
def test_a_document_that_is_too_large_is_not_read(announced, upstream, fetcher):
    upstream.put("/index", DATA)
    headers = {} if announced else {"If-None-Match": '"x"'}

    with pytest.raises(PermanentError, match="is larger than 1000 bytes"):
        fetcher().read(upstream.url + "/index?token=geheim", limit=1000, headers=headers)


def test_the_head_of_a_file(upstream, fetcher):
    upstream.put("/a.bin", DATA)

    answer = fetcher().head(upstream.url + "/a.bin")

    assert (answer.status, answer.headers["content-length"]) == (200, str(len(DATA)))
    assert upstream.sent == 0


def test_a_server_without_head_is_asked_for_one_byte(upstream, fetcher):
    upstream.put("/a.bin", DATA)
    upstream.status("/a.bin", 405, times=1)

    answer = fetcher().head(upstream.url + "/a.bin")

    assert (answer.status, answer.headers["content-length"]) == (200, str(len(DATA)))
    asked = [(request.method, request.headers.get("range")) for request in upstream.requests]
    assert asked == [("HEAD", None), ("GET", "bytes=0-0")]


def test_a_redirect_is_followed(upstream, upstreams, fetcher, target):
    store = upstreams({"/deep": DATA})
    upstream.redirect("/a.bin", store.url + "/deep?sig=1")

    fetcher().file(
        upstream.url + "/a.bin", target, sha256=SHA, headers={"Authorization": "Bearer geheim"}
    )

    assert "authorization" in upstream.requests[0].headers
    assert "authorization" not in store.requests[0].headers


# --- what passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_status_that_passes_is_tried_again(status, upstream, fetcher, target, said):
    upstream.put("/a.bin", DATA)
    upstream.status("/a.bin", status, times=2)

    fetcher().file(upstream.url + "/a.bin", target, sha256=SHA)

    assert [request.status for request in upstream.requests] == [status, status, 200]
    assert len(said) == 2
    assert f"a.bin from {upstream.address}: the server answers {status}" in said[0]
    assert "trying again in" in said[0]


def test_retries_end(upstream, fetcher, target):
    upstream.status("/a.bin", 503)

    with pytest.raises(TransientError, match=r"answers 503 \(tried 4 times\)"):
        fetcher(attempts=4).file(upstream.url + "/a.bin", target, sha256=SHA)

    assert len(upstream.requests) == 4
    assert beside(target) == []


def test_time_ends_retries_as_well(upstream, fetcher, target):
    upstream.status("/a.bin", 503, retry_after=3600)

    with pytest.raises(TransientError, match="answers 503"):
        fetcher(asked_max=90, total_seconds=60).file(upstream.url + "/a.bin", target)

    assert len(upstream.requests) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_server_says_when_to_come_back(form, upstream, fetcher, target, said):
    upstream.put("/a.bin", DATA)
    later = "1800" if form == "seconds" else formatdate(time.time() + 1800, usegmt=True)
    upstream.status("/a.bin", 429, retry_after=later, times=1)

    # Heeded up to the limit, which is far above what would be waited otherwise.
    fetcher(asked_max=0.2).file(upstream.url + "/a.bin", target, sha256=SHA)

    assert said[0].endswith("trying again in 0.2 s")


@pytest.mark.parametrize("after", [-1, 0, 100_000])
def test_a_connection_that_is_reset(after, upstream, fetcher, target, said):
    upstream.put("/a.bin", DATA)
    upstream.reset("/a.bin", after=after, times=2)

    got = fetcher().file(upstream.url + "/a.bin", target, sha256=SHA)

    assert target.read_bytes() == DATA
    assert got.received == len(DATA), "what had arrived is not fetched again"
    assert len(said) == 2
    assert beside(target) == []


def test_a_body_that_is_cut_short_is_continued(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    upstream.truncate("/a.bin", after=1000, times=1)

    got = fetcher().file(upstream.url + "/a.bin", target)

    second = upstream.requests[1]
    assert (second.status, second.headers["range"]) == (206, "bytes=1000-")
    assert second.headers["if-range"].startswith('"')
    assert (got.sha256, got.received) == (SHA, len(DATA))


def test_a_server_that_hangs_is_left(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    upstream.hang("/a.bin", times=1)
    upstream.hang("/a.bin", after=5000, times=1)

    got = fetcher(read_seconds=0.2).file(upstream.url + "/a.bin", target, sha256=SHA)

    assert got.received == len(DATA)
    assert [request.status for request in upstream.asked("/a.bin")][-1] == 206


def test_a_server_that_drips_is_left(upstream, fetcher, target, said):
    upstream.put("/a.bin", DATA)
    upstream.drip("/a.bin", count=1, seconds=0.05, times=1)

    fetcher(slow_seconds=0.3).file(upstream.url + "/a.bin", target, sha256=SHA)

    assert "bytes came in 0 s" in said[0]


def test_nobody_listens(upstream, fetcher, target, said):
    upstream.stop()

    with pytest.raises(TransientError, match=rf"a.bin from {upstream.address}: .*refused"):
        fetcher(attempts=3).file(upstream.url + "/a.bin", target, sha256=SHA)

    assert len(said) == 2


def test_a_name_that_nobody_has_is_tried_twice(fetcher, target, said):
    with pytest.raises(TransientError) as caught:
        fetcher().file("http://nobody.invalid/a.bin", target)

    assert caught.value.hint == "is the name right, and this host on the network?"
    assert len(said) <= 4, "once, if the resolver knows that there is no such name"


def test_an_hour_of_download_is_not_lost_to_a_count(upstream, fetcher, target):
    """Attempts count since bytes last arrived: this is cut more often than may be tried."""
    upstream.put("/a.bin", DATA)
    upstream.reset("/a.bin", after=40_000, times=6)

    got = fetcher(attempts=2, progress=30_000).file(upstream.url + "/a.bin", target, sha256=SHA)

    assert got.received == len(DATA)


def test_what_begins_anew_each_time_is_no_progress(upstream, fetcher, target):
    upstream.put("/a.bin", DATA, ranges=False)
    upstream.reset("/a.bin", after=40_000)

    with pytest.raises(TransientError):
        fetcher(attempts=3, progress=30_000).file(upstream.url + "/a.bin", target, sha256=SHA)

    assert len(upstream.requests) <= 4


def test_many_that_fail_together_do_not_storm(upstream, fetcher, tmp_path):
    upstream.status("*", 503)
    one = fetcher(attempts=5, budget=6)

    def fetch(number: int) -> None:
        with pytest.raises(TransientError):
            one.file(f"{upstream.url}/{number}", tmp_path / "got" / str(number))

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(upstream.requests) == 8 + 6, "without the budget it would be forty"


# --- what stays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 410, 401, 403, 400, 501])
def test_a_status_that_stays_is_told_at_once(status, upstream, fetcher, target, said):
    upstream.status("/a.bin", status)

    with pytest.raises(PermanentError, match=f"the server answers {status}"):
        fetcher().file(upstream.url + "/a.bin", target, sha256=SHA)

    assert len(upstream.requests) == 1
    assert said == []
    assert beside(target) == []


def test_wrong_bytes_during_a_sync_are_fetched_again(upstream, fetcher, target, said):
    upstream.put("/a.bin", DATA)
    upstream.corrupt("/a.bin", times=1)

    got = fetcher().file(upstream.url + "/a.bin", target, sha256=SHA)

    assert target.read_bytes() == DATA
    assert got.received == 2 * len(DATA), "wrong bytes are not continued"
    assert "range" not in upstream.requests[1].headers
    assert upstream.requests[1].headers["cache-control"] == "no-cache"
    assert f"wanted {SHA}" in said[0]


def test_wrong_bytes_that_stay_are_an_error(upstream, fetcher, target):
    upstream.put("/a.bin", OTHER)
    found = hashlib.sha256(OTHER).hexdigest()

    with pytest.raises(PermanentError, match=rf"has SHA-256 {found}\n +wanted {SHA}"):
        fetcher().file(upstream.url + "/a.bin", target, sha256=SHA)

    assert len(upstream.requests) == 2
    assert list(target.parent.iterdir()) == []


def test_bytes_that_are_wrong_each_time_differently_end_as_well(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)
    for number in range(5):
        upstream.corrupt("/a.bin", bytes([number]) * 10, times=1)

    with pytest.raises(PermanentError, match="has SHA-256"):
        fetcher(mismatches=3).file(upstream.url + "/a.bin", target, sha256=SHA)

    assert len(upstream.requests) == 3


def test_a_size_that_is_wrong_is_seen_before_the_bytes(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)

    with pytest.raises(PermanentError, match=rf"has {len(DATA)} bytes\n +wanted 7"):
        fetcher().file(upstream.url + "/a.bin", target, sha256=SHA, size=7)

    assert list(target.parent.iterdir()) == []


# --- what else can be wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["ftp://mirror.example/a", "http://", "http://a:99999/b", "http://[::1/b", "a/b"]
)
def test_what_is_no_url_of_the_web_is_told(url, fetcher, target):
    with pytest.raises(PermanentError):
        fetcher().file(url, target)


def test_a_circle_of_redirects_ends(upstream, fetcher, target):
    upstream.redirect("/a.bin", "/a.bin")

    with pytest.raises(PermanentError):
        fetcher().file(upstream.url + "/a.bin", target)


def test_what_speaks_no_http_is_told(fetcher, target):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        with pytest.raises(TransientError, match="tried 2 times"):
            fetcher(attempts=2).file(f"http://127.0.0.1:{server.getsockname()[1]}/a", target)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
