"""Businesses that keep the order over dead letters: later messages wait behind an open one, and follow in order."""

from __future__ import annotations

from collections.abc import Iterator

from domain import events as ev
from domain.events import Recorded
from domain.tokens import lead_of_stream
from tests.verify.evidence import Evidence
from tests.verify.workload import PARKS

#: What a message's own work leaves; what people do to its tasks, and what it is told late, is none of it.
_AT_WORK = (
    ev.IntentDetected,
    ev.ActionsPlanned,
    ev.ActionStarted,
    ev.ActionDeferred,
    ev.ActionFailed,
    ev.StepExecuted,
    ev.ActionExecuted,
    ev.MessageCompleted,
    ev.MessageDeadLettered,
)
#: A dead letter that was settled as undone is one once more, and a settled one.
_SETTLED = (ev.MessageCompleted, ev.DeadLetterDiscarded, ev.MessageDeadLettered)


def nothing_passes_an_open_dead_letter(evidence: Evidence) -> Iterator[str]:
    """From a dead letter to its settlement no later message of the lead is at work or ends: none is planned, called,
    completed, or a dead letter itself."""
    for stream, history in _parking(evidence):
        received: dict[str, int] = {}
        holds: tuple[str, str] | None = None
        for recorded in history:
            event = recorded.event
            message_id = getattr(event, "message_id", None) or ""
            if isinstance(event, ev.MessageReceived):
                received[message_id] = recorded.version
            if (
                holds
                and isinstance(event, _AT_WORK)
                and received.get(message_id, 0) > received.get(holds[0], 0)
            ):
                yield f"{stream} version {recorded.version}: {event} while dead letter {holds[1]} is open"
            holds = _holder(holds, event)


def what_waited_follows_in_order(evidence: Evidence) -> Iterator[str]:
    """Messages are planned for the first time in the order in which they were received, dead letters between them or
    not; one whose dead letter was discarded before its turn is none of them."""
    for stream, history in _parking(evidence):
        lives: dict[str, int] = {}
        begun: set[int] = set()
        last = 0
        for recorded in history:
            event = recorded.event
            if isinstance(event, ev.MessageReceived):
                lives[event.message_id] = recorded.version
            elif isinstance(event, ev.IntentDetected):
                here = lives.get(event.message_id, 0)
                if here in begun:
                    continue
                begun.add(here)
                if here < last:
                    yield f"{stream} version {recorded.version}: {event.message_id} begins after a later one"
                last = max(last, here)


def _holder(holds: tuple[str, str] | None, event: ev.Event) -> tuple[str, str] | None:
    """(message, dead letter) that the later ones wait behind, after an event."""
    if isinstance(event, ev.MessageDeadLettered) and not event.settled:
        return holds or (event.message_id, event.dead_letter_id)
    ended = isinstance(event, _SETTLED) or (isinstance(event, ev.DeadLetterResolved) and not event.requeued)
    if holds is None or not ended:
        return holds
    mine = holds[1] == getattr(event, "dead_letter_id", None) or (
        isinstance(event, ev.MessageCompleted) and event.message_id == holds[0]
    )
    return None if mine else holds


def _parking(evidence: Evidence) -> Iterator[tuple[str, list[Recorded]]]:
    for stream, history in evidence.streams.items():
        if stream.startswith("lead:") and lead_of_stream(stream)[0] in PARKS:
            yield stream, history


ALWAYS = (nothing_passes_an_open_dead_letter, what_waited_follows_in_order)
AT_REST = ()
