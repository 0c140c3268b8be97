"""An inlet and a journal that remember, for tests of the intake alone."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable

from actors.positions import Positions
from actors.protocol import Append, Committed, Conflict, Mail, Rejection
from domain import codec
from domain.events import Place, Recorded


class FakeInlet:
    """Keeps what it was given, in order. With `records`, each entry is recorded at once."""

    def __init__(self, positions: Positions, *, records: bool = True) -> None:
        self._positions = positions
        self.records = records
        self.mail: list[Mail] = []
        self.rejections: list[Rejection] = []
        self.places: list[Place] = []

    def deliver(self, mail: Mail) -> None:
        self.mail.append(mail)
        self._take(mail.place)

    def reject(self, rejection: Rejection) -> None:
        self.rejections.append(rejection)
        self._take(rejection.place)

    def _take(self, place: Place) -> None:
        self.places.append(place)
        if self.records:
            self._positions.recorded([place])

    def record_all(self) -> None:
        """What a journal would do some time later."""
        self._positions.recorded(list(self.places))


class FakeJournal:
    """Streams and positions in memory, with the real one's version check and "only if higher"."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.streams: dict[str, list[Recorded]] = defaultdict(list)
        self.positions: dict[str, int] = {}

    def append(self, append: Append) -> None:
        with self._lock:
            events = self.streams[append.stream]
            mine = [codec.event_id_of(state) for _, state in append.rows]
            if len(events) == append.version:
                for name, state in append.rows:
                    events.append(codec.decode(name, state, append.stream, len(events) + 1))
            there = [r.event_id for r in events[append.version : append.version + len(mine)]]
        if there == mine:
            append.reply(Committed(append.stream, append.version + len(mine), append.append_id))
        else:
            append.reply(Conflict(append.stream, append.append_id))

    def checkpoint(self, positions: dict[str, int], done: Callable[[], None] | None = None) -> None:
        with self._lock:
            for name, position in positions.items():
                if position > self.positions.get(name, -1):
                    self.positions[name] = position
        if done is not None:
            done()

    def read_stream(self, stream: str) -> list[Recorded]:
        return list(self.streams.get(stream, []))

    def read_position(self, name: str) -> int | None:
        return self.positions.get(name)
