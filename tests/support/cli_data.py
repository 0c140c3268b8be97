"""A data folder as a runner leaves it: events in their store, the views built from them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from actors.event_store import EventStore
from actors.journal import open_recorder
from domain.codec import encode
from domain.events import Recorded
from projections.rebuild import rebuild


def write_data(folder: Path, recorded: Iterable[Recorded]) -> Path:
    """The folder, with `events.db` and `views.db` of these events."""
    recorder = open_recorder(folder / "events.db")
    recorder.insert_rows([(r.stream, r.version, *encode(r)) for r in recorded])
    recorder.datastore.close()
    build_views(folder)
    return folder


def build_views(folder: Path) -> None:
    with closing(EventStore.open(folder / "events.db")) as log:
        rebuild(log, folder / "views.db")


def spoil_table(database: Path, table: str) -> None:
    """Random bytes in the place of a table's first page; the rest of the database stays readable."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
        [(size,)] = connection.execute("PRAGMA page_size")
    with database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)
