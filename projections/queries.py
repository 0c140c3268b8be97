"""Stop 7 of 7: what people and programs ask of the views.

Read-only, in short transactions that open the file anew: a question never holds up the projector, and never
asks a file that was replaced. Rows come as plain dicts under the views' own column names, JSON columns parsed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Select, Table

from domain.errors import LeadlineError
from domain.events import STORED_NAMES
from domain.ports import EventLog
from projections import schema
from projections.database import file_of, is_damage, open_reader
from projections.store import ViewsPosition, read_standing

Row = dict[str, Any]

#: Keys in one question.
_AT_ONCE = 500
_JSON_COLUMNS = {"metadata", "labels"}


class Views:
    """The views of one database. Every method raises `LeadlineError` where there are none, saying what to do.

    Any thread; nothing is kept open between calls.
    """

    def __init__(self, views: str | Path) -> None:
        self._views = views
        self._engine = open_reader(views)

    def tasks(
        self,
        business: str | None = None,
        lead: str | None = None,
        *,
        status: str | None = None,
        task_type: str | None = None,
        assigned_to: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Tasks, oldest first. `assigned_to` is the id of a team, role or user."""
        table = schema.tasks
        filters = {
            "business_id": business,
            "lead_id": lead,
            "status": status,
            "task_type": task_type,
            "assigned_to_id": assigned_to,
        }
        return self._rows(table, filters, (table.c.created_at, table.c.task_id), limit)

    def dead_letters(
        self,
        business: str | None = None,
        lead: str | None = None,
        *,
        category: str | None = None,
        status: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Dead letters, oldest first."""
        table = schema.dead_letter_queue
        filters = {"business_id": business, "lead_id": lead, "category": category, "status": status}
        return self._rows(table, filters, (table.c.created_at, table.c.id), limit)

    def leads(
        self,
        business: str | None = None,
        lead: str | None = None,
        *,
        flagged: bool | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Leads, the one last seen first."""
        table = schema.leads
        filters = {"business_id": business, "lead_id": lead, "flagged": flagged}
        order = (table.c.last_seen_at.desc(), table.c.business_id, table.c.lead_id)
        return self._rows(table, filters, order, limit)

    def processed(
        self,
        business: str | None = None,
        lead: str | None = None,
        *,
        message: str | None = None,
        disposition: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Messages and how they ended, oldest first."""
        table = schema.processed_messages
        filters = {
            "business_id": business,
            "lead_id": lead,
            "message_id": message,
            "disposition": disposition,
        }
        return self._rows(table, filters, (table.c.created_at, table.c.message_id), limit)

    def metrics(self, name: str | None = None) -> list[Row]:
        """Metrics by name and labels. Histograms' sums are in millionths of their unit."""
        table = schema.metrics
        return self._rows(table, {"name": name}, (table.c.name, table.c.labels))

    def breakers(self) -> list[Row]:
        return self._rows(schema.breakers, {}, (schema.breakers.c.name,))

    def unfinished(self, business: str | None = None, lead: str | None = None) -> list[Row]:
        """Messages at work or waiting, the longest first."""
        table = schema.unfinished
        order = (table.c.since, table.c.business_id, table.c.lead_id, table.c.message_id)
        return self._rows(table, {"business_id": business, "lead_id": lead}, order)

    def task(self, task_id: str) -> Row | None:
        return next(iter(self._found(task_by_id(task_id))), None)

    def dead_letter(self, dead_letter_id: str) -> Row | None:
        return self._one(schema.dead_letter_queue, {"id": dead_letter_id})

    def dead_letters_named(self, ids: Sequence[str]) -> list[Row]:
        """Those of these dead letters that are known, in no order."""
        table = schema.dead_letter_queue
        found: list[Row] = []
        with self._reading() as connection:
            for start in range(0, len(ids), _AT_ONCE):
                some = sa.select(table).where(table.c.id.in_(ids[start : start + _AT_ONCE]))
                found += [dict(row) for row in connection.execute(some).mappings()]
        return found

    def subject_of_dead_letter(self, dead_letter_id: str) -> tuple[str, str] | None:
        """(business token, lead token) that commands about a dead letter are published to: those its message
        came under, canonical or not [H13]. None if it is not known."""
        row = self._one(schema.dead_letter_subjects, {"id": dead_letter_id})
        return None if row is None else (row["business_token"], row["lead_token"])

    def position(self) -> ViewsPosition:
        """How far the views are, in which store, and what stops them, if anything does."""
        with self._reading() as connection:
            standing = read_standing(connection)
        if standing is None:
            raise self._none()
        return standing

    def _one(self, table: Table, filters: dict[str, Any]) -> Row | None:
        return next(iter(self._rows(table, filters)), None)

    def _rows(
        self, table: Table, filters: dict[str, Any], order: tuple[Any, ...] = (), limit: int | None = None
    ) -> list[Row]:
        conditions = (table.c[name] == value for name, value in filters.items() if value is not None)
        return self._found(sa.select(table).where(*conditions).order_by(*order).limit(limit))

    def _found(self, query: Select[Any]) -> list[Row]:
        with self._reading() as connection:
            found = connection.execute(query).mappings().all()
        return [_parsed(dict(row)) for row in found]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """One short read transaction."""
        path = file_of(self._views)
        if path is not None and not path.exists():
            raise self._none()
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            if "no such table" in str(error.orig) or "does not exist" in str(error.orig):
                raise self._none() from None
            mend = "`leadline rebuild` makes them anew" if is_damage(error) else "try again"
            raise LeadlineError(
                f"the views in {self._where()} cannot be read: {error.orig}; {mend}"
            ) from error

    def _none(self) -> LeadlineError:
        return LeadlineError(
            f"there are no views in {self._where()} yet: start `leadline up` or `leadline run`,"
            " or make them with `leadline rebuild`"
        )

    def _where(self) -> str:
        path = file_of(self._views)
        return str(path) if path is not None else "the database"


def task_by_id(task_id: str) -> Select[Any]:
    """Reads through the key's index: a fifth of a second among a million tasks, for what only people ask.
    An index of ids alone would cost the projector a page for each task."""
    table = schema.tasks
    key = (table.c.business_id, table.c.lead_id, table.c.task_id)
    return sa.select(table).where(sa.tuple_(*key).in_(sa.select(*key).where(table.c.task_id == task_id)))


def history(log: EventLog, stream: str) -> list[Row]:
    """A stream's events as rows, in order: version, at, event (its class), name (as stored), cause, fields."""
    return [
        {
            "version": recorded.version,
            "at": schema.instant(recorded.at),
            "event": type(recorded.event).__name__,
            "name": STORED_NAMES.get(type(recorded.event)),
            "cause": recorded.cause,
            "correlation": recorded.correlation,
            "sequence": recorded.place.sequence if recorded.place is not None else None,
            "fields": msgspec.to_builtins(recorded.event),
        }
        for recorded in log.stream(stream)
    ]


def _parsed(row: Row) -> Row:
    for name in _JSON_COLUMNS & row.keys():
        row[name] = json.loads(row[name])
    return row
