"""From the events to LEADS_OUT: every result in order, every reply once, and to nobody else.

What must be out is found from the events here once more, apart from `domain/results.py`.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from domain import events as ev
from domain.events import Recorded
from domain.messages import MAX_TOKEN_BYTES
from domain.tokens import encode, lead_of_stream
from tests.verify.evidence import Evidence, of_type


class Told(NamedTuple):
    """What an event has told outside: to whom, of which message, and what the lead is to read."""

    tokens: tuple[str, str]
    message_id: str
    disposition: str
    #: None or empty: there is no reply.
    response: str | None = None


def what_is_out_is_what_its_event_says(evidence: Evidence) -> Iterator[str]:
    """Each message of LEADS_OUT stands for an event of the lead that its subject and its body name."""
    told, ids = _told(evidence), _event_ids(evidence)
    for one in evidence.out:
        expected = told.get(one.event[1])
        if expected is None:
            yield f"{one.subject} {one.sequence} was made from event {one.event[1]}, which ends no message"
            continue
        if one.headers.get("Nats-Msg-Id") != f"{ids[one.event[1]]}/{one.kind}":
            yield f"{one.subject} {one.sequence} has another event's id"
        business, lead = (str(one.body.get(name)) for name in ("business_id", "lead_id"))
        said = (one.subject, (encode(business), encode(lead)), one.body.get("message_id"))
        subject = f"leads.out.{expected.tokens[0]}.{expected.tokens[1]}.{one.kind}"
        if said != (subject, expected.tokens, expected.message_id):
            yield f"{said} is out, and event {one.event[1]} says {expected}"
        text, wanted = (
            (one.body.get("text"), expected.response)
            if one.kind == "replies"
            else (one.body.get("disposition"), expected.disposition)
        )
        if text != wanted:
            yield f"{one.subject} {one.sequence} says {text!r}, and event {one.event[1]} {wanted!r}"


def results_come_in_the_order_of_their_leads_events(evidence: Evidence) -> Iterator[str]:
    """As far as they are new: one that comes again says so by its id."""
    for subject, positions in _by_subject(evidence, "results").items():
        firsts = list(dict.fromkeys(positions))
        if firsts != sorted(firsts):
            at = next(n for n in range(1, len(firsts)) if firsts[n] < firsts[n - 1])
            yield f"{subject}: the result of event {firsts[at]} came after that of {firsts[at - 1]}"


def each_reply_is_out_once_and_in_order(evidence: Evidence) -> Iterator[str]:
    for subject, positions in _by_subject(evidence, "replies").items():
        for before, position in itertools.pairwise(positions):
            if position <= before:
                yield f"{subject}: the reply of event {position} came after that of {before}"


def what_the_outbox_has_passed_is_out(evidence: Evidence) -> Iterator[str]:
    """Up to its position every result is in LEADS_OUT; every reply too, or the command that takes its place is in
    the log."""
    if evidence.outbox is None:
        return
    out, expired = _out(evidence), {_command_id(entry.body) for entry in evidence.log if entry.kind == "cmd"}
    ids = _event_ids(evidence)
    for position, told in _told(evidence).items():
        if position > evidence.outbox.position:
            continue
        if (position, "results") not in out:
            yield f"the outbox stands at {evidence.outbox.position}, and event {position} ({told}) is not out"
        too_late = f"reply/{ids[position]}" in expired
        if told.response and (position, "replies") not in out and not too_late:
            yield f"the outbox stands at {evidence.outbox.position}, and the reply of {position} is not out"


def every_disposition_is_told_and_every_reply_sent_or_a_task(evidence: Evidence) -> Iterator[str]:
    """At rest. A reply that came too late is its lead's event instead, and never beside."""
    out, ids, last = _out(evidence), _event_ids(evidence), evidence.events[-1].position
    if evidence.outbox is None or evidence.outbox.position != last:
        yield f"the outbox stands at {evidence.outbox}, and the last event is {last}"
    if len(lives := {one.event[0] for one in evidence.out}) > 1:
        yield f"the outbox has begun anew: {sorted(lives)}"
    expired = {event.command_id for _, event in of_type(evidence.events, ev.ReplyExpired)}
    for position, told in _told(evidence).items():
        if (position, "results") not in out:
            yield f"event {position} has no result in LEADS_OUT: {told}"
        sent = (position, "replies") in out
        too_late = f"reply/{ids[position]}" in expired
        if sent + too_late != bool(told.response):
            yield f"the reply of event {position} ({told}) was sent: {sent}, was too late: {too_late}"


def _event_ids(evidence: Evidence) -> dict[int, str]:
    """By position: what a person has skipped is not among the events."""
    return {recorded.position: recorded.event_id for recorded in evidence.events}


def _told(evidence: Evidence) -> dict[int, Told]:
    """Position of each event with which a message reaches a disposition → what it tells."""
    found: dict[int, Told] = {}
    for stream, history in evidence.streams.items():
        if stream.startswith("lead:"):
            found |= _of_lead(stream, history)
        elif stream.startswith("rejects:"):
            found |= _of_rejects(history)
    return found


def _of_lead(stream: str, history: list[Recorded]) -> Iterator[tuple[int, Told]]:
    business_id, lead_id = lead_of_stream(stream)
    tokens = encode(business_id), encode(lead_id)
    responses: dict[str, str] = {}
    for recorded in history:
        event = recorded.event
        message_id = getattr(event, "message_id", None) or ""
        if isinstance(
            event, ev.MessageReceived | ev.DeadLetterRetried
        ):  # a run of its own, with its own plan
            responses.pop(message_id, None)
        elif isinstance(event, ev.ActionsPlanned):
            responses[message_id] = event.response
        disposition = _disposition(event)
        if disposition and message_id:
            response = responses.get(message_id) if disposition == "completed" else None
            yield recorded.position, Told(tokens, message_id, disposition, response)


def _of_rejects(history: list[Recorded]) -> Iterator[tuple[int, Told]]:
    rows: dict[str, tuple[tuple[str, str], str]] = {}
    for recorded in history:
        event = recorded.event
        if isinstance(event, ev.MessageRejected):
            rows.pop(event.dead_letter_id, None)
            if event.business_id is None or event.lead_id is None or event.message_id is None:
                continue
            tokens = encode(event.business_id), encode(event.lead_id)
            if (
                event.subject == f"leads.in.{tokens[0]}.{tokens[1]}"
                and max(map(len, tokens)) <= MAX_TOKEN_BYTES
            ):
                rows[event.dead_letter_id] = tokens, event.message_id
                yield recorded.position, Told(tokens, event.message_id, "rejected")
        elif _disposition(event) and (row := rows.get(getattr(event, "dead_letter_id", ""))):
            yield recorded.position, Told(*row, "completed")


def _disposition(event: ev.Event) -> str | None:
    match event:
        case ev.MessageCompleted():
            return "completed"
        case ev.MessageDeadLettered():
            return "dead_lettered"
        case ev.DuplicateDetected():
            return "duplicate"
        case ev.DeadLetterResolved(outcome="done", requeued=False):
            return "completed"
    return None


def _out(evidence: Evidence) -> set[tuple[int, str]]:
    return {(one.event[1], one.kind) for one in evidence.out}


def _by_subject(evidence: Evidence, kind: str) -> dict[str, list[int]]:
    """Subject → the events of what is out there, in the order of the stream."""
    found: dict[str, list[int]] = defaultdict(list)
    for one in evidence.out:
        if one.kind == kind:
            found[one.subject].append(one.event[1])
    return found


def _command_id(body: bytes) -> str:
    try:
        return str(json.loads(body)["command_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


ALWAYS = (
    what_is_out_is_what_its_event_says,
    results_come_in_the_order_of_their_leads_events,
    each_reply_is_out_once_and_in_order,
    what_the_outbox_has_passed_is_out,
)
AT_REST = (every_disposition_is_told_and_every_reply_sent_or_a_task,)
