"""What `views.db` and `events.db` hold, read with plain SQL as an analyst would."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

Row = dict[str, Any]

VIEWS = {
    "tasks": ("task_id",),
    "dead_letter_queue": ("id",),
    "processed_messages": ("business_id", "lead_id", "message_id"),
    "metrics": ("name", "labels"),
    "breakers": ("name",),
    "leads": ("business_id", "lead_id"),
    "unfinished": ("business_id", "lead_id", "message_id"),
}

#: Columns that tell when something happened, which no two runs have in common.
TIMES = {
    "due_date", "created_at", "updated_at", "processed_at", "expires_at", "first_attempt_at", "last_attempt_at",
    "first_seen_at", "last_seen_at", "opened_at", "retry_at", "since",
}  # fmt: skip


def query(database: Path, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
    """Rows of a read-only query, by column name."""
    with closing(
        sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
    ) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql, parameters)]


def execute(database: Path, sql: str, parameters: Sequence[Any] = ()) -> int:
    """A change behind Leadline's back; how many rows it touched."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        return connection.execute(sql, parameters).rowcount


def view(data: Path, name: str) -> list[Row]:
    """A view's rows in the order of their key."""
    return query(data / "views.db", f"SELECT * FROM {name} ORDER BY {', '.join(VIEWS[name])}")


def views(data: Path) -> dict[str, list[Row]]:
    """Every view, row by row."""
    return {name: view(data, name) for name in VIEWS}


def timeless(data: Path) -> dict[str, list[Row]]:
    """Every view without what differs between two runs over the same messages."""
    return {
        name: [
            {column: value for column, value in row.items() if column not in TIMES}
            for row in rows
            if not str(row.get("name", "")).startswith("message_processing_seconds")
        ]
        for name, rows in views(data).items()
    }


def metric(data: Path, name: str, **labels: str) -> int:
    """A metric's value; 0 where it has none yet."""
    wanted = json.dumps(labels, sort_keys=True, separators=(",", ":"))
    sql = "SELECT value FROM metrics WHERE name = ? AND labels = ?"
    return sum(row["value"] for row in query(data / "views.db", sql, (name, wanted)))


def events(data: Path, name: str, stream: str = "%") -> list[Row]:
    """Events of one stored name, in the order of the store: stream, version, and the event's own fields."""
    sql = (
        "SELECT originator_id AS stream, originator_version AS version, state FROM stored_events"
        " WHERE topic = ? AND originator_id LIKE ? ORDER BY rowid"
    )
    found = query(data / "events.db", sql, (name, stream))
    return [
        {"stream": row["stream"], "version": row["version"], **json.loads(row["state"])["event"]}
        for row in found
    ]


def by_stream(rows: Sequence[Row], field: str) -> dict[str, list[Any]]:
    """One field's values of each stream, in order."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row["stream"]].append(row[field])
    return dict(found)


def count_events(data: Path) -> int:
    """How many events are in the store; 0 while there is none."""
    try:
        return int(
            query(data / "events.db", "SELECT COALESCE(MAX(rowid), 0) AS n FROM stored_events")[0]["n"]
        )
    except sqlite3.OperationalError:
        return 0
