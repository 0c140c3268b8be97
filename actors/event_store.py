"""What is recorded, read: a lead's events and snapshot, positions, and the whole log in commit order.

The readers' side of stop 4; nothing is written here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from actors import snapshots
from actors.journal import STORE_ID, EventRecorder, open_recorder
from domain import codec
from domain.events import STORED_NAMES, Event, Recorded

#: Rows that are read at once, backwards: most readers want the last few.
PART = 100
#: Above any.
NO_VERSION = 2**63 - 1


class EventStore:
    """Reads the store: a lead's events, positions, and the whole log in commit order (`ports.EventLog`).

    Any thread; each call is one short read transaction.
    """

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder

    @classmethod
    def open(cls, path: Path) -> EventStore:
        """A reader beside the writer. Raises OSError where there is no store."""
        if not path.exists():
            raise FileNotFoundError(f"{path}: no event store there yet; `leadline up` or `run` makes one")
        return cls(open_recorder(path, read_only=True))

    def store_id(self) -> str:
        return str(self._recorder.max_tracking_id(STORE_ID))

    def read_position(self, name: str) -> int | None:
        """A checkpointed position, None if there is none."""
        return self._recorder.max_tracking_id(name)

    def last_position(self) -> int:
        return self._recorder.max_notification_id() or 0

    def read(
        self, after: int, limit: int, kinds: Collection[type[Event]] | None = None
    ) -> Sequence[Recorded]:
        columns = "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events"
        if kinds is None:
            rows = self._recorder.rows(f"{columns} WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, limit))
            return _readable(rows)
        topics, end = [STORED_NAMES[kind] for kind in kinds], after + limit
        these = f"topic IN ({','.join('?' * len(topics))})"
        last = "rowid = (SELECT max(rowid) FROM stored_events WHERE rowid <= ?)"
        where = f"WHERE rowid > ? AND rowid <= ? AND ({these} OR {last})"
        rows = self._recorder.rows(f"{columns} {where} ORDER BY rowid", (after, end, *topics, end))
        return _readable(rows)

    def event_id_at(self, position: int) -> str | None:
        rows = self._recorder.rows("SELECT state FROM stored_events WHERE rowid = ?", (position,))
        return codec.event_id_of(rows[0][0]) if rows else None

    def stream(self, stream: str, *, after: int = 0, limit: int = -1) -> Sequence[Recorded]:
        """One stream's events after a version. Raises `UnknownEventError` for one that cannot be read."""
        rows = self._recorder.rows(
            "SELECT rowid, originator_version, topic, state FROM stored_events"
            " WHERE originator_id = ? AND originator_version > ? ORDER BY originator_version LIMIT ?",
            (stream, after, limit),
        )
        return [
            codec.decode(topic, state, stream, version, position) for position, version, topic, state in rows
        ]

    def backwards(self, stream: str, before: int | None = None) -> Iterator[Recorded]:
        below = NO_VERSION if before is None else before
        while below > 1:
            rows = self._recorder.rows(
                "SELECT rowid, originator_version, topic, state FROM stored_events"
                " WHERE originator_id = ? AND originator_version < ? ORDER BY originator_version DESC LIMIT ?",
                (stream, below, PART),
            )
            for position, version, topic, state in rows:
                yield codec.decode(topic, state, stream, version, position)
            below = rows[-1][1] if len(rows) == PART else 0

    def snapshot(self, stream: str, shape: str) -> bytes | None:
        """A stream's state as it was kept in this shape, None if it was not."""
        return snapshots.read(self._recorder, stream, shape)

    def close(self) -> None:
        self._recorder.datastore.close()


def _readable(rows: Iterable[tuple[Any, ...]]) -> list[Recorded]:
    """The rows up to the first that cannot be read; raises only where that is the very first."""
    events: list[Recorded] = []
    for position, stream, version, topic, state in rows:
        try:
            events.append(codec.decode(topic, state, stream, version, position))
        except Exception:
            if not events:
                raise
            break
    return events
