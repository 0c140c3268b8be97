"""Where the fold meets the database: loads what a batch needs, writes what it changed, and the position.

Everything of one batch is one transaction, which begins by reading the position: a writer whose idea of it
is stale (the views were rebuilt beneath it) writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Connection, Engine

from domain.errors import LeadlineError
from domain.events import Recorded
from domain.ports import EventLog
from projections import schema
from projections.database import Statements
from projections.fold import Fold
from projections.rows import Rows
from projections.schema import LOOKUP, VIEWS_VERSION, instant


class ViewsMovedError(LeadlineError):
    """Somebody else has written the views: what this writer knows of them is stale."""


class ViewsPosition(Struct, frozen=True):
    """How far a views database is: the row of `views_meta`."""

    views_version: int
    store_id: str
    position: int = 0
    #: Id and time of the event at the position [H18].
    event_id: str | None = None
    event_at: str | None = None
    applied: int = 0
    #: Why the views do not go on, in one line; None while they do.
    stopped_error: str | None = None


class ViewsStore:
    """The writer's side of a views database. One thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._statements = {table.name: Statements(table, engine) for table in schema.metadata.sorted_tables}
        #: Built once: SQLAlchemy takes longer to make a statement than SQLite to answer this one.
        self._read_standing = str(sa.select(schema.views_meta).compile(engine))

    def create(self, store_id: str, *, indexes: bool = True) -> ViewsPosition:
        """Make the tables of a database that has none, and stand before the first event."""
        standing = ViewsPosition(VIEWS_VERSION, store_id)
        with self.engine.begin() as connection:
            for table in schema.metadata.sorted_tables:
                connection.execute(sa.schema.CreateTable(table))
                for index in table.indexes:
                    if indexes or index.info == LOOKUP:
                        connection.execute(sa.schema.CreateIndex(index))
            self._write_standing(connection, standing)
        return standing

    def create_indexes(self) -> None:
        """The indexes that `create` left out: cheaper after the rows than with each of them."""
        with self.engine.begin() as connection:
            for table in schema.metadata.sorted_tables:
                for index in table.indexes:
                    connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))

    def clear(self, store_id: str) -> ViewsPosition:
        """Drop every table and begin anew, where a database cannot be built beside (PostgreSQL, for now)."""
        with self.engine.begin() as connection:
            schema.metadata.drop_all(connection)
        return self.create(store_id)

    def standing(self) -> ViewsPosition | None:
        """How far the views are; None for a database that holds none. Raises what SQLAlchemy raises."""
        with self.engine.begin() as connection:
            if not sa.inspect(connection).has_table(schema.views_meta.name):
                return None
            return read_standing(connection)

    def apply(self, fold: Fold, batch: Sequence[Recorded], expected: ViewsPosition) -> ViewsPosition:
        """Fold a batch and write it with its position. Raises `ViewsMovedError`, or what the batch makes
        fold or database raise: nothing is written then, and the fold has forgotten."""
        last = batch[-1]
        after = msgspec.structs.replace(
            expected,
            position=last.position,
            event_id=last.event_id,
            event_at=instant(last.at),
            applied=expected.applied + len(batch),
            stopped_error=None,
        )
        try:
            with self.engine.begin() as connection:
                self._expect(connection, expected)
                fold.collect(batch)
                self._load(connection, fold.first_tables)
                fold.collect_more()
                self._load(connection, fold.other_tables)
                fold.apply()
                for rows in fold.tables:
                    self._write(connection, rows)
                self._write_standing(connection, after)
        except BaseException:
            fold.forget()
            raise
        fold.done()
        return after

    def say_stopped(self, standing: ViewsPosition, why: str) -> ViewsPosition:
        """Keep with the views what stops them, where other processes can read it."""
        stopped = msgspec.structs.replace(standing, stopped_error=why)
        with self.engine.begin() as connection:
            self._expect(connection, standing)
            self._write_standing(connection, stopped)
        return stopped

    def close(self) -> None:
        self.engine.dispose()

    def _expect(self, connection: Connection, expected: ViewsPosition) -> None:
        row = connection.exec_driver_sql(self._read_standing).fetchone()
        found = None if row is None else ViewsPosition(*row[1:])
        if found is None or (found.position, found.event_id, found.store_id, found.views_version) != (
            expected.position,
            expected.event_id,
            expected.store_id,
            expected.views_version,
        ):
            raise ViewsMovedError("somebody else has written the views")

    def _load(self, connection: Connection, tables: Sequence[Rows[Any]]) -> None:
        for rows in tables:
            statements = self._statements[rows.table.name]
            if rows.whole:
                if not rows.loaded:
                    rows.loads(_keyed(rows, statements.all(connection)))
                    rows.loaded = True
                continue
            for columns, values in rows.wanted_by.items():
                rows.loads(_keyed(rows, statements.find(connection, values, columns)))
            if wanted := rows.wanted:
                rows.loads(_keyed(rows, statements.find(connection, wanted)))

    def _write(self, connection: Connection, rows: Rows[Any]) -> None:
        statements = self._statements[rows.table.name]
        if rows.removed:
            statements.delete(connection, rows.removed)
        if rows.changed:
            statements.upsert(connection, map(msgspec.structs.astuple, rows.changed.values()))

    def _write_standing(self, connection: Connection, standing: ViewsPosition) -> None:
        row = (1, *msgspec.structs.astuple(standing))
        self._statements[schema.views_meta.name].upsert(connection, [row])


def read_standing(connection: Connection) -> ViewsPosition | None:
    """The row of `views_meta`, None if there is none."""
    row = connection.execute(sa.select(schema.views_meta)).fetchone()
    return None if row is None else ViewsPosition(*row[1:])


def doubt(standing: ViewsPosition, log: EventLog) -> str | None:
    """Why views that stand here cannot belong to this store, in words [H18]; None if they do."""
    if standing.views_version != VIEWS_VERSION:
        return f"they are of version {standing.views_version}, this program makes version {VIEWS_VERSION}"
    if standing.store_id != log.store_id():
        return "they were made from another event store"
    last = log.last_position()
    if standing.position > last:
        return f"they stand at event {standing.position}, and the store ends at {last}"
    if standing.position and log.event_id_at(standing.position) != standing.event_id:
        return f"event {standing.position} is another one in the store than in the views"
    return None


def event_time(standing: ViewsPosition) -> datetime | None:
    """When the last event in the views was recorded."""
    return None if standing.event_at is None else datetime.fromisoformat(standing.event_at)


def _keyed(rows: Rows[Any], found: Any) -> list[tuple[Any, Any]]:
    keys = schema.key_columns(rows.table)
    names = [column.name for column in rows.table.columns]
    places = [names.index(key) for key in keys]
    if len(places) == 1:
        only = places[0]
        return [(row[only], rows.row(*row)) for row in found]
    return [(tuple(row[place] for place in places), rows.row(*row)) for row in found]


def apply_up_to_trouble(
    store: ViewsStore, fold: Fold, batch: Sequence[Recorded], standing: ViewsPosition
) -> tuple[ViewsPosition, str | None]:
    """Apply a batch; where one event of it cannot be applied, all before it, and say which and why.

    Raises what says nothing about an event: a busy, full or damaged database, `ViewsMovedError`.
    """
    try:
        return store.apply(fold, batch, standing), None
    except (sa.exc.OperationalError, ViewsMovedError):
        raise
    except Exception as error:  # whatever one event makes fold or driver raise stops the views at that event
        if type(error) is sa.exc.DatabaseError:
            raise
        if len(batch) == 1:
            return standing, _cannot_apply(batch[0], error)
    half = len(batch) // 2
    standing, trouble = apply_up_to_trouble(store, fold, batch[:half], standing)
    if trouble is not None:
        return standing, trouble
    return apply_up_to_trouble(store, fold, batch[half:], standing)


def _cannot_apply(recorded: Recorded, error: Exception) -> str:
    why = " ".join(str(getattr(error, "orig", error)).split())[:300]
    return (
        f"event {recorded.position} ({type(recorded.event).__name__}, version {recorded.version} of"
        f" {recorded.stream}) cannot be applied: {type(error).__name__}: {why}"
    )
