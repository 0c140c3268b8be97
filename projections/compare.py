"""Two views databases, row by row: what a rebuild says against what stands there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct
from sqlalchemy import Table

from projections import schema

#: In `Difference.column`, where a whole row stands on one side only.
WHOLE_ROW = "*"

_Keyed = tuple[tuple[Any, ...], tuple[Any, ...]]


class Difference(Struct, frozen=True):
    """One value that differs; `key` by column name. Of a missing row one side says `missing`."""

    table: str
    key: dict[str, str]
    column: str
    live: object
    rebuilt: object


def compare(live: Path, rebuilt: Path) -> tuple[int, list[Difference]]:
    """(rows compared, differences) of two files that nobody writes to. Both are read once, in the keys' order."""
    rows = 0
    differences: list[Difference] = []
    with closing(_open(live)) as left, closing(_open(rebuilt)) as right:
        for table in (*schema.VIEWS, *schema.INTERNAL):
            for ours, theirs in _merged(_read(left, table), _read(right, table)):
                rows += 1
                differences += _differences(table, ours, theirs)
    return rows, differences


class _NoText(bytes):
    """A text that is none: its bytes are not UTF-8."""


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.text_factory = _text
    return connection


def _text(encoded: bytes) -> str | _NoText:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return _NoText(encoded)


def _read(connection: sqlite3.Connection, table: Table) -> Iterator[_Keyed]:
    keys = schema.key_columns(table)
    columns = [*keys, *(column.name for column in table.columns if column.name not in keys)]
    listed = ", ".join(f'"{column}"' for column in columns)
    order = ", ".join(f'"{key}"' for key in keys)
    query = f'SELECT {listed} FROM "{table.name}" ORDER BY {order}'  # noqa: S608  # names of our own schema
    for row in connection.execute(query):
        yield row[: len(keys)], row[len(keys) :]


def _merged(
    ours: Iterator[_Keyed], theirs: Iterator[_Keyed]
) -> Iterator[tuple[_Keyed | None, _Keyed | None]]:
    """Rows of two sides with the same key together."""
    one, other = next(ours, None), next(theirs, None)
    while one is not None or other is not None:
        if other is None or (one is not None and _place(one[0]) < _place(other[0])):
            yield one, None
            one = next(ours, None)
        elif one is None or _place(other[0]) < _place(one[0]):
            yield None, other
            other = next(theirs, None)
        else:
            yield one, other
            one, other = next(ours, None), next(theirs, None)


def _place(key: tuple[Any, ...]) -> list[tuple[int, Any]]:
    """Where a key stands in SQLite's order: numbers, texts by their bytes, bytes. None is ever NULL."""
    return [_rank(value) for value in key]


def _rank(value: Any) -> tuple[int, Any]:
    if isinstance(value, bytes):
        return (2 if isinstance(value, _NoText) else 3), bytes(value)
    return (2, value.encode()) if isinstance(value, str) else (1, value)


def _shown(value: Any) -> Any:
    return repr(bytes(value)) if isinstance(value, bytes) else value


def _differences(table: Table, live: _Keyed | None, rebuilt: _Keyed | None) -> list[Difference]:
    view, names = (
        str(table.name),
        [str(name) for name in schema.key_columns(table)],
    )  # not SQLAlchemy's own str
    either = live or rebuilt
    assert either is not None  # a merged pair has one side at least
    key = dict(zip(names, map(_shown, either[0]), strict=True))
    if live is None or rebuilt is None:
        there = ["missing" if side is None else "present" for side in (live, rebuilt)]
        return [Difference(view, key, WHOLE_ROW, *there)]
    others = [str(column.name) for column in table.columns if column.name not in names]
    return [
        Difference(view, key, column, _shown(ours), _shown(theirs))
        for column, ours, theirs in zip(others, live[1], rebuilt[1], strict=True)
        if ours != theirs
    ]
