"""The views' database: how it is opened, and the few statements that everything else is made of.

Statements are built once with SQLAlchemy Core, for SQLite and PostgreSQL alike, and run by the driver with rows
as tuples: an executemany of an upsert, a delete or a look-up of many keys at once, never one a row [H28].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Table, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Compiled
from sqlalchemy.pool import NullPool

from projections.schema import key_columns

#: How many keys one look-up holds; what is left over is padded to the smaller size.
LOOKUP_SIZES = (500, 25)

BUSY_MS = 30_000

#: The log grows to 32 MiB before it is copied: a page that many batches touch is copied once.
_LIVE = ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-65536", "wal_autocheckpoint=8000")
#: Beside the live one, and worthless until it is swapped in: nothing of it has to survive a crash. A batch
#: that fails half-way must still be undone, hence a journal.
_SCRATCH = ("journal_mode=MEMORY", "synchronous=OFF", "cache_size=-262144", "locking_mode=EXCLUSIVE")


#: The words for views that somebody has altered, and for a text with a byte that is none: the first are SQLite's, the
#: last is the driver's.
_ALTERED = ("no such table", "no such column", "has no column", "Could not decode to UTF-8")


def is_damage(error: sa.exc.DBAPIError) -> bool:
    """Whether only a rebuild mends it. What is altered comes with the class of a locked database."""
    if not isinstance(error, sa.exc.OperationalError):
        return True
    return any(words in str(error.orig) for words in _ALTERED)


def file_of(views: str | Path) -> Path | None:
    """The file of a views database given as a path or a SQLAlchemy URL; None where it has none."""
    if isinstance(views, Path) or "://" not in views:
        return Path(views)
    url = sa.make_url(views)
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database)


def open_writer(views: str | Path, *, scratch: bool = False) -> Engine:
    """An engine for the one writer: a transaction takes the write lock at its beginning."""
    path = file_of(views)
    if path is None:
        return sa.create_engine(str(views))
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path.absolute())),
        connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1000},
    )
    _prepare(engine, _SCRATCH if scratch else _LIVE, begin="BEGIN IMMEDIATE")
    return engine


def open_reader(views: str | Path) -> Engine:
    """An engine that cannot write. Each transaction opens the file anew, so that it is never a replaced one."""
    path = file_of(views)
    if path is None:
        return sa.create_engine(str(views), poolclass=NullPool)
    uri = path.absolute().as_uri()
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=uri, query={"mode": "ro", "uri": "true"}),
        poolclass=NullPool,
        connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1000},
    )
    _prepare(engine, ("query_only=ON",), begin="BEGIN")
    return engine


def _prepare(engine: Engine, pragmas: Sequence[str], *, begin: str) -> None:
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, and by nobody else
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)


class Statements:
    """The statements of one table, compiled for one dialect."""

    def __init__(self, table: Table, engine: Engine) -> None:
        self._table = table
        self._engine = engine
        self._keys = key_columns(table)
        self._upsert = self._compiled(_upsert(table, engine.dialect.name))
        self._delete = self._compiled(
            sa.delete(table).where(*(table.c[key] == sa.bindparam(f"k_{key}") for key in self._keys))
        )
        self._lookups: dict[tuple[tuple[str, ...], int], Compiled] = {}

    def upsert(self, connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows, given as tuples in the order of the table's columns, over what stands there."""
        self._many(connection, self._upsert, [column.name for column in self._table.columns], rows)

    def delete(self, connection: Connection, keys: Iterable[Any]) -> None:
        names = [f"k_{key}" for key in self._keys]
        self._many(connection, self._delete, names, map(_as_tuple, keys))

    def all(self, connection: Connection) -> Sequence[Any]:
        return connection.execute(sa.select(self._table)).fetchall()

    def find(
        self, connection: Connection, keys: Iterable[Any], columns: tuple[str, ...] | None = None
    ) -> Iterator[Any]:
        """Rows whose `columns` (by default the primary key) have one of the given values."""
        names = columns or self._keys
        remaining = list(map(_as_tuple, keys))
        start = 0
        while start < len(remaining):
            left = len(remaining) - start
            size = next((size for size in LOOKUP_SIZES if left >= size), LOOKUP_SIZES[-1])
            chunk = remaining[start : start + size]
            start += size
            chunk += [chunk[-1]] * (size - len(chunk))  # a repeated key finds the same row again
            yield from self._lookup(connection, names, chunk)

    def _lookup(
        self, connection: Connection, names: tuple[str, ...], chunk: list[tuple[Any, ...]]
    ) -> Sequence[Any]:
        compiled = self._lookups.get((names, len(chunk)))
        if compiled is None:
            compiled = self._compiled(_lookup(self._table, names, len(chunk)))
            self._lookups[names, len(chunk)] = compiled
        flat = [value for key in chunk for value in key]
        if compiled.positiontup is not None:  # type: ignore[attr-defined]
            parameters: Any = tuple(flat)
        else:
            parameters = dict(zip(compiled.params, flat, strict=True))
        return connection.exec_driver_sql(str(compiled), parameters).fetchall()

    def _many(
        self, connection: Connection, compiled: Compiled, names: list[str], rows: Iterable[tuple[Any, ...]]
    ) -> None:
        if compiled.positiontup is not None:  # type: ignore[attr-defined]
            parameters: Any = list(rows)
        else:
            parameters = [dict(zip(names, row, strict=True)) for row in rows]
        if parameters:
            connection.exec_driver_sql(str(compiled), parameters)

    def _compiled(self, statement: Any) -> Compiled:
        compiled: Compiled = statement.compile(dialect=self._engine.dialect)
        return compiled


def _upsert(table: Table, dialect: str) -> Any:
    """Rows are written whole. SQLite's REPLACE takes an eighth less than its ON CONFLICT, and is the same where
    no trigger or foreign key looks on."""
    if dialect == "sqlite":
        return sa.insert(table).prefix_with("OR REPLACE")
    statement = postgresql.insert(table)
    keys = key_columns(table)
    others = {
        column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys
    }
    return statement.on_conflict_do_update(index_elements=list(keys), set_=others)


def _lookup(table: Table, columns: tuple[str, ...], size: int) -> Any:
    """A join with the wanted keys: SQLite answers it by index, where `(a, b) IN (…)` would scan."""
    wanted = (
        sa.values(*(sa.column(name, table.c[name].type) for name in columns), name="wanted")
        .data([columns] * size)
        .cte("wanted")
    )
    same = sa.and_(*(table.c[name] == wanted.c[name] for name in columns))
    return sa.select(table).select_from(wanted.join(table, same))


def _as_tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)
