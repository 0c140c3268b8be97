"""Actors whose every fact is in a stream of their own: receive, decide, record, and only then act.

Mail that comes while an append is in flight is decided together in the next [H29]. What an actor has
decided is its state only once it is durable: on a conflict the state is thrown away, read again, and the
same mail decided anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import count
from typing import Any, Protocol

from msgspec import Struct

from actors.pool import Dispatcher, PooledActor
from actors.protocol import Append, AppendResult, Committed, Conflict, Journal, Snapshot, Unwritable
from actors.stretch import Stretch
from domain import codec
from domain.errors import LeadlineError
from domain.events import Event, Place, Recorded
from domain.messages import clean
from domain.snapshots import Snapshots

_append_ids = count(1)
_ANSWERS = frozenset((Committed, Conflict, Unwritable))
#: Events read at once, and the fewest between two snapshots: so many are replayed in some 10 ms.
LONG = 1000
#: A state that remembers more is kept less often: a snapshot costs time by its size, a replay by its events.
_PER_EVENT = 40


class UnwritableEventError(LeadlineError):
    """The store refuses this stream's rows, whatever stands beside them."""


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """Wall clock, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class Load(Protocol):
    """Reads a stream's events after a version, at most `limit` of them. Raises `UnknownEventError`."""

    def __call__(self, stream: str, *, after: int = 0, limit: int = -1) -> Sequence[Recorded]: ...


class Recording(Struct, frozen=True):
    """What every recording actor needs. One for the whole system."""

    dispatcher: Dispatcher
    journal: Journal
    clock: Clock
    #: Gives ids that no other process gives [H12].
    next_event_id: Callable[[], str]
    #: Sends to whoever lives at a stream id.
    tell: Callable[[str, Any], Any]
    load: Load
    #: A stream's events from the last one back, as far as they are taken.
    backwards: Callable[[str], Iterable[Recorded]]
    #: (stream, shape) → the last snapshot of that shape, None if there is none.
    snapshot: Callable[[str, str], bytes | None]
    #: Keeps a snapshot in the place of the stream's last; returns at once; one that cannot be written is dropped.
    keep: Callable[[Snapshot], None]


class Cause(Struct, frozen=True, gc=False):
    """What brought events about, for their envelopes."""

    cause: str = ""
    correlation: str = ""
    trace: str = ""
    place: Place | None = None


class RecordingActor(PooledActor):
    """Owns the stream of its URN. One append in flight.

    Subclasses implement `fold` (an event into the state), `reset` (forget the state), `handle` (one
    message: decide and `record`), and `settled` (the batch is durable: act). A told message that raises
    ends the actor; what it had not recorded is in `unrecorded()`.

    A stream that can become long has `snapshots`, `kept_state`, `restore` and `remembered` too.
    """

    __slots__ = ("_append_id", "_batch", "_kept", "_loaded", "_rows", "_stretch", "parts", "waiting")

    #: How its state is kept beside the events; None where its stream stays short.
    snapshots: Snapshots[Any] | None = None

    def __init__(self, stream: str, parts: Recording) -> None:
        super().__init__(stream, parts.dispatcher)
        self.parts = parts
        self.waiting: list[Any] = []
        self._batch: list[Any] = []
        self._rows: list[tuple[str, bytes]] = []
        self._append_id = 0
        self._loaded = False
        #: The deciding that is under way: a handler is somebody else's code.
        self._stretch = Stretch()
        #: Version of the last snapshot that is known of.
        self._kept = 0

    def reset(self) -> None:
        raise NotImplementedError

    def fold(self, recorded: Recorded) -> None:
        raise NotImplementedError

    def loaded(self) -> None:
        """The state has been read from the events."""

    def version(self) -> int:
        raise NotImplementedError

    def kept_state(self) -> Any:
        """The state as `snapshots` takes it."""
        raise NotImplementedError

    def restore(self, state: Any) -> None:
        """The state from a snapshot instead of from the events up to its version."""
        raise NotImplementedError

    def remembered(self) -> int:
        """How many things the state holds: what a snapshot's size grows with."""
        return 0

    def handle(self, message: Any, now: datetime) -> None:
        raise NotImplementedError

    def settled(self, batch: Sequence[Any]) -> None:
        raise NotImplementedError

    def places(self, batch: Sequence[Any]) -> tuple[Place, ...]:
        """Places in the log that are recorded once the batch is."""
        return ()

    def report(self, places: Sequence[Place]) -> None:
        """These places needed no event: they are recorded already."""

    def conflicted(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Somebody else writes this stream: nothing of the batch is recorded. What of it is decided again."""
        return batch

    def on_receive(self, message: Any) -> None:
        if type(message) in _ANSWERS:
            self._answered(message)
        else:
            self.waiting.append(message)

    def on_turn_end(self) -> None:
        while self.waiting and not self._append_id:
            self._decide()

    def at_rest(self) -> bool:
        """Nothing in flight and nothing undecided: the actor may sleep."""
        return not self.waiting and not self._append_id

    def unrecorded(self) -> list[Any]:
        """What was received and is not durable, in order."""
        return [*self._batch, *self.waiting]

    def record(self, events: Sequence[Event], now: datetime, because: Cause) -> None:
        """Add events to the append that ends this batch, and to the state."""
        stream, next_event_id, rows = self.actor_urn, self.parts.next_event_id, self._rows
        cause, correlation, trace, place = because.cause, because.correlation, because.trace, because.place
        version = self.version()
        for event in events:
            version += 1
            recorded = Recorded(
                stream, version, event, next_event_id(), now, cause, correlation, trace, place
            )
            rows.append(codec.encode(recorded))
            self.fold(recorded)

    def _decide(self) -> None:
        if not self._loaded:
            self.load()
        self._batch, self.waiting = self.waiting, []
        self._rows = []
        before = self.version()
        self._handle_all()
        places = self.places(self._batch)
        if not self._rows:
            self.report(places)
            self._finish()
            return
        self._append_id = next(_append_ids)
        self.parts.journal.append(
            Append(self.actor_urn, before, tuple(self._rows), self._reply, places, self._append_id)
        )
        self._rows = []

    def _handle_all(self) -> None:
        """Decide the batch. Raises `BrokenOff` where it was given up meanwhile: nothing of it may be recorded then."""
        now = self.parts.clock.now()
        with self._stretch as stretch:
            for message in self._batch:
                self.handle(message, now)
                stretch.since = time.monotonic()

    def busy_since(self) -> float | None:
        return self._stretch.since if self._stretch.at_work else None

    def break_off(self) -> bool:
        """Give up on a deciding that does not end; False where it has ended. Any thread. From here on nothing changes
        what is in `unrecorded`."""
        return self._stretch.break_off()

    def stack(self) -> str:
        """Where its code is just now, at most 4,000 characters; empty where it is nowhere. Any thread."""
        return clean(self._stretch.stack()[-4000:])

    def _reply(self, result: AppendResult) -> None:
        self.parts.tell(result.stream, result)

    def load(self) -> None:
        """Read the stream; done by itself before the first message is handled."""
        self.reset()
        self._kept = 0
        if self._fold_next() == LONG:
            self._restore()
            while self._fold_next() == LONG:
                pass
        self._loaded = True
        self.loaded()

    def _fold_next(self) -> int:
        """Fold some of the stream's next events. How many: fewer than `LONG` were the last."""
        events = self.parts.load(self.actor_urn, after=self.version(), limit=LONG)
        for recorded in events:
            self.fold(recorded)
        return len(events)

    def _restore(self) -> None:
        """Go on from the snapshot of this stream, if there is one that can be read."""
        if self.snapshots is None:
            return
        encoded = self.parts.snapshot(self.actor_urn, self.snapshots.shape)
        state = self.snapshots.decode(encoded) if encoded is not None else None
        if state is not None:
            self.restore(state)
            self._kept = self.version()

    def _keep(self) -> None:
        """Hand over a snapshot where waking would have many events to replay. All of the state is durable now."""
        version = self.version()
        if self.snapshots is None or version - self._kept < max(LONG, self.remembered() // _PER_EVENT):
            return
        self._kept = version
        encoded = self.snapshots.encode(self.kept_state())
        self.parts.keep(Snapshot(self.actor_urn, version, self.snapshots.shape, encoded))

    def _answered(self, result: AppendResult) -> None:
        if result.append_id != self._append_id:
            return  # of an append that an earlier actor of this stream made
        self._append_id = 0
        if isinstance(result, Committed):
            self._finish()
        elif isinstance(result, Conflict):
            self._loaded = False
            self.waiting = [*self.conflicted(self._batch), *self.waiting]
            self._batch = []
        else:
            raise UnwritableEventError(result.error)

    def _finish(self) -> None:
        batch, self._batch = self._batch, []
        if self.version() - self._kept >= LONG:
            self._keep()
        self.settled(batch)
