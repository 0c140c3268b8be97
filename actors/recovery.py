"""Start-up's question: which leads have unfinished work, where the view cannot be asked [H24]."""

from __future__ import annotations

from collections.abc import Iterator

from domain import events as ev
from domain.errors import UnknownEventError
from domain.events import Event, Recorded
from domain.ports import EventLog

_BATCH = 10_000
_BEGINS: tuple[type[Event], ...] = (ev.MessageReceived, ev.DeadLetterRetried)
_ENDS: tuple[type[Event], ...] = (ev.MessageCompleted, ev.MessageDeadLettered)


def unfinished_leads(log: EventLog) -> set[str]:
    """Streams of the leads with a message that is neither completed nor dead-lettered, from all events.

    An event that cannot be read is passed over: what it hides, its own lead will say when it wakes.
    """
    at_work: dict[str, set[str]] = {}
    for recorded in _readable(log):
        stream, event = recorded.stream, recorded.event
        message_id = getattr(event, "message_id", None)
        if message_id is None or not stream.startswith("lead:"):
            continue
        requeued = isinstance(event, ev.DeadLetterResolved) and event.requeued
        if isinstance(event, _BEGINS) or requeued:
            at_work.setdefault(stream, set()).add(message_id)
        elif isinstance(event, _ENDS) and stream in at_work:
            at_work[stream].discard(message_id)
            if not at_work[stream]:
                del at_work[stream]
    return set(at_work)


def _readable(log: EventLog) -> Iterator[Recorded]:
    position, last = 0, log.last_position()
    while position < last:
        try:
            batch = log.read(position, _BATCH)
        except UnknownEventError:
            position += 1  # positions are gapless: the next one is the next event
            continue
        if not batch:
            return
        yield from batch
        position = batch[-1].position
