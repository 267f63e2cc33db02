"""How long the parts of earlier runs took: the memory that estimates are made of.

One row per finished part of a run, in ``cache/var/history.sqlite``. A part is a role
(``role:<name>``), the making of the root disk (``source``), a stage's checks (``checks``), or what
a stage takes besides its roles (``stage``). Only what ended well is kept.

Losing this file costs nothing but estimates, so nothing here stops a build: a folder that cannot
be written, a full disk and a lock that does not come mean that nothing is remembered; a file that
is damaged, or somebody else's, is put aside and begun anew; one of a later version is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from builder import files

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

SOURCE: Final = "source"
CHECKS: Final = "checks"
STAGE: Final = "stage"

SCHEMA: Final = 1
_APPLICATION: Final = 0x76627568  # "vbuh": tells our file from another program's
_BUSY_SECONDS: Final = 5
_AGAIN_SECONDS: Final = 0.05
_RECENT: Final = 5
_KEPT: Final = 50
_NEW: Final = f"""
    CREATE TABLE parts (
        id INTEGER PRIMARY KEY,
        variant TEXT NOT NULL, stage TEXT NOT NULL, engine TEXT NOT NULL, part TEXT NOT NULL,
        seconds REAL NOT NULL, finished TEXT NOT NULL, key TEXT NOT NULL, status TEXT NOT NULL
    );
    CREATE INDEX parts_by_name ON parts (stage, part, id);
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {SCHEMA};
"""
_COLUMNS: Final = "variant, stage, engine, part, seconds, finished, key, status"
_INSERT: Final = f"INSERT INTO parts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, 'done')"  # noqa: S608
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run that takes its time. The root disk's stage is ``source``."""

    variant: str
    stage: str
    engine: str
    part: str


@dataclass(frozen=True, slots=True)
class Done:
    """A part that ended well; ``finished`` is a UTC time in ISO 8601."""

    part: Part
    seconds: float
    finished: str
    key: str


@dataclass(frozen=True, slots=True)
class Usual:
    """What a part took before; ``runs`` counts those of just this variant and engine."""

    seconds: float
    runs: int


def role_part(role: str) -> str:
    """Return the name of the part that a role is."""
    return f"role:{role}"


def usual(part: Part, runs: Sequence[tuple[str, str, float]]) -> Usual | None:
    """Return what ``part`` usually takes; None when nothing is known.

    ``runs`` are (variant, engine, seconds) of its stage and name, the newest first. What another
    variant took on this engine says more than what another engine took.
    """
    import statistics  # late: an unchanged plan asks nobody

    own = [took for variant, engine, took in runs if (variant, engine) == _home(part)][:_RECENT]
    engines = [took for _, engine, took in runs if engine == part.engine]
    chosen = own or engines or [took for _, _, took in runs]
    return Usual(statistics.median(chosen[:_RECENT]), len(own)) if chosen else None


def _home(part: Part) -> tuple[str, str]:
    return part.variant, part.engine


class _ForeignError(Exception):
    """The file is a database, but not this one."""


class _LaterError(Exception):
    """A later version of this program wrote the file."""


class History:
    """The parts of earlier runs, in a file that need not be there."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def expected(self, parts: Iterable[Part]) -> dict[Part, float]:
        """Return the seconds that parts are expected to take; unknown ones are left out."""
        return {part: known.seconds for part, known in self.usual(parts).items()}

    def usual(self, parts: Iterable[Part]) -> dict[Part, Usual]:
        """Return what parts took before; unknown ones are left out. Changes nothing."""
        if not self._file.exists():
            return {}
        import sqlite3  # late: a plan with nothing to do does not look here

        try:
            with self._open_to_read() as database:
                found = {part: usual(part, _runs(database, part)) for part in dict.fromkeys(parts)}
        except (sqlite3.Error, OSError, _ForeignError, _LaterError) as error:
            _log.debug("no estimates: %s: %s", self._file, error)
            return {}
        return {part: known for part, known in found.items() if known}

    def add(self, done: Sequence[Done]) -> str | None:
        """Remember parts. Return a line to tell when an unreadable file was put aside for it."""
        import sqlite3  # late: as above

        try:
            try:
                self._add_patiently(done)
            except (sqlite3.DatabaseError, _ForeignError) as error:
                if not _is_wrong(error):
                    raise
                told = self._put_aside(str(error))
                self._add(done)
                return told
        except (sqlite3.Error, OSError, _ForeignError, _LaterError) as error:
            _log.debug("not remembered: %s: %s", self._file, error)
        return None

    def _add_patiently(self, done: Sequence[Done]) -> None:
        """Add, again where another run was just beginning the file: nobody waits for that lock."""
        import sqlite3  # late: as above

        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return self._add(done)
            except sqlite3.OperationalError as error:
                # Python's own errors of this kind have no code.
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
            time.sleep(_AGAIN_SECONDS)

    def _add(self, done: Sequence[Done]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with _connection(str(self._file)) as database:
            _prepare(database)
            with database:
                for each in done:
                    database.execute(_INSERT, _row(each))
                    _forget(database, each.part)

    @contextlib.contextmanager
    def _open_to_read(self) -> Iterator[sqlite3.Connection]:
        import sqlite3  # late: as above

        with contextlib.ExitStack() as stack:
            address = self._file.absolute().as_uri()
            # Read as a file that nobody writes: else a reader makes a journal, and leaves it there.
            how = "mode=ro" if self._is_written() else "immutable=1"
            database = stack.enter_context(_connection(f"{address}?{how}", uri=True))
            try:
                _require_ours(database)
            except sqlite3.OperationalError:
                # In a folder that cannot be written, a lost journal cannot be read by.
                database = stack.enter_context(_connection(f"{address}?immutable=1", uri=True))
                _require_ours(database)
            yield database

    def _is_written(self) -> bool:
        """Tell whether some run writes now, or was killed while it did."""
        return self._file.with_name(f"{self._file.name}-wal").exists()

    def _put_aside(self, reason: str) -> str | None:
        """Move the file away, with its journal; None when another run did so meanwhile."""
        place = self._file.with_name(f"{self._file.name}.{_stamp()}.aside")
        with files.lock(self._file.with_name(f".{self._file.name}.lock")):
            if not self._is_damaged():
                return None
            self._file.rename(place)
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    self._file.with_name(self._file.name + suffix).rename(f"{place}{suffix}")
        return f"the history of run times began anew ({reason}); the old file is {place.name}"

    def _is_damaged(self) -> bool:
        import sqlite3  # late: as above

        try:
            with _connection(str(self._file)) as database:
                _prepare(database)
                database.execute(f"SELECT {_COLUMNS} FROM parts").fetchone()  # noqa: S608
                sound = database.execute("PRAGMA quick_check(1)").fetchone()
        except (sqlite3.DatabaseError, _ForeignError) as error:
            return _is_wrong(error)
        return bool(sound != ("ok",))


@contextlib.contextmanager
def _connection(name: str, *, uri: bool = False) -> Iterator[sqlite3.Connection]:
    import sqlite3  # late: as above

    with contextlib.closing(sqlite3.connect(name, timeout=_BUSY_SECONDS, uri=uri)) as database:
        yield database


def _prepare(database: sqlite3.Connection) -> None:
    """Make an empty file ours; raise when it is not ours."""
    if _is_empty(database):
        database.execute("PRAGMA journal_mode = WAL")
        # Two runs may both find it empty: the second waits for the first and looks again.
        database.execute("BEGIN IMMEDIATE")
        if _is_empty(database):
            for statement in filter(str.strip, _NEW.split(";")):
                database.execute(statement)
        database.commit()
    _require_ours(database)


def _is_empty(database: sqlite3.Connection) -> bool:
    (count,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return count == 0 and _identity(database) == (0, 0)


def _require_ours(database: sqlite3.Connection) -> None:
    application, version = _identity(database)
    if application != _APPLICATION or version < SCHEMA:
        raise _ForeignError("it is not a history of vaultbuild")
    if version > SCHEMA:
        raise _LaterError(f"it has schema {version}, this program knows {SCHEMA}")


def _identity(database: sqlite3.Connection) -> tuple[int, int]:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return application, version


def _is_wrong(error: Exception) -> bool:
    """Tell a damaged or foreign file from one that cannot be had just now."""
    import sqlite3  # late: as above

    # Locks, a full disk and missing rights are operational; so is a table of another shape.
    shape = any(word in str(error) for word in ("no such", "column"))
    return shape or not isinstance(error, sqlite3.OperationalError)


def _runs(database: sqlite3.Connection, part: Part) -> list[tuple[str, str, float]]:
    asked = (
        "SELECT variant, engine, seconds FROM parts"
        " WHERE stage = ? AND part = ? AND status = 'done' ORDER BY id DESC"
    )
    return database.execute(asked, (part.stage, part.part)).fetchall()


def _row(done: Done) -> tuple[object, ...]:
    part = done.part
    seconds = round(done.seconds, 2)
    return part.variant, part.stage, part.engine, part.part, seconds, done.finished, done.key


def _forget(database: sqlite3.Connection, part: Part) -> None:
    """Keep the newest rows of a part: the file stays small for years."""
    named = "variant = :variant AND stage = :stage AND engine = :engine AND part = :part"
    newest = f"SELECT id FROM parts WHERE {named} ORDER BY id DESC LIMIT {_KEPT}"  # noqa: S608
    values: Mapping[str, str] = {
        "variant": part.variant, "stage": part.stage, "engine": part.engine, "part": part.part,
    }  # fmt: skip
    database.execute(f"DELETE FROM parts WHERE {named} AND id NOT IN ({newest})", values)  # noqa: S608


def _stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime())
