"""How far results and replies are out, kept in `outbox.db` beside the events, apart from the views' position.

Apart, so that a rebuild of the views publishes nothing again. With the position stand the store's id and the id of
the event there, so that another or an older store is noticed [H18].
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from domain.errors import LeadlineError
from domain.events import Recorded
from domain.ports import EventLog

_BUSY_SECONDS = 30.0
_TABLE = """
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    store_id TEXT NOT NULL,
    life TEXT NOT NULL,
    position INTEGER NOT NULL,
    event_id TEXT,
    stopped TEXT
)
"""
_COLUMNS = "store_id, life, position, event_id, stopped"
_UPSERT = f"INSERT OR REPLACE INTO outbox (id, {_COLUMNS}) VALUES (1, ?, ?, ?, ?, ?)"  # noqa: S608  # our own names


class OutboxPosition(Struct, frozen=True):
    """Everything up to `position` is out."""

    store_id: str
    #: Names this run of positions: begun anew wherever positions come again (another store, an older one).
    life: str
    position: int
    #: Id of the event there, None before the first.
    event_id: str | None = None
    #: What it cannot get past, in one line; None while it goes on.
    stopped: str | None = None


class PositionFile:
    """The writer's side. One thread. Raises `LeadlineError` for a file that is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        path = self._path
        self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            # An older position is safe at any time (what is sent again is recognised), a broken file never is.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise LeadlineError(
                f"{path} cannot be used ({error}): put back a copy of it, or remove it,"
                " and results and replies begin at the end of what is recorded"
            ) from error
        self._file = _identity(path)

    def gone(self) -> bool:
        """Somebody has removed the file, or put another in its place: what was written is kept nowhere."""
        return _identity(self._path) != self._file

    def read(self) -> OutboxPosition | None:
        return _row(self._connection)

    def write(self, position: OutboxPosition) -> None:
        if self.gone():
            self.close()
            self._open()
        self._connection.execute(_UPSERT, msgspec.structs.astuple(position))

    def close(self) -> None:
        self._connection.close()


def read_position(path: Path) -> OutboxPosition | None:
    """The position as any process may read it; None where there is none, or none that can be read."""
    if not path.exists():
        return None
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as connection,
    ):
        return _row(connection)
    return None


def settle(path: Path, log: EventLog, say: Callable[[str], None]) -> OutboxPosition:
    """The position to go on from, made right for this store. Before the first message is taken.

    Where there is none, or one that belongs to another store or to events that are no more, it begins at the end:
    what was recorded before is not published, and not again. `say` gets a line where that leaves something out.
    """
    with closing(PositionFile(path)) as file:
        standing = file.read()
        why = None if standing is None else _doubt(standing, log)
        if standing is not None and why is None:
            return standing
        last = log.last_position()
        if last:
            why = why or "it was never kept for this store"
            say(
                f"results and replies begin after event {last}, the last one: {why};"
                " what was recorded before is not published, or not again"
            )
        begun = OutboxPosition(log.store_id(), secrets.token_hex(6), last, _event_id_at(log, last))
        file.write(begun)
        return begun


def forget(path: Path) -> None:
    """The outbox is switched off: when it is switched on again, it begins at the end."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def advanced(position: OutboxPosition, to: Recorded) -> OutboxPosition:
    """The position once everything up to an event is out."""
    return msgspec.structs.replace(position, position=to.position, event_id=to.event_id, stopped=None)


def _doubt(standing: OutboxPosition, log: EventLog) -> str | None:
    if standing.store_id != log.store_id():
        return "its position is another store's"
    last = log.last_position()
    if standing.position > last:
        return f"its position is event {standing.position}, and the store is older and ends at {last}"
    if standing.position and _event_id_at(log, standing.position) not in (standing.event_id, None):
        return f"event {standing.position} is another one in this store"
    return None


def _event_id_at(log: EventLog, position: int) -> str | None:
    """None for an event that cannot be read: what it hides, whoever reads it will say."""
    with suppress(msgspec.MsgspecError):
        return log.event_id_at(position)
    return None


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file stands there now; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _row(connection: sqlite3.Connection) -> OutboxPosition | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM outbox").fetchone()  # noqa: S608  # our own names
    return None if row is None else OutboxPosition(*row)
