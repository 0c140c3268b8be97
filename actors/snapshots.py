"""The table `snapshots` of the event store: one row a stream, written by the journal, read by who wakes.

Derived from the events, and nobody else's to query: it may be emptied at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from actors.protocol import Snapshot

_CREATE = (
    "CREATE TABLE IF NOT EXISTS snapshots"
    " (originator_id TEXT PRIMARY KEY, originator_version INTEGER, shape TEXT, state BLOB) WITHOUT ROWID"
)
_WRITE = (
    "INSERT INTO snapshots VALUES (?, ?, ?, ?) ON CONFLICT (originator_id) DO UPDATE SET"
    " originator_version = excluded.originator_version, shape = excluded.shape, state = excluded.state"
    " WHERE excluded.originator_version > originator_version OR excluded.shape <> shape"
)
_READ = (
    "SELECT state FROM snapshots WHERE originator_id = ? AND shape = ? AND originator_version <="
    " (SELECT MAX(originator_version) FROM stored_events WHERE originator_id = ?)"
)


class Database(Protocol):
    """What is needed of the event store's recorder."""

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None: ...

    def rows(self, statement: str, params: Sequence[Any]) -> list[tuple[Any, ...]]: ...


def create(database: Database) -> None:
    database.write(_CREATE, [()])


def write(database: Database, snapshots: Sequence[Snapshot]) -> None:
    """In one transaction; an older one of the same shape changes nothing."""
    database.write(_WRITE, [(s.stream, s.version, s.shape, s.state) for s in snapshots])


def read(database: Database, stream: str, shape: str) -> bytes | None:
    """The stream's snapshot; None if there is none of this shape, or one of events that are not there."""
    found = database.rows(_READ, (stream, shape, stream))
    return bytes(found[0][0]) if found else None
