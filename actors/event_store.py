"""What is recorded, read: a lead's events and snapshot, positions, and the whole log in commit order.

The readers' side of stop 4; nothing is written here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import DecodeError, Struct

from actors import snapshots
from actors.journal import STORE_ID, EventRecorder, open_recorder
from domain import codec
from domain.errors import UnknownEventError
from domain.events import STORED_NAMES, Event, Recorded
from domain.skips import SKIPS_STREAM, Missing, Skips

#: Rows that are read at once, backwards: most readers want the last few.
PART = 100
#: Above any.
NO_VERSION = 2**63 - 1

_ROWS = "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events"
#: One look into the index for each.
_WITHOUT_EVENTS = (
    "SELECT value FROM json_each(?)"
    " WHERE NOT EXISTS (SELECT 1 FROM stored_events WHERE originator_id = value)"
)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class RawEvent(Struct, frozen=True):
    """A row as it is stored, whatever its bytes are."""

    position: int
    stream: str
    version: int
    name: str
    #: Bytes, in a sound store.
    state: Any


class EventStore:
    """Reads the store: a lead's events, positions, and the whole log in commit order (`ports.EventLog`).

    Any thread; each call is one short read transaction.
    """

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder
        self._skips = Skips()

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
        """Events after a position, but for those that a person has skipped. Raises `UnknownEventError` where the
        first of them cannot be read."""
        skips = self.skips()
        decoders = codec.decoders_of(kinds if isinstance(kinds, Mapping) else {})
        while True:
            rows = self._rows(after, limit, kinds)
            events = codec.decode_rows(_unskipped(rows, skips), decoders)
            if events or not rows:
                return events
            after = rows[-1][0]  # all of them are skipped

    def _rows(
        self, after: int, limit: int, kinds: Collection[type[Event]] | None
    ) -> Sequence[tuple[Any, ...]]:
        if kinds is None:
            return self._recorder.rows(f"{_ROWS} WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, limit))
        topics, end = [STORED_NAMES[kind] for kind in kinds], after + limit
        these = f"topic IN ({','.join('?' * len(topics))})"
        last = "rowid = (SELECT max(rowid) FROM stored_events WHERE rowid <= ?)"
        where = f"WHERE rowid > ? AND rowid <= ? AND ({these} OR {last})"
        return self._recorder.rows(f"{_ROWS} {where} ORDER BY rowid", (after, end, *topics, end))

    def event_id_at(self, position: int) -> str | None:
        rows = self._recorder.rows("SELECT state FROM stored_events WHERE rowid = ?", (position,))
        try:
            return codec.event_id_of(rows[0][0]) if rows else None
        except (DecodeError, UnicodeDecodeError):
            return "unreadable"

    def stream(self, stream: str, *, after: int = 0, limit: int = -1) -> Sequence[Recorded]:
        """One stream's events after a version; `Missing` for one that cannot be read and is skipped. Raises
        `UnknownEventError` for one that cannot be read."""
        rows = self._recorder.rows(
            "SELECT rowid, originator_version, topic, state FROM stored_events"
            " WHERE originator_id = ? AND originator_version > ? ORDER BY originator_version LIMIT ?",
            (stream, after, limit),
        )
        try:
            return [
                codec.decode(topic, state, stream, version, position)
                for position, version, topic, state in rows
            ]
        except UnknownEventError:
            return self._with_missing(stream, rows)

    def without_events(self, streams: Collection[str]) -> set[str]:
        """Those of the streams that nothing is recorded of."""
        rows = self._recorder.rows(_WITHOUT_EVENTS, (msgspec.json.encode(list(streams)).decode(),))
        return {stream for (stream,) in rows}

    def skips(self) -> Skips:
        """The events that people have skipped, as of now. A decision that cannot be read is none."""
        rows = self._recorder.rows(
            "SELECT rowid, originator_version, topic, state FROM stored_events"
            " WHERE originator_id = ? AND originator_version > ? ORDER BY originator_version",
            (SKIPS_STREAM, self._skips.version),
        )
        for position, version, topic, state in rows:
            try:
                self._skips.learn(codec.decode(topic, state, SKIPS_STREAM, version, position))
            except UnknownEventError:
                continue
        return self._skips

    def raw(self, after: int, limit: int) -> list[RawEvent]:
        """Rows after a position as they are stored, readable or not."""
        rows = self._recorder.rows(f"{_ROWS} WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, limit))
        return [RawEvent(*row) for row in rows]

    def raw_stream(self, stream: str) -> list[RawEvent]:
        """A stream's rows as they are stored."""
        rows = self._recorder.rows(f"{_ROWS} WHERE originator_id = ? ORDER BY originator_version", (stream,))
        return [RawEvent(*row) for row in rows]

    def _with_missing(self, stream: str, rows: Sequence[tuple[Any, ...]]) -> list[Recorded]:
        skips = self.skips()
        events: list[Recorded] = []
        for position, version, topic, state in rows:
            try:
                events.append(codec.decode(topic, state, stream, version, position))
            except UnknownEventError:
                if not skips.cover(position, stream, topic, state):
                    raise
                at = events[-1].at if events else _NEVER
                events.append(Recorded(stream, version, Missing(), "", at, position=position))
        return events

    def backwards(self, stream: str, before: int | None = None) -> Iterator[Recorded]:
        below = NO_VERSION if before is None else before
        while below > 1:
            rows = self._recorder.rows(
                "SELECT rowid, originator_version, topic, state FROM stored_events"
                " WHERE originator_id = ? AND originator_version < ? ORDER BY originator_version DESC LIMIT ?",
                (stream, below, PART),
            )
            for position, version, topic, state in rows:
                try:
                    yield codec.decode(topic, state, stream, version, position)
                except UnknownEventError:
                    if not self.skips().cover(position, stream, topic, state):
                        raise
            below = rows[-1][1] if len(rows) == PART else 0

    def answer_in(self, stream: str, command_id: str) -> Recorded | None:
        """The event with which a stream answers a command; None where there is none that can be read."""
        told = msgspec.json.encode({"command_id": command_id})[1:-1]
        rows = self._recorder.rows(
            "SELECT rowid, originator_version, topic, state FROM stored_events"
            " WHERE originator_id = ? AND instr(state, ?) ORDER BY originator_version",
            (stream, told),
        )
        for position, version, topic, state in rows:
            try:
                recorded = codec.decode(topic, state, stream, version, position)
            except UnknownEventError:
                continue
            if getattr(recorded.event, "command_id", None) == command_id:
                return recorded
        return None

    def snapshot(self, stream: str, shape: str) -> bytes | None:
        """A stream's state as it was kept in this shape, None if it was not."""
        return snapshots.read(self._recorder, stream, shape)

    def close(self) -> None:
        self._recorder.datastore.close()


def _unskipped(rows: Sequence[tuple[Any, ...]], skips: Skips) -> Sequence[tuple[Any, ...]]:
    if not skips:
        return rows
    return [row for row in rows if not skips.cover(row[0], row[1], row[3], row[4])]
