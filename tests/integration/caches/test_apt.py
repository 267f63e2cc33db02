"""The real apt-cacher-ng: what it answers online, offline, and when upstream is in trouble."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request

import pytest

from builder import caches
from builder.caches.apt import mend
from builder.caches.kept import Rules

pytestmark = pytest.mark.integration

DEB = "/debian/pool/main/h/hello/hello_1_amd64.deb"
UNSEEN = "/debian/pool/main/h/hello/hello_2_amd64.deb"
RELEASE = "/debian/dists/trixie/InRelease"
PACKAGES = b"Package: hello\n"
BY_HASH = (
    f"/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/{hashlib.sha256(PACKAGES).hexdigest()}"
)
OLD = "/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/" + "0" * 64


@pytest.fixture(autouse=True)
def _mirror(origin, home, tmp_path, require_program, monkeypatch):
    require_program("apt-cacher-ng")
    release = f"Suite: trixie\nSHA256:\n {BY_HASH.rpartition('/')[2]} 15 main/Packages\n"
    origin.files |= {
        DEB: b"deb" * 1000,
        UNSEEN: b"new" * 1000,
        RELEASE: release.encode(),
        BY_HASH: PACKAGES,
        OLD: b"what was in force before",
    }
    # Not the host's own proxy.
    (tmp_path / "apt.conf").touch()
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.delenv("http_proxy", raising=False)
    yield
    caches.down({}, home)


def online(home, **options):
    return caches.running({}, home, names=["apt"], **options)


def get(proxy: str, url: str) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))
    try:
        with opener.open(url, timeout=90) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


def fill(home, origin, *paths: str) -> None:
    with online(home) as endpoints:
        for path in paths:
            assert get(endpoints.apt, origin.url + path) == (200, origin.files[path])


def test_offline_what_is_kept_is_served_and_upstream_is_not_asked(home, origin):
    fill(home, origin, DEB, RELEASE, BY_HASH)
    origin.asked.clear()
    with online(home, offline=True) as endpoints:
        for path in (DEB, RELEASE, BY_HASH):
            assert get(endpoints.apt, origin.url + path) == (200, origin.files[path])
        assert get(endpoints.apt, origin.url + UNSEEN)[0] == 503
        assert [each.offline for each in caches.status({}, home, ["apt"])] == [True]
    assert origin.asked == []


def test_an_offline_run_beside_an_online_one_disturbs_neither(home, origin):
    with online(home) as first:
        assert get(first.apt, origin.url + DEB)[0] == 200
        with online(home, offline=True) as second:
            assert second.apt == first.stale["apt"]
            assert get(second.apt, origin.url + UNSEEN)[0] == 503
            assert get(first.apt, origin.url + UNSEEN)[0] == 200
            # Kept by one of them, and there for the other.
            assert get(second.apt, origin.url + UNSEEN)[0] == 200


@pytest.mark.parametrize("status", [503, 404])
def test_when_upstream_is_in_trouble_the_second_server_has_the_index(home, origin, status):
    with online(home) as endpoints:
        get(endpoints.apt, origin.url + RELEASE)
        get(endpoints.apt, origin.url + DEB)
        origin.status = status
        assert get(endpoints.apt, origin.url + RELEASE)[0] == status
        stale = endpoints.stale["apt"]
        # If this fails, apt-cacher-ng forgets no lengths any more: mend() can go.
        assert get(stale, origin.url + RELEASE)[0] == 503
        assert mend(home / "cache/var/apt/packages", origin.url + RELEASE) == 1
        assert get(stale, origin.url + RELEASE) == (200, origin.files[RELEASE])
        # A package is served without upstream anyway.
        assert get(endpoints.apt, origin.url + DEB)[0] == 200


def test_what_upstream_s_trouble_did_to_an_index_is_put_right_for_an_offline_run(home, origin):
    fill(home, origin, RELEASE)
    with online(home) as endpoints:
        origin.status = 503
        assert get(endpoints.apt, origin.url + RELEASE)[0] == 503
    with online(home, offline=True) as endpoints:
        assert get(endpoints.apt, origin.url + RELEASE) == (200, origin.files[RELEASE])


def test_guests_do_not_see_the_second_server(home):
    with online(home) as endpoints:
        assert endpoints.stale
        assert endpoints.seen_at("10.0.2.100").stale == {}
        assert set(endpoints.addresses) == {"apt"}


def test_a_truncated_package_is_completed_and_a_deleted_one_fetched_again(home, origin):
    fill(home, origin, DEB)
    [kept] = (home / "cache/var/apt/packages").rglob("hello_1_amd64.deb")
    os.truncate(kept, 100)
    with online(home) as endpoints:
        # Half a file is none for the server that may not ask.
        assert get(endpoints.stale["apt"], origin.url + DEB)[0] == 503
        assert get(endpoints.apt, origin.url + DEB) == (200, origin.files[DEB])
        kept.unlink()
        assert get(endpoints.apt, origin.url + DEB) == (200, origin.files[DEB])


def test_a_flipped_bit_is_handed_out_so_somebody_else_must_look(home, origin):
    """If this fails, apt-cacher-ng has learnt to check what it keeps: docs/caches.md says it."""
    fill(home, origin, DEB)
    [kept] = (home / "cache/var/apt/packages").rglob("hello_1_amd64.deb")
    kept.write_bytes(b"X" + kept.read_bytes()[1:])
    with online(home) as endpoints:
        assert get(endpoints.apt, origin.url + DEB) == (200, b"X" + origin.files[DEB][1:])


def test_the_password_of_the_upstream_proxy_stays_private(home, tmp_path, origin):
    secret = "s3cr3t-of-the-proxy"
    proxy = origin.url.replace("//", f"//me:{secret}@")
    (tmp_path / "apt.conf").write_text(f'Acquire::http::Proxy "{proxy}";\n')
    with online(home) as endpoints:
        get(endpoints.apt, "http://mirror.example:80/debian/pool/main/h/hello/hello_1_amd64.deb")
        said = get(endpoints.apt, endpoints.apt + "/")[1]
    assert secret.encode() not in said
    holding = [
        path for path in (home / "cache/var").rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]  # fmt: skip
    assert [path.name for path in holding] == ["zz-this-host.conf"]
    assert holding[0].stat().st_mode & 0o077 == 0


def test_what_is_kept_is_counted_and_pruned_but_for_indexes_in_force(home, origin):
    fill(home, origin, DEB, RELEASE, BY_HASH, OLD)
    holds = caches.holds(home, ["apt"])["apt"]
    assert holds.files == 4
    assert holds.bytes >= len(origin.files[DEB])
    rules = Rules(now=time.time() + 100, older_than=50)
    with online(home):
        # A run uses it: nothing goes.
        assert {c.action for c in caches.prune(home, ["apt"], rules)} == {"keep"}
    choices = caches.prune(home, ["apt"], rules, dry_run=True)
    names = sorted(c.item.place.rpartition("/")[2] for c in choices if c.action == "remove")
    assert names == ["0" * 64, "hello_1_amd64.deb"]
    assert caches.holds(home, ["apt"])["apt"].files == 4
    caches.prune(home, ["apt"], rules)
    left = [path.name for path in (home / "cache/var/apt/packages/127.0.0.1").rglob("*.head")]
    assert sorted(left) == sorted(["InRelease.head", BY_HASH.rpartition("/")[2] + ".head"])
    fill(home, origin, DEB)


def test_a_server_that_stays_serves_on_after_a_pruning(home, origin):
    caches.up({}, home, ["apt"])
    url = caches.status({}, home, ["apt"])[0].url
    get(url, origin.url + DEB)
    gone = caches.prune(home, ["apt"], Rules(now=time.time() + 100, max_bytes=0))
    assert [c.action for c in gone] == ["remove"]
    assert get(url, origin.url + DEB) == (200, origin.files[DEB])
