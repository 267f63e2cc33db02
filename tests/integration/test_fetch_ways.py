"""Which server is asked, which way, and who is believed; over real sockets."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.fetch import PermanentError, TransientError
from builder.fetch.breaker import Breakers

pytestmark = pytest.mark.integration

DATA = bytes(range(256)) * 1200  # 300 KiB
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = DATA[::-1]
ROOT = Path(__file__).parents[2]


# --- other mirrors --------------------------------------------------------------------------------


def test_the_next_mirror_is_asked(upstream, upstreams, fetcher, target, said):
    upstream.stop()
    other = upstreams({"/m/a.bin": DATA})

    fetcher(attempts=2).file(
        upstream.url + "/a.bin", target, sha256=SHA, mirrors=[other.url + "/m/a.bin"]
    )

    assert target.read_bytes() == DATA
    assert said[-1].endswith(f"going on with {other.address}")


def test_a_partial_file_goes_on_at_another_mirror(upstream, upstreams, fetcher, target):
    upstream.put("/a.bin", DATA)
    upstream.reset("/a.bin", after=100_000, times=1)
    upstream.status("/a.bin", 503)
    other = upstreams({"/a.bin": DATA})

    got = fetcher(attempts=2).file(
        upstream.url + "/a.bin", target, sha256=SHA, mirrors=[other.url + "/a.bin"]
    )

    assert (got.sha256, got.received) == (SHA, len(DATA))
    assert "if-range" not in other.requests[0].headers


@pytest.mark.parametrize("fault", ["gone", "wrong"])
def test_a_mirror_that_lacks_a_file_is_passed_over(fault, upstream, upstreams, fetcher, target):
    if fault == "wrong":
        upstream.put("/a.bin", OTHER)
    other = upstreams({"/a.bin": DATA})

    fetcher().file(upstream.url + "/a.bin", target, sha256=SHA, mirrors=[other.url + "/a.bin"])

    assert target.read_bytes() == DATA


def test_no_mirror_has_it(upstream, upstreams, fetcher, target):
    other = upstreams()

    with pytest.raises(PermanentError, match="none of 2 places has it") as caught:
        fetcher().file(upstream.url + "/a.bin", target, mirrors=[other.url + "/a.bin"])

    assert upstream.address in caught.value.message
    assert other.address in caught.value.message


def test_a_breaker_that_is_open_sends_on_at_once(upstream, upstreams, fetcher, target, said):
    upstream.status("/a.bin", 503)
    other = upstreams({"/a.bin": DATA})
    one = fetcher(failures=3, attempts=3)
    with pytest.raises(TransientError):
        one.file(upstream.url + "/a.bin", target)
    said.clear()

    one.file(upstream.url + "/a.bin", target, mirrors=[other.url + "/a.bin"])

    assert len(upstream.requests) == 3, "it was not asked again"
    (line,) = said
    assert line.startswith(f"{upstream.address} does not answer")
    assert line.endswith(f"going on with {other.address}")


def test_the_only_server_is_waited_for(upstream, fetcher, target, said):
    upstream.put("/a.bin", DATA)
    upstream.status("/a.bin", 503, times=2)

    fetcher(failures=2, seconds=0.2, asked_max=5).file(upstream.url + "/a.bin", target, sha256=SHA)

    assert target.read_bytes() == DATA
    assert any("does not answer" in line for line in said)


def test_a_file_that_is_gone_opens_no_breaker(upstream, upstreams, fetcher, tmp_path):
    one = fetcher(failures=2)
    for name in "abcd":
        with pytest.raises(PermanentError):
            one.file(f"{upstream.url}/{name}", tmp_path / name)
    upstream.put("/e", DATA)

    one.file(f"{upstream.url}/e", tmp_path / "e")

    assert Breakers(tmp_path / "breakers").states() == []


# --- ways and secrets -----------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_used(upstream, fetcher, target):
    upstream.put("/a.bin", DATA)

    fetcher(environment={"http_proxy": upstream.url}).file("http://mirror.example/a.bin", target)

    assert upstream.requests[0].path == "http://mirror.example/a.bin"


def test_the_loopback_is_reached_without_a_proxy(upstream, upstreams, fetcher, target):
    upstream.put("/a.bin", DATA)
    proxy = upstreams()
    here = upstream.url.replace("127.0.0.1", "localhost")
    upstream.redirect("/b.bin", here + "/a.bin")
    one = fetcher(environment={"http_proxy": proxy.url, "all_proxy": proxy.url})

    one.file(upstream.url + "/b.bin", target)

    assert target.read_bytes() == DATA
    assert proxy.requests == []


@pytest.fixture
def certificate(tmp_path, require_program):
    """A certificate of 127.0.0.1 that nobody signed."""
    pem = tmp_path / "certificate.pem"
    subprocess.run(
        [
            require_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes",
            "-keyout", tmp_path / "key.pem", "-out", pem, "-days", "2", "-subj", "/CN=here",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, tmp_path / "key.pem")
    return pem, context


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"])
def test_certificates_of_the_environment_are_believed(
    name, certificate, upstreams, fetcher, target, tmp_path
):
    pem, context = certificate
    upstream = upstreams({"/a.bin": DATA}, tls=context)
    place = pem
    if name == "SSL_CERT_DIR":
        place = tmp_path / "certificates"
        place.mkdir()
        shutil.copy(pem, place)
        subprocess.run(["openssl", "rehash", place], check=True)

    fetcher(environment={name: str(place)}).file(upstream.url + "/a.bin", target)

    assert target.read_bytes() == DATA


def test_a_stranger_is_not_believed(certificate, upstreams, fetcher, target, said):
    upstream = upstreams({"/a.bin": DATA}, tls=certificate[1])

    with pytest.raises(PermanentError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        fetcher().file(upstream.url + "/a.bin", target)

    assert "SSL_CERT_FILE" in (caught.value.hint or "")
    assert said == []


def test_certificates_that_are_not_there_are_told(upstream, fetcher, target):
    with pytest.raises(HostError, match="no certificates can be read from /nowhere"):
        fetcher(environment={"SSL_CERT_FILE": "/nowhere.pem"}).file("https://127.0.0.1:1/a", target)


def test_https_does_not_lead_to_http(certificate, upstream, upstreams, fetcher, target):
    upstream.put("/a.bin", DATA)
    secure = upstreams(tls=certificate[1])
    secure.redirect("/a.bin", upstream.url + "/a.bin")

    with pytest.raises(PermanentError, match="leads to plain http"):
        fetcher(environment={"SSL_CERT_FILE": str(certificate[0])}).file(
            secure.url + "/a.bin", target
        )


def test_no_secret_is_told(upstream, upstreams, fetcher, tmp_path, target, said, caplog):
    caplog.set_level("DEBUG")
    upstream.status("/a.bin", 503)
    other = upstreams()
    place = f"http://user:geheim@{upstream.address}/a.bin?token=geheim&x=1"
    mirror = f"http://user:geheim@{other.address}/a.bin?signature=geheim"

    with pytest.raises(TransientError) as caught:
        fetcher(attempts=2, failures=1).file(place, target, mirrors=[mirror])

    told = [*said, caught.value.message, str(caught.value), caught.value.hint or "", caplog.text]
    files = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert "geheim" not in "\n".join(told + files)
    assert upstream.requests[0].headers["authorization"].startswith("Basic ")
