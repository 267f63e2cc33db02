"""Get a file or a small document from a server, however badly that server behaves.

::

    fetcher = Fetcher(breakers=Breakers(folder), told=say)
    got = fetcher.file(url, target, sha256=wanted, mirrors=others)

What arrives is written beside the target and renamed when it is whole and right, so at the target
stands the file or nothing. What a run leaves unfinished the next one continues. What passes by
itself is tried again (:mod:`builder.fetch.transient`), a server that is down is left alone
(:mod:`builder.fetch.breaker`), and the next mirror is asked; all of it is told.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from builder.digest import digest_file
from builder.errors import VaultbuildError
from builder.fetch import urls
from builder.fetch.partial import locked
from builder.fetch.transfer import (
    NOT_MODIFIED,
    OK,
    PART,
    FullError,
    Order,
    Pace,
    Transfer,
    name_of,
    refuse_downgrade,
    total_of,
)
from builder.fetch.transient import (
    Budget,
    PermanentError,
    Policy,
    TransientError,
    ignore,
    never,
    of_status,
    of_transport,
    retrying,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import httpx2

    from builder.fetch.breaker import Breakers

__all__ = ["Answer", "Fetcher", "FullError", "Got", "PermanentError", "Policy", "TransientError"]

_DOCUMENT: Final = 64 << 20

_POLICY: Final = Policy()

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Got:
    """A file that is there now.

    ``received`` bytes came over the network for it: none when it was there, fewer than ``bytes``
    when a download was continued, more when one had to begin again.
    """

    path: Path
    sha256: str
    bytes: int
    received: int
    seconds: float
    etag: str | None = None
    modified: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: 200, or 304. The names of ``headers`` are in small letters.

    ``url`` is where it was found in the end, and may hold secrets.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]
    url: str


class Fetcher:
    """Fetches for one run of the program; any number of threads may use it at once.

    ``free`` says how many bytes a folder's disk has left.
    """

    def __init__(
        self,
        *,
        breakers: Breakers,
        policy: Policy = _POLICY,
        told: Callable[[str], None] = ignore,
        environment: Mapping[str, str] | None = None,
        free: Callable[[Path], int] | None = None,
    ) -> None:
        self._breakers = breakers
        self._policy = policy
        self._told = told
        self._environment = os.environ if environment is None else environment
        self._free = free or _free
        self._budget = Budget(policy.budget)
        self._lock = threading.Lock()
        self._made: httpx2.Client | None = None

    def file(
        self,
        url: str,
        target: Path,
        *,
        sha256: str | None = None,
        size: int | None = None,
        headers: Mapping[str, str] = {},
        mirrors: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> Got:
        """Have the file of a URL at ``target``; ``mirrors`` are other URLs of the same file.

        With a digest, a target that has it is not fetched; without one it always is, but for a
        server that answers 304 to a condition in ``headers``. ``progress`` hears how many bytes of
        the file are there. Raises :class:`PermanentError`, :class:`TransientError` when it was
        tried often enough, and :class:`FullError`.
        """
        began = time.monotonic()
        order = Order(target, sha256.lower() if sha256 else None, size, headers, progress)
        if found := self._present(order, began):
            return found

        def waiting() -> None:
            self._told(f"{target.name} is fetched by another process: waiting for it")

        with locked(target, waiting=waiting) as (partial, waited):
            # Whoever held the lock before us may just have finished.
            if found := self._present(order, began, fresh=waited and partial.size == 0):
                return found
            transfer = Transfer(order, partial, policy=self._policy, ask=self._get, free=self._free)
            return self._from_one_of(
                [url, *mirrors],
                name=target.name,
                work=lambda at: self._whole(at, transfer, order, began),
                progressed=transfer.progressed,
            )

    def read(
        self,
        url: str,
        *,
        limit: int = _DOCUMENT,
        headers: Mapping[str, str] = {},
        mirrors: Sequence[str] = (),
    ) -> Answer:
        """Return a small document, or the 304 that answers a condition in ``headers``."""

        def work(at: str) -> Answer:
            with self._get(at, headers) as response:
                body = b"".join(self._limited(response, limit, at))
                return _answer(response, body)

        return self._from_one_of([url, *mirrors], name=name_of(url), work=work)

    def head(self, url: str, *, headers: Mapping[str, str] = {}) -> Answer:
        """Return what a server says of a file without the file."""
        return self._from_one_of(
            [url], name=name_of(url), work=lambda at: self._head(at, dict(headers))
        )

    def status(self, url: str) -> int:
        """Return the status that a server answers with, whatever it is; no redirect is followed."""
        return self._from_one_of([url], name=name_of(url), work=self._status)

    def close(self) -> None:
        """Close the connections. Not needed: they are closed with the last use of this object."""
        with self._lock:
            if self._made:
                self._made.close()
            self._made = None

    # --- who is asked -----------------------------------------------------------------------------

    def _from_one_of(
        self,
        sources: Sequence[str],
        *,
        name: str,
        work: Callable[[str], _T],
        progressed: Callable[[], bool] = never,
    ) -> _T:
        """Return what the first source gives that works; each is tried as its failures deserve."""
        failed: list[VaultbuildError] = []
        for at, source in enumerate(sources):
            following = sources[at + 1] if at + 1 < len(sources) else None
            try:
                return self._from(source, name, work, progressed, last=following is None)
            except (TransientError, PermanentError) as error:
                failed.append(error)
                if following:
                    self._told(f"{error.message}: going on with {urls.place(following)}")
        raise _of_all(failed)

    def _from(
        self,
        source: str,
        name: str,
        work: Callable[[str], _T],
        progressed: Callable[[], bool],
        *,
        last: bool,
    ) -> _T:
        _require_url(source)
        breaker = self._breakers.of(source)
        what = f"{name} from {urls.place(source)}"
        attempts = retrying(
            self._policy,
            what=what,
            told=self._told,
            budget=self._budget,
            progressed=progressed,
            patient=last,  # whoever has another mirror does not wait for this one
        )
        for number, attempt in enumerate(attempts, 1):
            with attempt, _counted(number), breaker.calling(), _http_errors(what):
                done = work(source)
                self._budget.succeeded()
                return done
        raise AssertionError("the last attempt returns or raises")

    # --- one file ---------------------------------------------------------------------------------

    def _present(self, order: Order, began: float, *, fresh: bool = False) -> Got | None:
        """Return the target when it need not be fetched: it is right, or ``fresh`` from another."""
        target = order.target
        if not (order.sha256 or fresh) or not target.is_file():
            return None
        found = digest_file(target)
        if order.sha256 not in {None, found}:
            return None
        size = target.stat().st_size
        return Got(target, found, size, order.received, time.monotonic() - began)

    def _whole(self, url: str, transfer: Transfer, order: Order, began: float) -> Got:
        version = transfer.attempt(url)
        if version is None:  # 304: what is there is what the server has
            found = self._present(order, began, fresh=True)
            if not found:
                raise PermanentError(f"{urls.redacted(url)} was not modified, but is not here")
            return found
        seconds, received = time.monotonic() - began, order.received
        etag, modified = version.etag, version.modified
        sha256, size = transfer.done
        return Got(order.target, sha256, size, received, seconds, etag, modified)

    # --- one request ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _get(
        self, url: str, headers: Mapping[str, str], also: frozenset[int] = frozenset()
    ) -> Iterator[httpx2.Response]:
        with self._asked("GET", url, headers, also) as response:
            yield response

    @contextlib.contextmanager
    def _asked(
        self, method: str, url: str, headers: Mapping[str, str], also: frozenset[int] = frozenset()
    ) -> Iterator[httpx2.Response]:
        """Yield a server's answer while it is being received; an error status is raised."""
        with self._client().stream(method, url, headers=dict(headers)) as response:
            if response.status_code not in {OK, NOT_MODIFIED} | also:
                what = f"{name_of(url)} from {urls.place(url)}"
                raise of_status(response.status_code, response.headers, what=what)
            refuse_downgrade(response)
            yield response

    def _status(self, url: str) -> int:
        with self._client().stream("HEAD", url, follow_redirects=False) as response:
            return response.status_code

    def _head(self, url: str, headers: dict[str, str]) -> Answer:
        try:
            with self._asked("HEAD", url, headers) as response:
                return _answer(response, b"")
        except PermanentError:
            # Servers that sign their URLs sign them for GET alone.
            one_byte = {**headers, "Range": "bytes=0-0"}
            with self._get(url, one_byte, frozenset({PART})) as response:
                answer = _answer(response, b"")
                total = total_of(response)
        known = {} if total is None else {"content-length": str(total)}
        named = {name: text for name, text in answer.headers.items() if name != "content-range"}
        return Answer(OK, b"", {**named, **known}, answer.url)

    def _limited(self, response: httpx2.Response, limit: int, url: str) -> Iterator[bytes]:
        pace, size = Pace(self._policy, name_of(url)), 0
        if (total_of(response) or 0) > limit:
            raise _too_large(url, limit)
        for block in response.iter_bytes():
            size += len(block)
            if size > limit:
                raise _too_large(url, limit)
            pace.moved(len(block))
            yield block

    def _client(self) -> httpx2.Client:
        with self._lock:
            if self._made is None:
                # Late: 170 ms, for those who download.
                from builder.fetch import routes

                self._made = routes.client(self._policy, self._environment)
                weakref.finalize(self, self._made.close)
            return self._made


# --- what is said ---------------------------------------------------------------------------------


def _answer(response: httpx2.Response, body: bytes) -> Answer:
    return Answer(response.status_code, body, dict(response.headers.items()), str(response.url))


@contextlib.contextmanager
def _http_errors(what: str) -> Iterator[None]:
    """Say whose error it is, and whether it passes, in our words."""
    try:
        yield
    except VaultbuildError:
        raise
    except Exception as error:
        if found := of_transport(error, what=what):
            raise found from error
        raise


@contextlib.contextmanager
def _counted(number: int) -> Iterator[None]:
    """Say in an error how often it was tried; all but the last one are only told."""
    try:
        yield
    except TransientError as error:
        if number > 1:
            error.message += f" (tried {number} times)"
            error.args = (error.message,)
        raise


def _require_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        good = False  # a bracket too few, or a port of six digits
    if not good:
        raise PermanentError(f"{urls.redacted(url)} is no URL of http or https")


def _of_all(failed: Sequence[VaultbuildError]) -> VaultbuildError:
    """Return one error for those of all mirrors; one that may pass makes the whole pass."""
    if len(failed) == 1:
        return failed[0]
    kind = TransientError if any(isinstance(e, TransientError) for e in failed) else PermanentError
    lines = "\n".join(f"       {error.message}" for error in failed)
    hints = dict.fromkeys(error.hint for error in failed if error.hint)
    return kind(f"none of {len(failed)} places has it\n{lines}", hint="\n".join(hints) or None)


def _too_large(url: str, limit: int) -> PermanentError:
    return PermanentError(f"{urls.redacted(url)} is larger than {limit} bytes")


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
