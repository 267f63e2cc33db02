"""Asking a hub of models, through huggingface_hub: what a file is, and where a revision stands.

What the library would do beside that is switched off. It would tell the hub which agent and which
frameworks run here, and ask it for a list of agents; it would show progress bars. Its downloads are
not used: they begin anew after a break, go unnoticed by the breakers, and end in a full disk.

Endpoint, token and time limits are the library's own unless the project names an upstream: what
``HF_ENDPOINT``, ``HF_TOKEN``, ``hf auth login`` and ``HF_HUB_ETAG_TIMEOUT`` say on this host. The
token goes to the upstream alone. Its name and everything about it stay out of messages.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from builder.fetch.transient import (
    PermanentError,
    Policy,
    ignore,
    of_status,
    of_transport,
    retrying,
)
from builder.fetch.urls import place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx2

    from builder.errors import VaultbuildError
    from builder.fetch.breaker import Breakers

_T = TypeVar("_T")

_LOGIN = "log in on this host (hf auth login, or HF_TOKEN), and accept the model's terms at the hub"
_GONE = "it is not at this hub any more: pin another commit; what the cache has serves --offline"
_REFUSED = {401, 403}
_NOT_THERE = {404, 410}


@dataclass(frozen=True, slots=True)
class Described:
    """What the hub says of one file: the name that its cache gives to the content, and its size."""

    commit: str
    etag: str
    size: int | None


class Hub:
    """A hub of models. Nothing is asked before a method is called."""

    def __init__(
        self,
        upstream: str | None = None,
        *,
        breakers: Breakers | None = None,
        policy: Policy | None = None,
        told: Callable[[str], None] = ignore,
    ) -> None:
        self._library = _library()
        self.endpoint: str = (upstream or self._library.constants.ENDPOINT).rstrip("/")
        self._breakers = breakers
        self._policy = policy or Policy()
        self._told = told

    @property
    def closed(self) -> bool:
        """Whether this host is told to leave hubs alone (``HF_HUB_OFFLINE``)."""
        return bool(self._library.constants.is_offline_mode())

    def headers(self) -> dict[str, str]:
        """Return what a request for a file carries: who asks, and the token if there is one."""
        headers: dict[str, str] = self._library.utils.build_hf_headers(library_name="vaultbuild")
        return {**headers, "Accept-Encoding": "identity"}

    def url(self, repo: str, commit: str, path: str) -> str:
        """Return where a file is."""
        url: str = self._library.hf_hub_url(repo, path, revision=commit, endpoint=self.endpoint)
        return url

    def describe(self, repo: str, commit: str, path: str) -> Described:
        """Return what the hub says of one file of one commit."""
        what = f"{repo} at {commit[:12]}, {path}"

        def ask() -> Any:
            # The one public way to ask: HEAD, redirects inside the hub only.
            return self._library.get_hf_file_metadata(
                self.url(repo, commit, path), endpoint=self.endpoint, library_name="vaultbuild"
            )

        said = self._asked(what, ask)
        if said.commit_hash != commit or not said.etag:
            raise PermanentError(
                f"{what}: {place(self.endpoint)} does not speak a hub's language",
                hint="caches.models.upstream in stages/pipeline.yml, or HF_ENDPOINT, names a hub",
            )
        return Described(said.commit_hash, said.etag, said.size)

    def commit_of(self, repo: str, revision: str) -> str:
        """Return the commit that a branch, a tag or a commit is."""
        api = self._library.HfApi(endpoint=self.endpoint, library_name="vaultbuild")
        timeout = self._library.constants.HF_HUB_ETAG_TIMEOUT
        found = self._asked(
            f"{repo} at {revision[:12]}",
            lambda: api.model_info(repo, revision=revision, timeout=timeout).sha,
        )
        return str(found)

    def _asked(self, what: str, ask: Callable[[], _T]) -> _T:
        """Ask, again where that may help."""
        for attempt in retrying(self._policy, what=what, told=self._told):
            with attempt:
                return self._once(what, ask)
        raise AssertionError(what)  # an attempt returns or raises

    def _once(self, what: str, ask: Callable[[], _T]) -> _T:
        if self._breakers is None:
            return _translated(what, ask)
        with self._breakers.of(self.endpoint).calling():
            return _translated(what, ask)


def _translated(what: str, ask: Callable[[], _T]) -> _T:
    """Ask once; what goes wrong is told in our words, without the library's and its URLs."""
    import httpx2  # late: with huggingface_hub, 0.4 s
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    try:
        return ask()
    except HfHubHTTPError as error:
        raise _of_answer(error.response.status_code, error.response.headers, what) from None
    except FileMetadataError as error:
        raise PermanentError(f"{what}: {error}") from None
    except (httpx2.HTTPError, OSError) as error:
        found = of_transport(error, what=what)
        raise found or error from error


def _of_answer(status: int, headers: Mapping[str, str], what: str) -> VaultbuildError:
    found = of_status(status, headers, what=what)
    hint = _LOGIN if status in _REFUSED else _GONE if status in _NOT_THERE else None
    return PermanentError(found.message, hint=hint) if hint else found


def _library() -> Any:
    """Return huggingface_hub, made to do what it is asked and nothing else."""
    import huggingface_hub  # late: 0.4 s
    from huggingface_hub import constants

    # Read from the environment when the library is loaded, which may have been anybody: setting
    # variables here would be too late, and programs started later would inherit them.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.HF_HUB_DISABLE_XET = True
    huggingface_hub.set_client_factory(_client)
    return huggingface_hub


def _client() -> httpx2.Client:
    """Return a client that goes the way that all downloads go."""
    from builder.fetch.routes import client  # late: see above

    return client(Policy(), os.environ)
