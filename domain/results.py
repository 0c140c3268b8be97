"""What became of a message, for whoever sent it: folded from the events of its lead, and of its partition's rejects.

A result is made by the event with which a message reaches a disposition, and again by each later one of the
same message (a dead letter that a retry completes). Pure, like the rest of the domain; it never raises for what
the events hold, only for what cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct, field

from domain import events as ev
from domain.events import Category, Event, MessageRejected, Recorded
from domain.messages import MAX_TOKEN_BYTES
from domain.replies import wrote_at
from domain.tokens import encode, lead_of_stream

Disposition = Literal["completed", "dead_lettered", "rejected", "duplicate"]

#: What of an error's text goes out.
MAX_ERROR = 2000
#: Leads whose messages are known without reading their events again; about 1 KiB each.
KEPT_LEADS = 20_000

_MESSAGES = "leads.in."


class Result(Struct, frozen=True):
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


class Ended(Struct, frozen=True):
    """A result with its place: which event made it, and under whose two tokens it is published."""

    result: Result
    tokens: tuple[str, str]
    position: int
    event_id: str
    trace: str
    #: When the lead last wrote, as far as is known here: that late at least.
    wrote: datetime | None = None


class _Message(Struct):
    """What is known of a message that has not ended, or that a person may take up again."""

    tenant_id: str | None = None
    response: str = ""
    escalate: bool = False
    executed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    compensated: list[str] = field(default_factory=list)


class _Lead(Struct):
    lead_id: str
    business_id: str
    tokens: tuple[str, str]
    wrote: datetime | None = None
    messages: dict[str, _Message] = field(default_factory=dict)


class Results:
    """Folds the events of all leads, in the order of the store. Belongs to one thread.

    What it does not know (after a restart, or because it has let go of it) it reads again with `read_stream`,
    which may raise `UnknownEventError`; nothing has changed here then.
    """

    def __init__(
        self, read_stream: Callable[[str], Iterable[Recorded]], kept_leads: int = KEPT_LEADS
    ) -> None:
        self._read_stream = read_stream
        self._kept = kept_leads
        self._leads: dict[str, _Lead] = {}

    def apply(self, recorded: Recorded) -> Ended | None:
        """What this event ended, if anything."""
        kind = type(recorded.event)
        if kind not in FOLLOWED:
            return None
        if not recorded.stream.startswith("lead:"):
            return self._of_rejects(recorded)
        lead = self._lead_before(recorded)
        _FOLD[kind](lead, recorded.event, recorded)
        end = _ENDS.get(kind)
        return end(lead, recorded.event, recorded) if end else None

    def _lead_before(self, recorded: Recorded) -> _Lead:
        """The lead as it was before this event, as far as the event needs it."""
        event: Any = recorded.event
        lead = self._leads.get(recorded.stream)
        begins = type(event) in _NEEDS_NOTHING
        if lead is not None and (begins or event.message_id in lead.messages):
            return lead
        if lead is None or not begins:
            lead = _lead_of(recorded.stream)
            if not begins:
                _recall(lead, self._read_stream(recorded.stream), recorded.version)
            self._keep(recorded.stream, lead)
        return lead

    def _keep(self, stream: str, lead: _Lead) -> None:
        if len(self._leads) >= self._kept:
            for oldest in list(self._leads)[: self._kept // 2]:
                del self._leads[oldest]
        self._leads[stream] = lead

    def _of_rejects(self, recorded: Recorded) -> Ended | None:
        event = recorded.event
        if isinstance(event, MessageRejected):
            return _rejected(event, recorded)
        if isinstance(event, ev.DeadLetterResolved) and event.outcome == "done":
            for earlier in self._read_stream(recorded.stream):
                found = earlier.event
                if isinstance(found, MessageRejected) and found.dead_letter_id == event.dead_letter_id:
                    return _rejected(found, recorded, settled=True)
        return None


def result_of(events: Iterable[Recorded], message_id: str) -> Result | None:
    """How a message of a lead ended, from the lead's events; None if it has not, or is back at work."""
    lead: _Lead | None = None
    found: Result | None = None
    for recorded in events:
        event = recorded.event
        if type(event) not in FOLLOWED:
            continue
        lead = lead or _lead_of(recorded.stream)
        _FOLD[type(event)](lead, event, recorded)
        if getattr(event, "message_id", None) != message_id or isinstance(event, ev.DuplicateDetected):
            continue
        end = _ENDS.get(type(event))
        ended = end(lead, event, recorded) if end else None
        if ended is not None:
            found = ended.result
        elif _goes_back_to_work(event):
            found = None
    return found


def _goes_back_to_work(event: Event) -> bool:
    if isinstance(event, ev.DeadLetterResolved):
        return event.requeued
    return isinstance(event, ev.MessageReceived | ev.DeadLetterRetried)


def _lead_of(stream: str) -> _Lead:
    business_id, lead_id = lead_of_stream(stream)
    _, business_token, lead_token = stream.split(":", 2)
    return _Lead(lead_id, business_id, (business_token, lead_token))


def _recall(lead: _Lead, events: Iterable[Recorded], before: int) -> None:
    for recorded in events:
        if recorded.version >= before:
            return
        kind = type(recorded.event)
        if kind in FOLLOWED:
            _FOLD[kind](lead, recorded.event, recorded)
            end = _ENDS.get(kind)
            if end is not None:
                end(lead, recorded.event, recorded)


# What each event changes.


def _received(lead: _Lead, event: ev.MessageReceived, recorded: Recorded) -> None:
    wrote = wrote_at(event, recorded.at)
    lead.wrote = max(lead.wrote, wrote) if lead.wrote else wrote
    lead.messages[event.message_id] = _Message(event.tenant_id)


def _planned(lead: _Lead, event: ev.ActionsPlanned, _: Recorded) -> None:
    message = _message(lead, event.message_id)
    message.response = event.response
    message.escalate = event.escalate


def _executed(lead: _Lead, event: ev.ActionExecuted, _: Recorded) -> None:
    message = _message(lead, event.message_id)
    message.executed.append(event.action)
    if event.settled_by is not None and event.action in message.failed:
        message.failed.remove(event.action)


def _failed(lead: _Lead, event: ev.ActionFailed, _: Recorded) -> None:
    _message(lead, event.message_id).failed.append(event.action)


def _compensated(lead: _Lead, event: ev.ActionCompensated, _: Recorded) -> None:
    _message(lead, event.message_id).compensated.append(event.action)


def _retried(lead: _Lead, event: ev.DeadLetterRetried, _: Recorded) -> None:
    """A new run: what the last one did stands in its own result."""
    before = _message(lead, event.message_id or "")
    lead.messages[event.message_id or ""] = _Message(before.tenant_id)


def _nothing(_lead: _Lead, _event: Event, _: Recorded) -> None:
    """It ends a message and changes nothing else."""


def _message(lead: _Lead, message_id: str) -> _Message:
    return lead.messages.setdefault(message_id, _Message())


# What each event ends.


def _completed(lead: _Lead, event: ev.MessageCompleted, recorded: Recorded) -> Ended:
    return _ended(lead, event.message_id, recorded, "completed", dead_letter_id=event.dead_letter_id)


def _dead_lettered(lead: _Lead, event: ev.MessageDeadLettered, recorded: Recorded) -> Ended:
    return _ended(
        lead,
        event.message_id,
        recorded,
        "dead_lettered",
        dead_letter_id=event.dead_letter_id,
        category=event.category,
        error=event.error[:MAX_ERROR],
    )


def _duplicate(lead: _Lead, event: ev.DuplicateDetected, recorded: Recorded) -> Ended:
    result = Result(
        event.message_id,
        lead.lead_id,
        lead.business_id,
        None,
        success=True,
        disposition="duplicate",
        at=recorded.at,
        trace_id=trace_id(recorded.trace),
    )
    return _placed(result, lead.tokens, recorded)


def _resolved(lead: _Lead, event: ev.DeadLetterResolved, recorded: Recorded) -> Ended | None:
    """Settled as done, with nothing left to do: that is how it completes."""
    if event.outcome != "done" or event.requeued or event.message_id is None:
        return None
    return _ended(lead, event.message_id, recorded, "completed", dead_letter_id=event.dead_letter_id)


def _ended(lead: _Lead, message_id: str, recorded: Recorded, disposition: Disposition, **more: Any) -> Ended:
    completed = disposition == "completed"
    message = _message(lead, message_id)
    if completed:
        del lead.messages[message_id]
    result = Result(
        message_id,
        lead.lead_id,
        lead.business_id,
        message.tenant_id,
        success=completed,
        disposition=disposition,
        at=recorded.at,
        executed_actions=tuple(message.executed),
        failed_actions=tuple(message.failed),
        compensated_actions=tuple(message.compensated),
        response=message.response or None if completed else None,
        should_escalate=message.escalate if completed else True,
        trace_id=trace_id(recorded.trace),
        **more,
    )
    return _placed(result, lead.tokens, recorded, lead.wrote)


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
    return _placed(result, tokens, recorded)


def _placed(
    result: Result, tokens: tuple[str, str], recorded: Recorded, wrote: datetime | None = None
) -> Ended:
    return Ended(result, tokens, recorded.position, recorded.event_id, recorded.trace, wrote)


def trace_id(traceparent: str) -> str | None:
    """The trace's id in a W3C `traceparent`."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) > 1 else None


_FOLD: dict[type[Event], Callable[[_Lead, Any, Recorded], None]] = {
    ev.MessageReceived: _received,
    ev.ActionsPlanned: _planned,
    ev.ActionExecuted: _executed,
    ev.ActionFailed: _failed,
    ev.ActionCompensated: _compensated,
    ev.DeadLetterRetried: _retried,
    ev.MessageCompleted: _nothing,
    ev.MessageDeadLettered: _nothing,
    ev.MessageRejected: _nothing,
    ev.DuplicateDetected: _nothing,
    ev.DeadLetterResolved: _nothing,
}
_ENDS: dict[type[Event], Callable[[_Lead, Any, Recorded], Ended | None]] = {
    ev.MessageCompleted: _completed,
    ev.MessageDeadLettered: _dead_lettered,
    ev.DuplicateDetected: _duplicate,
    ev.DeadLetterResolved: _resolved,
}
#: Events whose message need not be known before.
_NEEDS_NOTHING = frozenset({ev.MessageReceived, ev.DuplicateDetected})

#: The events that results are made of.
FOLLOWED = frozenset(_FOLD)
