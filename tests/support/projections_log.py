"""An event log in memory, and a store to restore, corrupt and mend: what the projector reads in tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from domain.codec import decode, encode
from domain.errors import UnknownEventError
from domain.events import STORED_NAMES, Event, Recorded


class MemoryLog:
    """`domain.ports.EventLog` over a list; events go through the codec, as in a real store."""

    def __init__(self, recorded: Iterable[Recorded] = (), *, store_id: str = "store-1") -> None:
        self.id = store_id
        self.rows: list[tuple[str, bytes, str, int]] = []
        #: Positions whose bytes are flipped.
        self.corrupt: set[int] = set()
        self.closed = False
        self.append(*recorded)

    def append(self, *recorded: Recorded) -> None:
        for one in recorded:
            name, state = encode(one)
            self.rows.append((name, state, one.stream, one.version))

    def store_id(self) -> str:
        return self.id

    def last_position(self) -> int:
        return len(self.rows)

    def read(
        self, after: int, limit: int, kinds: Collection[type[Event]] | None = None
    ) -> Sequence[Recorded]:
        found: list[Recorded] = []
        last = min(after + limit, len(self.rows))
        topics = None if kinds is None else {STORED_NAMES[kind] for kind in kinds}
        for position in range(after + 1, last + 1):
            if topics is not None and position < last and self.rows[position - 1][0] not in topics:
                continue
            try:
                found.append(self._at(position))
            except UnknownEventError:
                if found:
                    return found
                raise
        return found

    def event_id_at(self, position: int) -> str | None:
        if not 1 <= position <= len(self.rows):
            return None
        document: dict[str, object] = msgspec.json.decode(self.rows[position - 1][1])
        return str(document["id"])

    def stream(self, stream: str) -> Iterable[Recorded]:
        positions = (n for n, row in enumerate(self.rows, start=1) if row[2] == stream)
        return [self._at(position) for position in positions]

    def backwards(self, stream: str, before: int | None = None) -> Iterable[Recorded]:
        for position in range(len(self.rows), 0, -1):
            _, _, of, version = self.rows[position - 1]
            if of == stream and (before is None or version < before):
                yield self._at(position)

    def close(self) -> None:
        self.closed = True

    def _at(self, position: int) -> Recorded:
        name, state, stream, version = self.rows[position - 1]
        if position in self.corrupt:
            state = state[:-5]
        return decode(name, state, stream, version, position)
