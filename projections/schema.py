"""The views' tables: seven that everybody may query, and four that the projector keeps for itself.

Column names of the seven are a contract (docs/views.md). Times are RFC 3339 texts in UTC with six digits
of a second, JSON is text with sorted keys, numbers are integers: the same, and in the same order, in SQLite
and PostgreSQL, and equal to the last digit however often they are built [H22].
"""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import to_builtins
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

#: Raised with every change of a table or of what a fold makes of an event: other views are rebuilt.
VIEWS_VERSION = 4

#: An index with this mark is needed by the projector itself, and made before the first row.
LOOKUP = {"lookup": True}

metadata = MetaData()


def _key(name: str) -> Column[str]:
    return Column(name, Text, primary_key=True)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _maybe(name: str) -> Column[str]:
    return Column(name, Text, nullable=True)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


tasks = Table(
    "tasks",
    metadata,
    _key("task_id"),
    _key("lead_id"),
    _key("business_id"),
    _text("tenant_id"),
    _text("task_type"),
    _text("title"),
    _text("description"),
    _text("status"),
    _text("priority"),
    _text("assigned_to_type"),
    _text("assigned_to_id"),
    _text("due_date"),
    _text("metadata"),
    _text("created_at"),
    _text("updated_at"),
    _text("message_id"),
    # Also the index by lead, and the only one: ids are random, and an index of them alone is a page written for
    # each task. `queries.task_by_id` reads through this one.
    PrimaryKeyConstraint("business_id", "lead_id", "task_id"),
)

dead_letter_queue = Table(
    "dead_letter_queue",
    metadata,
    _key("id"),
    _maybe("message_id"),
    _maybe("lead_id"),
    _maybe("business_id"),
    _maybe("tenant_id"),
    _text("original_payload"),
    _text("error_message"),
    _maybe("error_stack"),
    _count("attempt_count"),
    _maybe("first_attempt_at"),
    _maybe("last_attempt_at"),
    _text("status"),
    _text("category"),
    _text("created_at"),
    _text("updated_at"),
    Index("dead_letters_by_message", "business_id", "lead_id", "message_id", info=LOOKUP),
    Index("dead_letters_by_status", "status", "category"),
)

processed_messages = Table(
    "processed_messages",
    metadata,
    _key("message_id"),
    _key("lead_id"),
    _key("business_id"),
    _text("processing_status"),
    _text("disposition"),
    _maybe("processed_at"),
    _text("expires_at"),
    _text("created_at"),
    # Also the index by lead: each index more costs the projector some microseconds an event.
    PrimaryKeyConstraint("business_id", "lead_id", "message_id"),
    sqlite_with_rowid=False,
)

metrics = Table(
    "metrics",
    metadata,
    _key("name"),
    _key("labels"),
    _count("value"),
    sqlite_with_rowid=False,
)

breakers = Table(
    "breakers",
    metadata,
    _key("name"),
    _text("state"),
    _count("failures"),
    _maybe("opened_at"),
    _maybe("retry_at"),
    _text("updated_at"),
    sqlite_with_rowid=False,
)

leads = Table(
    "leads",
    metadata,
    _key("lead_id"),
    _key("business_id"),
    _text("tenant_id"),
    _count("messages"),
    _text("last_intent"),
    Column("flagged", Boolean, nullable=False),
    _count("open_tasks"),
    _text("first_seen_at"),
    _text("last_seen_at"),
    PrimaryKeyConstraint("business_id", "lead_id"),
    sqlite_with_rowid=False,
)

unfinished = Table(
    "unfinished",
    metadata,
    _key("lead_id"),
    _key("business_id"),
    Column("partition", Integer, nullable=True),
    _key("message_id"),
    _text("since"),
    _text("waiting_for"),
    sqlite_with_rowid=False,
)

#: Flags of a lead that stand: two flagged messages and one unflagged leave the lead flagged.
lead_flags = Table(
    "lead_flags",
    metadata,
    _key("lead_id"),
    _key("business_id"),
    _count("flags"),
    sqlite_with_rowid=False,
)

#: The two tokens a dead letter's message was published under, canonical or not: commands go there [H13].
dead_letter_subjects = Table(
    "dead_letter_subjects",
    metadata,
    _key("id"),
    _text("business_token"),
    _text("lead_token"),
    sqlite_with_rowid=False,
)

#: One row: how far the views are, in which store [H18], and what stops them, if anything does.
views_meta = Table(
    "views_meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    _count("views_version"),
    _text("store_id"),
    _count("position"),
    _maybe("event_id"),
    _maybe("event_at"),
    _count("applied"),
    _maybe("stopped_error"),
    sqlite_with_rowid=False,
)

#: The views that a rebuild has to reproduce, row by row.
VIEWS = (tasks, dead_letter_queue, processed_messages, metrics, breakers, leads, unfinished)
INTERNAL = (lead_flags, dead_letter_subjects)


def key_columns(table: Table) -> tuple[str, ...]:
    """Names of a table's primary key, in the order of its columns: the order of every key in `Rows`."""
    return tuple(column.name for column in table.columns if column.primary_key)


def instant(at: datetime) -> str:
    """A time as the views keep it: `2026-11-02T08:00:47.333339Z`, sortable as text."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    text: str = to_builtins(at)  # twenty times as fast as isoformat, and the projector does little else
    return text if len(text) == 27 else f"{text[:19]}.000000Z"


def maybe_instant(at: datetime | None) -> str | None:
    return None if at is None else instant(at)


def no_nul(text: str) -> str:
    """Text that both databases take: PostgreSQL refuses NUL [H17]."""
    return text.replace("\0", "\ufffd") if "\0" in text else text
