"""Which servers run for this project: the state file, and proof that it still tells the truth.

A process id alone proves nothing, since ids are used again. Together with the moment the process
started and the boot it started in, it names one process for ever. A state that does not hold any
more is the same as none.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from builder import files, ports

ONLINE, OFFLINE = "online", "offline"
_SCHEMA = 1


def boot_id() -> str:
    """Name this boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def started(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The program's name, in parentheses, may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    zombie = fields[0] in {"Z", "X"}
    return None if zombie else int(fields[19])


@dataclass(frozen=True, slots=True)
class Terms:
    """How a server runs: the address and port it listens on, and whether it may ask upstream."""

    port: int
    listen: str = ports.LOOPBACK
    offline: bool = False

    @property
    def host(self) -> str:
        """The address at which this host reaches the server."""
        return _EVERYWHERE.get(self.listen, self.listen)

    @property
    def root(self) -> str:
        """The URL at which this host reaches the server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


# Who listens on all addresses listens on the loopback's as well.
_EVERYWHERE = {"0.0.0.0": ports.LOOPBACK, "::": "::1"}  # noqa: S104 - compared, not bound to


@dataclass(frozen=True, slots=True)
class State:
    """A server that was started: ``pid`` is its keeper's, the rest are its :class:`Terms`."""

    pid: int
    started: int
    boot: str
    port: int
    listen: str = ports.LOOPBACK
    offline: bool = False
    schema: int = _SCHEMA

    @classmethod
    def of_this_process(cls, terms: Terms) -> Self:
        """Describe this process as the keeper of a server that runs on ``terms``."""
        pid = os.getpid()
        return cls(
            pid=pid, started=started(pid) or 0, boot=boot_id(),
            port=terms.port, listen=terms.listen, offline=terms.offline,
        )  # fmt: skip

    @property
    def terms(self) -> Terms:
        """How the server runs."""
        return Terms(self.port, self.listen, self.offline)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the state in ``path`` if its process lives; unreadable or stale means None."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            state = cls(**document)
        except (OSError, ValueError, TypeError):
            return None
        return state if state.schema == _SCHEMA and state.alive() else None

    def write(self, path: Path) -> None:
        """Record this state."""
        files.write_json(path, asdict(self), durable=False)

    def alive(self) -> bool:
        """Say whether the process named here still runs."""
        return self.boot == boot_id() and started(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class Places:
    """Where a service keeps what: ``etc`` is tracked, all of ``var`` may be deleted."""

    name: str
    etc: Path
    var: Path
    folder: str | None = None

    @property
    def content(self) -> Path:
        """What the server downloaded, and its rendered configuration."""
        return self.var / (self.folder or self.name)

    @property
    def log(self) -> Path:
        """What the server and its keeper print."""
        return self.var / "logs" / f"cache-{self.name}.log"

    @property
    def state(self) -> Path:
        """The :class:`State` of the running server."""
        return self._run("json")

    @property
    def users(self) -> Path:
        """Locked, shared, by every run that uses the server."""
        return self._run("users")

    @property
    def lock(self) -> Path:
        """Locked by whoever is starting the server."""
        return self._run("lock")

    @property
    def stay(self) -> Path:
        """Exists while the server shall stay though nobody uses it."""
        return self._run("stay")

    def _run(self, suffix: str) -> Path:
        return self.var / "run" / f"{self.name}.{suffix}"
