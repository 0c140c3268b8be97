"""What became of a message, for whoever sent it: made from the events of its lead, and of its partition's rejects.

A result is made by the event with which a message reaches a disposition, and again by each later one of the
same message (a dead letter that a retry completes). Pure, like the rest of the domain; it never raises for what
the events hold, only for what cannot be read.

Most messages complete, and then three events say everything. What else a result needs, and what this process has
not seen, is read backwards from the event in hand, no further than to the message's receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from domain import events as ev
from domain.events import Category, Event, MessageReceived, MessageRejected, Recorded
from domain.messages import MAX_TOKEN_BYTES
from domain.ports import EventLog
from domain.replies import wrote_at
from domain.tokens import decode, encode

Disposition = Literal["completed", "dead_lettered", "rejected", "duplicate"]

#: What of an error's text goes out.
MAX_ERROR = 2000
#: Leads of which it is known when they wrote last; what is not known is read when it matters.
KEPT_LEADS = 50_000

_MESSAGES = "leads.in."


class Result(Struct, frozen=True, gc=False):
    """How a message ended; the body that is published. Of a message run again, its last run's."""

    message_id: str
    lead_id: str
    business_id: str
    tenant_id: str | None
    #: completed and duplicate are; what a person has to look at is not.
    success: bool
    disposition: Disposition
    at: datetime
    #: Done, in order, those included that were undone since.
    executed_actions: tuple[str, ...] = ()
    #: Failed for good, or nobody knows.
    failed_actions: tuple[str, ...] = ()
    compensated_actions: tuple[str, ...] = ()
    #: The text for the lead; only a completed message has one.
    response: str | None = None
    should_escalate: bool = False
    trace_id: str | None = None
    dead_letter_id: str | None = None
    category: Category | None = None
    error: str | None = None


class Ended(Struct, frozen=True, gc=False):
    """A result with its place: which event made it, and under whose two tokens it is published."""

    result: Result
    tokens: tuple[str, str]
    position: int
    event_id: str
    trace: str
    #: When the lead last wrote, as far as is known here: that late at least.
    wrote: datetime | None = None


class _Receipt(Event, frozen=True):
    """What is needed of `MessageReceived`, as most of the others come."""

    message_id: str
    lead_id: str
    tenant_id: str
    received_at: datetime | None = None


class _Plan(Event, frozen=True):
    """What is needed of `ActionsPlanned`."""

    message_id: str
    escalate: bool
    response: str


class _Completion(Event, frozen=True):
    """What is needed of `MessageCompleted`."""

    message_id: str
    executed: tuple[str, ...]
    dead_letter_id: str | None = None


class _Run(Struct, gc=False):
    """What is known of a message in its present run."""

    #: As its receipt says it; empty where that was not read.
    lead_id: str = ""
    tenant_id: str | None = None
    wrote: datetime | None = None
    planned: bool = False
    response: str = ""
    escalate: bool = False
    executed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    compensated: tuple[str, ...] = ()
    dead_letter_id: str | None = None
    category: Category | None = None
    error: str | None = None


class Results:
    """Makes results of the events of all leads, in the order of the store. Belongs to one thread.

    `log` may raise `UnknownEventError`; nothing has changed here then.
    """

    def __init__(self, log: EventLog, kept_leads: int = KEPT_LEADS) -> None:
        self._log = log
        self._kept = kept_leads
        #: (stream, message id) → its run, from its receipt to its end.
        self._runs: dict[tuple[str, str], _Run] = {}
        self._wrote: dict[str, datetime] = {}
        self._apply: dict[type[Event], Callable[[Any, Recorded], Ended | None]] = {
            **dict.fromkeys((MessageReceived, _Receipt), self._received),
            **dict.fromkeys((ev.ActionsPlanned, _Plan), self._planned),
            **dict.fromkeys((ev.MessageCompleted, _Completion), self._completed),
            ev.MessageDeadLettered: self._dead_lettered,
            ev.DuplicateDetected: _duplicate,
            ev.DeadLetterResolved: self._resolved,
            MessageRejected: _rejected,
        }

    def apply(self, recorded: Recorded) -> Ended | None:
        """What this event ended, if anything."""
        event = recorded.event
        apply = self._apply.get(type(event))
        return None if apply is None else apply(event, recorded)

    def _received(self, event: MessageReceived | _Receipt, recorded: Recorded) -> None:
        stream, wrote = recorded.stream, wrote_at(event.received_at, recorded.at)
        self._runs[stream, event.message_id] = _Run(event.lead_id, event.tenant_id, wrote)
        before = self._wrote.get(stream)
        if before is None and len(self._wrote) >= self._kept:
            self._wrote.clear()
        if before is None or before < wrote:
            self._wrote[stream] = wrote

    def _planned(self, event: ev.ActionsPlanned | _Plan, recorded: Recorded) -> None:
        run = self._runs.get((recorded.stream, event.message_id))
        if run is not None:
            run.planned, run.response, run.escalate = True, event.response, event.escalate

    def _completed(self, event: ev.MessageCompleted | _Completion, recorded: Recorded) -> Ended:
        message_id = event.message_id
        run = self._runs.pop((recorded.stream, message_id), None) or self._read(recorded, message_id)
        run.executed = event.executed
        run.failed = run.compensated = ()  # in this run nothing was, or it would not have completed
        run.dead_letter_id = event.dead_letter_id
        return self._ended(recorded, run, message_id, "completed")

    def _dead_lettered(self, event: ev.MessageDeadLettered, recorded: Recorded) -> Ended:
        run = self._runs.get((recorded.stream, event.message_id))
        if run is None or run.planned:
            run = self._read(recorded, event.message_id, run)
        self._runs.pop((recorded.stream, event.message_id), None)
        run.dead_letter_id, run.category = event.dead_letter_id, event.category
        run.error = event.error[:MAX_ERROR]
        return self._ended(recorded, run, event.message_id, "dead_lettered")

    def _resolved(self, event: ev.DeadLetterResolved, recorded: Recorded) -> Ended | None:
        """Settled as done, with nothing left to do: that is how it completes."""
        if event.outcome != "done" or event.requeued:
            return None
        if not recorded.stream.startswith("lead:"):
            return self._reject_resolved(event, recorded)
        if event.message_id is None:
            return None
        run = self._read(recorded, event.message_id)
        run.dead_letter_id = event.dead_letter_id
        return self._ended(recorded, run, event.message_id, "completed")

    def _reject_resolved(self, event: ev.DeadLetterResolved, recorded: Recorded) -> Ended | None:
        for earlier in self._log.backwards(recorded.stream, recorded.version):
            found = earlier.event
            if isinstance(found, MessageRejected) and found.dead_letter_id == event.dead_letter_id:
                return _rejected(found, recorded, settled=True)
        return None

    def _read(self, recorded: Recorded, message_id: str, known: _Run | None = None) -> _Run:
        """A message's present run, from the events before this one; of a `known` one, what it did since its plan."""
        events = self._log.backwards(recorded.stream, recorded.version)
        return _run_before(events, message_id, known)

    def _ended(self, recorded: Recorded, run: _Run, message_id: str, disposition: Disposition) -> Ended:
        wrote = self._wrote.get(recorded.stream)
        if wrote is not None and (run.wrote is None or run.wrote < wrote):
            run.wrote = wrote
        return _ended(recorded, run, message_id, disposition)


def result_of(log: EventLog, stream: str, message_id: str) -> Result | None:
    """How a message of a lead ended, from the lead's events; None if it has not, or is back at work."""
    for recorded in log.backwards(stream):
        event = recorded.event
        if getattr(event, "message_id", None) != message_id or isinstance(event, ev.DuplicateDetected):
            continue
        ended = Results(log).apply(recorded)
        if ended is not None:
            return ended.result
        if isinstance(event, MessageReceived | ev.DeadLetterRetried):
            return None
        if isinstance(event, ev.DeadLetterResolved) and event.requeued:
            return None
    return None


def _run_before(events: Iterable[Recorded], message_id: str, known: _Run | None) -> _Run:
    """A message's present run, from its lead's events, the latest first."""
    mine: list[Event] = []
    run = known or _Run()
    retried = False
    for recorded in events:
        event = recorded.event
        if getattr(event, "message_id", None) != message_id:
            continue
        if isinstance(event, MessageReceived):
            run.lead_id, run.tenant_id = event.lead_id, event.tenant_id
            run.wrote = wrote_at(event.received_at, recorded.at)
            break
        retried = retried or isinstance(event, ev.DeadLetterRetried)
        if not retried:
            mine.append(event)
        if known is not None and isinstance(event, ev.ActionsPlanned):
            break
    for event in reversed(mine):
        _fold(run, event)
    return run


def _fold(run: _Run, event: Event) -> None:
    match event:
        case ev.ActionsPlanned():
            run.planned, run.response, run.escalate = True, event.response, event.escalate
        case ev.ActionExecuted():
            run.executed += (event.action,)
            if event.settled_by is not None and event.action in run.failed:
                at = run.failed.index(event.action)
                run.failed = run.failed[:at] + run.failed[at + 1 :]
        case ev.ActionFailed():
            run.failed += (event.action,)
        case ev.ActionCompensated():
            run.compensated += (event.action,)


def _duplicate(event: ev.DuplicateDetected, recorded: Recorded) -> Ended:
    return _ended(recorded, _Run(), event.message_id, "duplicate")


def _ended(recorded: Recorded, run: _Run, message_id: str, disposition: Disposition) -> Ended:
    _, business_id, lead_token = recorded.stream.split(":", 2)
    completed, dead = disposition == "completed", disposition == "dead_lettered"
    result = Result(
        message_id,
        run.lead_id or decode(lead_token),
        business_id,
        run.tenant_id,
        not dead,
        disposition,
        recorded.at,
        run.executed,
        run.failed,
        run.compensated,
        run.response or None if completed else None,
        dead or (completed and run.escalate),
        trace_id(recorded.trace),
        run.dead_letter_id,
        run.category,
        run.error,
    )
    return Ended(
        result,
        (business_id, lead_token),
        recorded.position,
        recorded.event_id,
        recorded.trace,
        run.wrote,
    )


def _rejected(event: MessageRejected, recorded: Recorded, *, settled: bool = False) -> Ended | None:
    """Of a message whose three ids can be read. `settled` by a person as done, it is completed."""
    if event.message_id is None or event.lead_id is None or event.business_id is None:
        return None
    tokens = encode(event.business_id), encode(event.lead_id)
    if not event.subject.startswith(_MESSAGES) or max(map(len, tokens)) > MAX_TOKEN_BYTES:
        return None
    result = Result(
        event.message_id,
        event.lead_id,
        event.business_id,
        event.tenant_id,
        success=settled,
        disposition="completed" if settled else "rejected",
        at=recorded.at,
        should_escalate=not settled,
        trace_id=trace_id(recorded.trace or event.traceparent),
        dead_letter_id=event.dead_letter_id,
        category=None if settled else event.category,
        error=None if settled else event.reason[:MAX_ERROR],
    )
    return Ended(result, tokens, recorded.position, recorded.event_id, recorded.trace)


def trace_id(traceparent: str) -> str | None:
    """The trace's id in a W3C `traceparent`."""
    if not traceparent:
        return None
    parts = traceparent.split("-")
    return parts[1] if len(parts) > 1 else None


#: The events that results are made of as they come, the frequent ones in part: a receipt holds its message three times.
#: The rest of what they need is read when it is needed.
FOLLOWED: Mapping[type[Event], type[Event]] = {
    MessageReceived: _Receipt,
    ev.ActionsPlanned: _Plan,
    ev.MessageCompleted: _Completion,
    ev.MessageDeadLettered: ev.MessageDeadLettered,
    MessageRejected: MessageRejected,
    ev.DuplicateDetected: ev.DuplicateDetected,
    ev.DeadLetterResolved: ev.DeadLetterResolved,
}
