"""What the domain's rules need of the outside: protocols, and the values that cross them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from msgspec import Struct

from domain.events import Event, Idempotency, MessageReceived, Recorded, Task
from domain.outcomes import Outcome

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ActionCall(Struct, frozen=True, gc=False):
    """One attempt of one action towards its target, complete: it needs no look-up to be carried out."""

    stream: str
    key: str
    attempt: int
    action: str
    target: str
    message: MessageReceived
    response: str
    undo: bool = False
    #: For a compensation: the task that the action made, and the ids the target gave.
    task: Task | None = None
    remote: dict[str, str] = {}
    trace: str = ""
    #: When the message was recorded: the same for every attempt, in every process.
    received: datetime = _EPOCH


class TargetRequest(Struct, frozen=True, gc=False):
    """What a target is asked to do, in the action's own words; `key` goes to the receiver.

    All but `attempt` is the same for every attempt of a key.
    """

    key: str
    kind: str
    business_id: str
    lead_id: str
    fields: dict[str, object]
    remote: dict[str, str] = {}
    attempt: int = 1
    undo: bool = False
    #: As the action's task has it.
    title: str = ""
    #: When the message was recorded.
    received: datetime = _EPOCH


class Target(Protocol):
    """A system outside. `call` blocks, ends within the target's own timeout, and never raises on purpose."""

    @property
    def idempotency(self) -> Idempotency:
        """none: calling twice harms nobody; keyed: the receiver dedups by key; once: neither."""
        ...

    def call(self, request: TargetRequest) -> Outcome: ...


class EventLog(Protocol):
    """The whole store in commit order, as the projector reads it. Each reader owns its own connection."""

    def store_id(self) -> str:
        """Id of this store, made with it: tells a new or restored store from the one known [H18]."""
        ...

    def last_position(self) -> int:
        """Position of the last event, 0 if there is none."""
        ...

    def read(
        self, after: int, limit: int, kinds: Collection[type[Event]] | None = None
    ) -> Sequence[Recorded]:
        """Events after a position, in order, but for those that a person has skipped. Raises `UnknownEventError`
        naming the one that cannot be read, after the readable ones before it have been returned by an earlier
        call.

        With `kinds`, of the next `limit` events only those of these kinds, and the last one whatever it is:
        its position says how far the reader is. The others are not even decoded. Where `kinds` maps a kind to a part
        of it, a struct with some of its fields, that may be given instead, without cause, correlation and place.
        """
        ...

    def event_id_at(self, position: int) -> str | None:
        """Id of the event at a position, None if there is none."""
        ...

    def stream(self, stream: str) -> Iterable[Recorded]:
        """One stream's events from its beginning."""
        ...

    def backwards(self, stream: str, before: int | None = None) -> Iterable[Recorded]:
        """One stream's events, the latest first, from below a version. Read in parts, as far as they are taken."""
        ...

    def close(self) -> None: ...
