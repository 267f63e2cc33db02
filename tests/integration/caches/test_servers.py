"""The real servers on loopback: what they serve, to whom, and what they leave."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from builder import caches
from builder.caches.http import ask
from builder.errors import HostError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def home(tmp_path_factory, require_program):
    """A folder with the tracked configuration; the module's tests share what is downloaded."""
    require_program("apt-cacher-ng")
    require_program("devpi-server")
    root = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "cache/etc", root / "cache/etc")
    yield root
    caches.down({}, root)


@pytest.fixture(scope="module")
def endpoints(home):
    with caches.running({}, home) as endpoints:
        yield endpoints


def test_packages_come_through_the_proxy_and_are_kept(endpoints, home, missing):
    url = host_index(missing)
    first = through(endpoints.apt, url, missing)
    kept = list((home / "cache/var/apt/packages").rglob("InRelease"))
    assert [file.read_bytes() for file in kept] == [first]
    log = home / "cache/var/apt/log/apt-cacher.log"
    # It is written some time after the answer.
    wanted, deadline = url.partition("://")[2], time.monotonic() + 60
    while wanted not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert wanted in log.read_text()


def test_an_https_repository_comes_through_the_proxy_as_well(endpoints, missing):
    secure = host_index(missing).replace("http://", "https://")
    try:
        with urllib.request.build_opener().open(secure, timeout=60) as response:
            direct = response.read()
    except OSError as error:
        pytest.skip(f"this host's package source has no https: {error}")
    assert through(endpoints.apt, secure.replace("https://", "http://HTTPS///"), missing) == direct


def test_the_proxy_makes_no_tunnels(endpoints):
    with socket.create_connection(address(endpoints, "apt"), timeout=10) as connection:
        connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert b"403" in connection.recv(4096).partition(b"\r\n")[0]


def test_the_proxy_hands_out_nothing_of_the_host_s_loopback(endpoints):
    with socket.create_server(("127.0.0.1", 0)) as secret:
        secret.settimeout(0.5)
        url = f"http://127.0.0.1:{secret.getsockname()[1]}/secret.txt"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener(endpoints.apt).open(url, timeout=10)
        with pytest.raises(TimeoutError):
            secret.accept()


def test_the_servers_listen_on_loopback_only(endpoints, listening):
    urls = [*endpoints.urls.values(), *endpoints.stale.values()]
    assert len(urls) == 3
    for url in urls:
        assert listening(urlsplit(url).port) == {"127.0.0.1"}


def test_a_wheel_comes_through_the_index_and_is_kept(endpoints, home, tmp_path, missing):
    wheel = download(endpoints.pypi, tmp_path / "first", missing)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    kept = list((home / "cache/var/pypi").rglob(wheel.name))
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in kept] == [digest]


def test_no_secret_can_be_read_from_the_process_list(endpoints, home):
    secrets = list((home / "cache/var/pypi").rglob("*.secret"))
    assert sorted(secret.name for secret in secrets) == ["root.secret", "vaultbuild.secret"]
    assert [secret.stat().st_mode & 0o077 for secret in secrets] == [0, 0]
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            told = line.read_bytes()
            assert not [secret for secret in secrets if secret.read_bytes() in told]


def test_up_lets_the_servers_stay_and_down_stops_them(tmp_path, home, gone):
    shutil.copytree(home / "cache/etc", tmp_path / "cache/etc")
    up = caches.up({}, tmp_path)
    running = ["running", "running", "stopped", "stopped", "stopped"]
    assert [each.state for each in up] == running
    assert [each.stays for each in up] == [state == "running" for state in running]
    again = caches.up({}, tmp_path)
    assert [each.process for each in again] == [each.process for each in up]
    assert [each.state for each in caches.status({}, tmp_path)] == running
    down = caches.down({}, tmp_path)
    assert [each.state for each in down] == ["stopped"] * 5
    assert all(gone(each.process) for each in up if each.process)
    assert not list((tmp_path / "cache/var/run").glob("*.stay"))


def test_the_mirror_s_upstream_is_the_host_s_index(tmp_path, home, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    shutil.copytree(home / "cache/etc", tmp_path / "cache/etc")
    with caches.running({"apt": {"url": "http://cache"}}, tmp_path) as endpoints:
        server = endpoints.pypi.removesuffix("vaultbuild/private/+simple/")
        private = ask(server + "vaultbuild/private?no_projects=").json()["result"]
        [base] = private["bases"]
        mirror = ask(f"{server}{base}?no_projects=").json()["result"]
    assert mirror["mirror_url"] == "http://127.0.0.1:9/simple/"


def test_a_port_that_apt_cacher_ng_cannot_use_is_refused(tmp_path, home):
    shutil.copytree(home / "cache/etc", tmp_path / "cache/etc")
    settings = {"apt": {"url": None, "port": 40000}, "pypi": {"url": "http://cache"}}
    with pytest.raises(HostError, match="40000"), caches.running(settings, tmp_path):
        pass


def address(endpoints, name):
    found = endpoints.addresses[name]
    return found.host, found.port


def opener(proxy):
    return urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))


def host_index(missing) -> str:
    """The URL of a signed index of this host's own package sources."""
    if not shutil.which("apt-get"):
        missing("this host has no apt")
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)dists/$(RELEASE)/InRelease"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for url in listing.stdout.split():
        if url.startswith("http://"):
            return url
    missing("this host has no http package source")
    raise AssertionError


def through(proxy, url, missing) -> bytes:
    try:
        with opener(proxy).open(url, timeout=60) as response:
            return response.read()
    except (urllib.error.URLError, OSError) as error:
        missing(f"this host's package source does not answer: {error}")
        raise


def download(index, folder, missing) -> Path:
    # A wheel of a few kilobytes without dependencies.
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--dest", folder,
         "--only-binary", ":all:", "--index-url", index, "iniconfig==2.0.0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        missing(f"this host's package index does not answer: {done.stderr[-300:]}")
    return next(folder.glob("*.whl"))
