"""Cloud images over a real HTTP server that misbehaves: once, whole, right, and confirmed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.caches import isos, shelf
from builder.errors import StoreError, VaultbuildError
from builder.fetch import FullError

pytestmark = pytest.mark.integration

IMAGE = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(IMAGE).hexdigest()
DAY = 24 * 3600.0


@pytest.fixture
def server(upstream):
    """A server with an image of a MiB."""
    upstream.put("/image.qcow2", IMAGE)
    return upstream


@pytest.fixture
def ensure(server, tmp_path, downloads):
    def run(sha256=SHA256, url="/image.qcow2", **settings):
        where = f"{server.url}{url}" if url.startswith("/") else url
        settings = {"fetcher": downloads, **settings}
        return isos.ensure(where, sha256, project=tmp_path, **settings)

    return run


def kept(project: Path) -> list[Path]:
    found = (project / "cache/var/isos").rglob("[!.]*")
    return [path for path in found if shelf.is_whole(path) and path.parent.name != ".read"]


def later() -> float:
    return time.time() + 30 * DAY


# --- once, whole, right ---------------------------------------------------------------------------


def test_it_is_fetched_once(ensure, server, tmp_path):
    first, second = ensure(), ensure()
    assert first.path == second.path == tmp_path / "cache/var/isos" / SHA256 / "image.qcow2"
    assert (first.received, second.received) == (len(IMAGE), 0)
    assert [request.method for request in server.requests] == ["GET"]
    assert kept(tmp_path) == [first.path]


@pytest.mark.parametrize("content", [b"spoiled", b"\1" + IMAGE[1:]])
def test_a_spoiled_copy_is_put_aside_and_fetched_again(ensure, server, tmp_path, content, caplog):
    first = ensure()
    first.path.write_bytes(content)
    second = ensure()
    assert second.path.read_bytes() == IMAGE
    assert second.spoiled
    assert len(server.requests) == 2
    (evidence,) = (tmp_path / "cache/var/quarantine").glob("*/image.qcow2")
    assert evidence.read_bytes() == content
    for digest in (SHA256, hashlib.sha256(content).hexdigest()):
        assert digest in caplog.text
        assert digest in evidence.with_name("why").read_text()


def test_another_checksum_keeps_nothing(ensure, tmp_path):
    with pytest.raises(StoreError, match=SHA256) as caught:
        ensure("0" * 64)
    assert "0" * 64 in caught.value.message
    assert "source.cloud_image.sha256" in caught.value.hint
    assert not [path for path in (tmp_path / "cache/var/isos").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("fault", "settings"), [("truncate", {"after": 1000}), ("status", {"status": 404})]
)
def test_what_does_not_arrive_is_not_there(ensure, server, tmp_path, fault, settings):
    getattr(server, fault)("/image.qcow2", **settings)
    with pytest.raises(VaultbuildError, match=r"cannot fetch .*image\.qcow2") as caught:
        ensure()
    assert "source.cloud_image.url" in caught.value.hint
    assert kept(tmp_path) == []
    server.heal()
    assert ensure().path.read_bytes() == IMAGE


def test_the_next_run_goes_on_from_what_one_left(ensure, server):
    server.truncate("/image.qcow2", after=len(IMAGE) // 2, times=1)
    server.status("/image.qcow2", 503)
    with pytest.raises(VaultbuildError):
        ensure()
    server.heal()
    got = ensure()
    assert got.received == len(IMAGE) // 2
    assert server.requests[-1].status == 206


def test_nobody_listens(ensure, server):
    server.stop()
    with pytest.raises(VaultbuildError, match="cannot fetch") as caught:
        ensure()
    assert "source.cloud_image.url" in caught.value.hint


def test_a_full_disk_stops_it(ensure, tmp_path):
    from builder.fetch import Fetcher
    from builder.fetch.breaker import Breakers

    full = Fetcher(breakers=Breakers(tmp_path / "b"), free=lambda _: 0)
    with pytest.raises(FullError):
        ensure(fetcher=full)
    assert kept(tmp_path) == []


def test_two_processes_fetch_once(server, tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from builder.caches import isos\n"
        "from builder.fetch import Fetcher, Policy; from builder.fetch.breaker import Breakers\n"
        "url, sha256, project = sys.argv[1], sys.argv[2], Path(sys.argv[3])\n"
        "f = Fetcher(breakers=Breakers(project / 'b'), policy=Policy(reserve=0))\n"
        "print(isos.ensure(url, sha256, project=project, fetcher=f).received)\n"
    )
    argv = [sys.executable, "-c", program, f"{server.url}/image.qcow2", SHA256, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    received = sorted(int(one.communicate()[0]) for one in both)
    assert [one.returncode for one in both] == [0, 0]
    assert received == [0, len(IMAGE)]
    assert [request.method for request in server.requests] == ["GET"]


def test_at_another_address_it_is_the_same_image(ensure, server):
    first = ensure()
    server.put("/renamed.qcow2", IMAGE)
    server.requests.clear()
    again = ensure(url="/renamed.qcow2")
    assert (again.path, again.received) == (first.path, 0)
    assert [request.method for request in server.requests] == ["HEAD"], "is it there, too?"


def test_a_cache_of_the_team_is_asked_first(ensure, server, upstreams):
    team = upstreams({f"/{SHA256}/image.qcow2": IMAGE})
    team.put(f"/{SHA256}/image.qcow2", IMAGE, etag='"of the team"')
    assert ensure(cache_url=f"{team.url}/").received == len(IMAGE)
    assert server.requests == []
    assert not ensure(cache_url=f"{team.url}/", now=later).stale


def test_a_cache_of_the_team_need_not_have_it(ensure, server, upstreams):
    assert ensure(cache_url=upstreams().url).received == len(IMAGE)
    assert len(server.requests) == 1


# --- a file of the project ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["served/image.qcow2", "file://{0}/served/image.qcow2"])
def test_it_may_be_a_file(ensure, tmp_path, form):
    file = tmp_path / "served/image.qcow2"
    file.parent.mkdir()
    file.write_bytes(IMAGE)
    got = ensure(url=form.format(tmp_path), offline=True)
    assert (got.path, got.stale, got.checked) == (file, False, None)
    assert kept(tmp_path) == []


def test_a_file_has_a_checksum_too(ensure, tmp_path):
    (tmp_path / "image.qcow2").write_bytes(IMAGE)
    with pytest.raises(StoreError, match=SHA256):
        ensure("0" * 64, url="image.qcow2")
    assert (tmp_path / "image.qcow2").exists(), "it is not ours to remove"


def test_a_file_that_is_not_there(ensure):
    with pytest.raises(VaultbuildError, match="there is no file"):
        ensure(url="nowhere.qcow2")


# --- older than its time to live ------------------------------------------------------------------


def test_what_is_fresh_asks_nobody(ensure, server):
    got = ensure()
    assert got.checked is not None
    server.requests.clear()
    assert not ensure().stale
    assert server.requests == []


def test_what_was_fetched_just_now_is_confirmed(ensure, server):
    assert not ensure(ttl=0).stale
    assert [request.method for request in server.requests] == ["GET"]
    assert ensure(ttl=0, offline=True).stale


def test_an_old_one_is_confirmed(ensure, server):
    ensure()
    server.requests.clear()
    moment = later()
    got = ensure(now=lambda: moment)
    assert [request.method for request in server.requests] == ["HEAD"]
    assert (got.stale, got.trouble, got.received, got.checked) == (False, None, 0, moment)


def test_a_copy_that_nobody_confirmed_is_asked_about(ensure, server):
    (ensure().path.with_name("checked.json")).write_text("torn")
    server.requests.clear()
    assert not ensure().stale
    assert [request.method for request in server.requests] == ["HEAD"]


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        (lambda server: server.remove("/image.qcow2"), "404"),
        (lambda server: server.put("/image.qcow2", IMAGE + b"x"), "is another file now"),
        (lambda server: server.put("/image.qcow2", b"\1" + IMAGE[1:]), "is another file now"),
        (lambda server: server.status("/image.qcow2", 503), "503"),
        (lambda server: server.stop(), "refused"),
    ],
)
def test_what_upstream_does_not_confirm_is_used_and_told(ensure, server, change, trouble):
    first = ensure()
    change(server)
    got = ensure(now=later)
    assert got.path.read_bytes() == IMAGE
    assert (got.stale, got.checked) == (True, first.checked)
    assert trouble in got.trouble


def test_offline_nobody_is_asked(ensure, server):
    first = ensure()
    server.requests.clear()
    got = ensure(offline=True)
    assert (got.stale, got.checked, got.trouble) == (False, first.checked, None)
    old = ensure(offline=True, now=later)
    assert (old.stale, old.checked, old.trouble) == (True, first.checked, "offline: not asked")
    assert server.requests == []


def test_offline_what_is_missing_is_named(ensure, server):
    with pytest.raises(shelf.NotCachedError) as caught:
        ensure(offline=True)
    assert f"{server.url}/image.qcow2 with SHA-256 {SHA256}" in caught.value.message
    assert "vaultbuild cache warm isos" in caught.value.hint
    assert server.requests == []


def test_passwords_are_in_no_message_and_no_file(server, tmp_path, downloads, caplog):
    url = f"http://me:hunter2@{server.address}/image.qcow2?token=hunter3"
    isos.ensure(url, SHA256, project=tmp_path, fetcher=downloads)
    server.status("/image.qcow2", 503)
    got = isos.ensure(url, SHA256, project=tmp_path, fetcher=downloads, now=later)
    server.heal()
    with pytest.raises(StoreError) as caught:
        isos.ensure(url, "0" * 64, project=tmp_path, fetcher=downloads)
    texts = [caught.value.message, caught.value.hint, got.trouble, got.url, caplog.text]
    texts += [path.read_text() for path in tmp_path.rglob("*.json")]
    assert not [text for text in texts if "hunter" in text]


# --- what there is, and who gets it ---------------------------------------------------------------


def test_what_there_is(ensure, tmp_path):
    ensure()
    (item,) = isos.items(tmp_path / "cache/var")
    assert (item.digest, item.bytes, item.held) == (SHA256, len(IMAGE), False)
    assert shelf.stale([item], ttl=shelf.TTL, now=time.time()) == []
    assert shelf.stale([item], ttl=shelf.TTL, now=later()) == [item]
    assert isos.drop(tmp_path / "cache/var", item)
    left = [path for path in (tmp_path / "cache/var/isos").rglob("*") if path.is_file()]
    assert left == []


def test_ranges_heads_and_nothing_else_is_served(ensure, tmp_path, serve, get):
    got = ensure()
    var = tmp_path / "cache/var"
    (var / "secret").write_text("s")
    root = serve("isos", var / "isos")
    url = f"{root}/{SHA256}/image.qcow2"
    assert get(url).body == IMAGE
    assert get(url, method="HEAD").headers["content-length"] == str(len(IMAGE))
    part = get(url, Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, IMAGE[1000:2000])
    tag = get(url).headers["etag"]
    again = get(url, **{"Range": "bytes=1000-1999", "If-Range": tag})
    assert (tag, again.status, again.body) == (f'"{SHA256}"', 206, IMAGE[1000:2000])
    paths = [
        f"{SHA256}/checked.json", f"{SHA256}/", "../secret", f"{SHA256}/../../secret",
        f"{'0' * 64}/image.qcow2", "%2e%2e/secret", f"{SHA256}/%2e%2e%2f%2e%2e%2fsecret",
    ]  # fmt: skip
    assert [get(f"{root}/{path}").status for path in paths] == [404] * len(paths)
    assert get(f"{root}/").body == b"vaultbuild isos\n"
    got.path.write_bytes(b"\1" + IMAGE[1:])
    assert get(url).status == 404
    got.path.write_bytes(IMAGE)
    assert get(url).body == IMAGE, "what is right was read through by the server itself"
