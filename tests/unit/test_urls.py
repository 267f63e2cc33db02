"""What is read off a URL, and what may be shown of one."""

from __future__ import annotations

import pytest

from builder.fetch import urls


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://mirror.example/a?b", "http://mirror.example:80"),
        ("HTTPS://user:pw@Mirror.Example./a", "https://mirror.example:443"),
        ("http://127.0.0.1:3142/", "http://127.0.0.1:3142"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_an_endpoint_is_a_server_without_secrets(url, name) -> None:
    assert urls.endpoint(url) == name


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://mirror.example/a/b.deb", "http://mirror.example/a/b.deb"),
        ("https://me:geheim@mirror.example:8443/a", "https://mirror.example:8443/a"),
        (
            "https://m.example/a?X-Signature=geheim&v=2#geheim",
            "https://m.example/a?X-Signature=…&v=…",
        ),
        ("https://me:geheim@[broken/a", "…"),
    ],
)
def test_what_is_shown_of_a_url(url, shown) -> None:
    assert urls.redacted(url) == shown
    assert urls.redacted_text(f"cannot open {url}!") == f"cannot open {shown}!".replace("…!", "…")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "a.localhost.", "[::1]"])
def test_a_loopback_is_known(host) -> None:
    assert urls.is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.2.2", "localhost.example", "mirror.example", ""])
def test_another_host_is_none(host) -> None:
    assert not urls.is_loopback(host)


PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("http://m.example/", {}, None),
        ("http://m.example/", {"http_proxy": PROXY}, PROXY),
        ("http://m.example/", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://m.example/", {"http_proxy": "proxy.example:3128"}, PROXY),
        ("http://m.example/", {"https_proxy": PROXY}, None),
        ("https://m.example/", {"http_proxy": PROXY}, None),
        ("https://m.example/", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://m.example/", {"all_proxy": PROXY}, PROXY),
        ("http://127.0.0.1:1/", {"http_proxy": PROXY}, None),
        ("http://localhost/", {"all_proxy": PROXY}, None),
    ],
)
def test_the_proxy_of_a_url(url, environment, proxy) -> None:
    assert urls.proxy_for(url, environment) == proxy


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("m.example", "*", True),
        ("m.example", "other, m.example", True),
        ("a.m.example", "m.example", True),
        ("a.m.example", ".m.example", True),
        ("m.example", "*.m.example", True),
        ("am.example", "m.example", False),
        ("m.example:8080", "m.example:8080", True),
        ("m.example:80", "m.example:8080", False),
        ("192.0.2.7", "192.0.2.0/24", True),
        ("192.0.3.7", "192.0.2.0/24", False),
        ("m.example", "192.0.2.0/24", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("[2001:db8::7]", "2001:db8::7", True),
        ("[2001:db8::7]:80", "[2001:db8::7]:80", True),
        ("[2001:db8::7]", "2001:db8::/32", True),
        ("m.example", "192.0.2.0/nonsense", False),
        ("m.example", "", False),
    ],
)
def test_who_needs_no_proxy(host, no_proxy, direct) -> None:
    environment = {"http_proxy": PROXY, "NO_PROXY": no_proxy}
    assert urls.proxy_for(f"http://{host}/", environment) == (None if direct else PROXY)
