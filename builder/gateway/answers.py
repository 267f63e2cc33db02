"""An answer that is passed on: read to its end, and from a second one where the first breaks off.

pip gives up on a download that breaks, and apt counts it. Here the same thing is asked for again,
what was sent already is compared and skipped, and the guest hears nothing of it. The last block
leaves only when the whole is known to be right.
"""

from __future__ import annotations

import hashlib
import http.client
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_BLOCK = 1 << 18
_AGAIN = 2
_GOOD = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body is still to be read, and the connection that it comes over."""

    link: http.client.HTTPConnection
    answer: http.client.HTTPResponse

    @property
    def status(self) -> int:
        """The status (RFC 9110, 15)."""
        return self.answer.status

    @property
    def length(self) -> str | None:
        """The bytes of the body as they were announced."""
        return self.answer.getheader("Content-Length")

    def close(self) -> None:
        """Let both go."""
        self.answer.close()
        self.link.close()


def ask(
    link: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Iterator[bytes] | None = None,
) -> Reply:
    """Send a request and return the answer; raise OSError or HTTPException when there is none."""
    try:
        link.request(method, target, body=body, headers=headers)
        return Reply(link, link.getresponse())
    except BaseException:
        link.close()
        raise


class BrokenError(Exception):
    """A body ended too soon, or is not what it must be, each time it was asked for."""


class Body:
    """The bytes of a reply; ``sha256`` and ``count`` are of the whole when it was read.

    ``again`` asks for the same thing once more. ``denies`` says of a digest that it is wrong.
    """

    def __init__(
        self,
        reply: Reply,
        again: Callable[[], Reply | None] | None,
        denies: Callable[[str], bool],
    ) -> None:
        self.sha256, self.count = "", 0
        self._reply, self._again, self._denies = reply, again, denies
        self._length = reply.length
        self._sent = hashlib.sha256()

    def blocks(self) -> Iterator[bytes]:
        """Yield the body; raise :class:`BrokenError` instead of its end when it cannot be had."""
        for left in reversed(range(_AGAIN + 1)):
            held = b""
            try:
                digest = self._skipped()
                while block := self._reply.answer.read(_BLOCK):
                    if held:
                        yield self._leaving(held)
                    digest.update(block)
                    held = block
                whole = self._reply.answer.length in {None, 0}
            except (OSError, http.client.HTTPException):
                whole = False
            if whole and not self._denies(digest.hexdigest()):
                self.sha256 = digest.hexdigest()
                yield self._leaving(held)
                return
            if not left or not self._renewed():
                break
        raise BrokenError

    def close(self) -> None:
        """Let the connection go."""
        self._reply.close()

    def _leaving(self, block: bytes) -> bytes:
        self._sent.update(block)
        self.count += len(block)
        return block

    def _skipped(self) -> hashlib._Hash:
        """Read what was sent before; raise OSError when it is another thing by now."""
        digest, left = hashlib.sha256(), self.count
        while left:
            block = self._reply.answer.read(min(_BLOCK, left))
            if not block:
                raise OSError("shorter than it was")
            digest.update(block)
            left -= len(block)
        if digest.digest() != self._sent.digest():
            raise OSError("not what it was")
        return digest

    def _renewed(self) -> bool:
        """Ask again; whether what comes can be the same thing."""
        if self._again is None or self._reply.status != _GOOD:
            return False
        self._reply.close()
        reply = self._again()
        if reply is None:
            return False
        self._reply = reply
        return reply.status == _GOOD and reply.length == self._length
