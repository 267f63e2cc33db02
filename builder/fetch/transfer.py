"""One attempt at a file: ask for what is missing, write it down, check the whole.

What a server does with a request for the rest of a file is its own affair: it may send the rest,
all of it, another version, or nothing. Each answer is read for what it is, and the digest of the
whole file has the last word.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from builder.errors import HostError
from builder.fetch import urls
from builder.fetch.partial import Partial, Version
from builder.fetch.transient import PermanentError, Policy, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    import httpx2

    # Sends a GET with headers; yields an answer whose status is good, or one of those named here.
    Ask = Callable[
        [str, Mapping[str, str], frozenset[int]], AbstractContextManager[httpx2.Response]
    ]

OK, PART, NOT_MODIFIED, NO_SUCH_RANGE = 200, 206, 304, 416

_SPACE_STEP: Final = 8 << 20  # bytes between two looks at the free space
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_WRONG: Final = "if the new file is meant, change the checksum where it is pinned"


class FullError(HostError):
    """The disk has no room for what is downloaded. What has arrived is kept."""


@dataclass(slots=True)
class Order:
    """One file that is wanted, and what is known of it."""

    target: Path
    sha256: str | None
    size: int | None
    headers: Mapping[str, str]
    progress: Callable[[int], None] | None
    received: int = 0
    wrong: tuple[str, ...] = ()  # digests or sizes that were not those wanted


class Transfer:
    """The attempts at one file, whose lock is held."""

    def __init__(
        self,
        order: Order,
        partial: Partial,
        *,
        policy: Policy,
        ask: Ask,
        free: Callable[[Path], int],
    ) -> None:
        self._order = order
        self._partial = partial
        self._policy = policy
        self._ask = ask
        self._free = free
        self._high = partial.size
        self.done = ("", 0)  # digest and size of the file that is at the target now

    def progressed(self) -> bool:
        """Whether more is there than ever before, by a step; said once for each."""
        if self._partial.size < self._high + self._policy.progress:
            return False
        self._high = self._partial.size
        return True

    def attempt(self, url: str) -> Version | None:
        """Put the whole file at its target; return its version, or None for a 304."""
        partial = self._partial
        if partial.size and self._order.sha256 == partial.sha256:
            version: Version | None = partial.version  # it was whole when a run was killed
        else:
            version = self._received(url)
        if version is not None:
            self.done = (partial.sha256, partial.size)
            partial.become(self._order.target)
        return version

    def _received(self, url: str) -> Version | None:
        """Receive what is missing and check the whole; None when the server says 304."""
        partial, order = self._partial, self._order
        if not self._continues(url):
            partial.restart()
        begun = partial.size
        asked = {**order.headers, **_range(url, partial)}
        if order.wrong:
            asked["Cache-Control"] = "no-cache"  # the wrong bytes may be a proxy's
        with self._ask(url, asked, frozenset({PART, NO_SUCH_RANGE})) as response:
            if response.status_code == NOT_MODIFIED:
                return None
            version = Version.of(url, response.headers, total_of(response))
            if begun and response.status_code == OK:
                partial.restart()  # no ranges there, or another version by now
                begun = 0
            if fits := _fits(response, version, partial):
                self._write(url, response, version)
        if not fits:
            if not begun:
                raise TransientError(f"{self._of(url)}: the server gives a part, not the whole")
            partial.restart()
            return self._received(url)
        self._check(url, continued=begun > 0)
        return version

    def _continues(self, url: str) -> bool:
        size = self._order.size
        if size is not None and self._partial.size >= size:
            return False  # it is all there and was not right
        return self._order.sha256 is not None or self._partial.version.continues(url)

    def _write(self, url: str, response: httpx2.Response, version: Version) -> None:
        partial, wanted = self._partial, self._order.size
        if None not in (wanted, version.total) and wanted != version.total:
            raise self._wrong(f"{self._of(url)} has {version.total} bytes", str(version.total))
        total = wanted if version.total is None else version.total
        self._require_room(total)
        partial.belongs_to(version)
        pace, looked = Pace(self._policy, self._of(url)), partial.size
        # With a size of blocks, what came before a cut and fills no block would be lost.
        for block in response.iter_raw():
            self._add(block, total)
            pace.moved(len(block))
            if partial.size - looked >= _SPACE_STEP:
                looked = partial.size
                self._require_room(total)
        if version.total not in {None, partial.size}:
            # Some servers give only so much of a file at a time.
            said = f"{partial.size} of {version.total} bytes came"
            raise TransientError(f"{self._of(url)}: {said}", outage=False)

    def _add(self, block: bytes, total: int | None) -> None:
        order, partial = self._order, self._partial
        try:
            partial.write(block)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _full(order.target, _rest(total, partial) or len(block)) from error
        order.received += len(block)
        if order.progress:
            order.progress(partial.size)

    def _check(self, url: str, *, continued: bool) -> None:
        order, found, size = self._order, self._partial.sha256, self._partial.size
        if order.sha256 in {None, found} and order.size in {None, size}:
            return
        self._partial.restart()
        if continued:
            # The parts may be of two versions; that is nobody's fault.
            message = f"{self._of(url)}: the parts do not fit together"
            raise TransientError(message, outage=False)
        if order.sha256 in {None, found}:
            raise self._wrong(f"{self._of(url)} has {size} bytes", str(size))
        raise self._wrong(f"{self._of(url)} has SHA-256 {found}", found)

    def _wrong(self, message: str, seen: str) -> TransientError | PermanentError:
        """Return the error for bytes that are not those wanted.

        A mirror that is just being updated gives others a little later, so that passes at first;
        the same ones twice, or as many kinds as the policy allows, do not.
        """
        order = self._order
        wanted = order.size if seen.isdigit() and seen != order.sha256 else order.sha256
        message += f"\n       wanted {wanted}"
        stays = seen in order.wrong or len(order.wrong) + 1 >= self._policy.mismatches
        order.wrong += (seen,)
        if stays:
            return PermanentError(message, hint=_WRONG)
        return TransientError(message, hint=_WRONG, outage=False)

    def _require_room(self, total: int | None) -> None:
        target, reserve = self._order.target, self._policy.reserve
        missing = _rest(total, self._partial) + reserve - self._free(target.parent)
        if missing > 0:
            raise _full(target, missing, reserve=reserve)

    def _of(self, url: str) -> str:
        return f"{self._order.target.name} from {urls.place(url)}"


# --- what an answer says --------------------------------------------------------------------------


def _range(url: str, partial: Partial) -> dict[str, str]:
    if not partial.size:
        return {}
    asked = {"Range": f"bytes={partial.size}-"}
    if partial.version.continues(url) and partial.version.validator:
        asked["If-Range"] = partial.version.validator
    return asked


def _rest(total: int | None, partial: Partial) -> int:
    return 0 if total is None else max(0, total - partial.size)


def _fits(response: httpx2.Response, version: Version, partial: Partial) -> bool:
    """Whether what a server is about to give goes on where the partial file ends."""
    if response.status_code == OK:
        return True
    if response.status_code == NO_SUCH_RANGE or _start(response) != partial.size:
        return False
    known = partial.version
    # Not every server heeds If-Range.
    other = known.source == version.source and None not in (known.etag, version.etag)
    if other and known.etag != version.etag:
        return False
    return known.total is None or known.total == version.total


def total_of(response: httpx2.Response) -> int | None:
    """Return how many bytes the whole file has, if the server says so."""
    headers = response.headers
    text = headers.get("content-length", "")
    if response.status_code in {PART, NO_SUCH_RANGE}:
        text = headers.get("content-range", "").rpartition("/")[2]
    return int(text) if text.strip().isdigit() else None


def _start(response: httpx2.Response) -> int | None:
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    first = rest.partition("-")[0].strip()
    return int(first) if unit == "bytes" and first.isdigit() else None


def refuse_downgrade(response: httpx2.Response) -> None:
    """Raise when a redirect led from https to http, where anybody may answer."""
    secure = any(step.url.scheme == "https" for step in response.history)
    if secure and response.url.scheme != "https":
        raise PermanentError(f"{urls.redacted(str(response.history[0].url))} leads to plain http")


class Pace:
    """Gives up on a server that only drips: no timeout ends what never quite stands still."""

    def __init__(self, policy: Policy, what: str) -> None:
        self._policy = policy
        self._what = what
        self._since = time.monotonic()
        self._bytes = 0

    def moved(self, count: int) -> None:
        """Note bytes that came; raise when too few did for too long."""
        self._bytes += count
        passed = time.monotonic() - self._since
        if passed < self._policy.slow_seconds:
            return
        if self._bytes < self._policy.slow_bytes * passed:
            said = f"only {self._bytes} bytes came in {passed:.0f} s"
            raise TransientError(f"{self._what}: {said}")
        self._since, self._bytes = time.monotonic(), 0


# --- what is said --------------------------------------------------------------------------------


def _full(target: Path, missing: int, *, reserve: int = 0) -> FullError:
    kept = f" ({_size(reserve)} of it is left free)" if reserve else ""
    return FullError(
        f"no room for {target.name} in {target.parent}: {_size(missing)} more is needed{kept}",
        hint="vaultbuild cache prune --dry-run says what can go; what has arrived is kept",
    )


def _size(count: int) -> str:
    number = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:  # noqa: PLR2004 - the step between the units
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def name_of(url: str) -> str:
    """Return what a URL's file is called in messages."""
    return unquote(PurePosixPath(urlsplit(url).path).name) or urls.place(url)
