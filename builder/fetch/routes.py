"""The HTTP client of downloads: which way a request takes, and whose certificates it believes.

httpx2 reads the proxies of the environment itself, but would send a request for this host's
loopback through one; and it knows ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, but not the
``REQUESTS_CA_BUNDLE`` that pip and the caches go by. So each request is given its way
here, redirected ones as well.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Final

import httpx2

from builder.errors import HostError
from builder.fetch.urls import proxy_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.fetch.transient import Policy

_FILES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_HOPS: Final = 10


def client(policy: Policy, environment: Mapping[str, str]) -> httpx2.Client:
    """Return a client that follows redirects, asks for bytes as they are, and keeps connections."""
    for name in ("httpx2", "httpcore2"):
        # They log every URL and header, with what is secret in them.
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx2.Client(
        transport=_Routes(environment),
        timeout=httpx2.Timeout(policy.read_seconds, connect=policy.connect_seconds),
        headers={"Accept-Encoding": "identity", "User-Agent": "vaultbuild"},
        follow_redirects=True,
        max_redirects=_HOPS,
        trust_env=False,
    )


class _Routes(httpx2.BaseTransport):
    """A transport for each proxy there is, and one for those who need none."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._ways: dict[tuple[str | None, bool], httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        proxy = proxy_for(str(request.url), self._environment)
        return self._way(proxy, secure=request.url.scheme == "https").handle_request(request)

    def close(self) -> None:
        for way in self._ways.values():
            way.close()

    def _way(self, proxy: str | None, *, secure: bool) -> httpx2.HTTPTransport:
        key = (proxy, secure)
        if key not in self._ways:
            # Reading all certificates of a host takes 95 ms; without them nobody is believed.
            verify = _certificates(self._environment) if secure else _nobody()
            made = httpx2.HTTPTransport(verify=verify, proxy=proxy, trust_env=False)
            self._ways.setdefault(key, made)  # another thread may have been faster
        return self._ways[key]


def _certificates(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return the authorities that this host believes, or those that the environment names."""
    name = next((name for name in _FILES if environment.get(name)), None)
    folder = environment.get("SSL_CERT_DIR") or None
    if name is None and folder is None:
        return httpx2.create_ssl_context(trust_env=False)
    try:
        file = environment[name] if name else None
        return ssl.create_default_context(cafile=file, capath=folder)
    except (OSError, ssl.SSLError) as error:
        place = environment[name] if name else folder
        raise HostError(
            f"no certificates can be read from {place}: {error}",
            hint=f"set {name or 'SSL_CERT_DIR'} to a file of certificates, or unset it",
        ) from error


def _nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
