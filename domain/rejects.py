"""What one partition could not take: bodies that cannot be read, and the mail of stopped leads.

The same form as a lead: `decide(state, …) → events`, `evolve(state, recorded)` in place and total. The
bodies themselves stay in the events; the state knows where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct, field

from domain import commands as co
from domain import events as ev
from domain import tokens
from domain.commands import PersonsCommand
from domain.errors import Rejected
from domain.events import Event, MessageRejected, Place, Recorded
from domain.messages import MAX_MESSAGE_BYTES, payload_bytes
from domain.operate import refuse
from domain.tokens import derived_id

_PREFIX = "reject-"
_COMMANDS = "leads.cmd."
#: Raised with each change of what `evolve` makes of an event: snapshots of other rules are not read.
RULES = 1


class RejectRow(Struct):
    """One dead letter of a partition. `version` is that of the event which holds its present body."""

    version: int
    category: Literal["rejected", "lead_stopped"]
    subject: str
    lead_stream: str
    size: int
    message_id: str | None = None
    state: Literal["open", "retrying"] = "open"
    run: int = 1
    trace: str = ""


class RejectsState(Struct):
    """Everything known of a partition's rejects. Closed rows are forgotten; their places are not."""

    stream: str
    version: int = 0
    incarnation: str = ""
    sequences: set[int] = field(default_factory=set)
    rows: dict[str, RejectRow] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    #: Lead stream → where in the log its last resume stands.
    resumed: dict[str, Place] = field(default_factory=dict)
    #: command id → refusal or "", and the dead letters it sent back.
    commands: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)


def reject_id(place: Place) -> str:
    """The same for every reading of an entry of the log [H13]."""
    return f"{_PREFIX}{derived_id(f'{place.incarnation}/{place.sequence}')}"


def is_about_reject(command: PersonsCommand) -> bool:
    """Whether a command is for the rejects, and not for the lead of its subject, which may be none at all [H13]."""
    return is_reject_id(str(getattr(command, "dead_letter_id", "")))


def is_reject_id(dead_letter_id: str) -> bool:
    """Whether this dead letter is a partition's, and not a lead's own."""
    return dead_letter_id.startswith(_PREFIX)


def reject(state: RejectsState, event: MessageRejected, place: Place, *, redriven: bool) -> Sequence[Event]:
    """The event of an entry that cannot be taken; none where it is recorded already [H13]."""
    row = state.rows.get(event.dead_letter_id)
    if redriven:
        return () if row is not None and row.state == "open" else (event,)
    if place.incarnation == state.incarnation and place.sequence in state.sequences:
        return ()
    return (event,)


def stop(state: RejectsState, event: ev.LeadStopped) -> Sequence[Event]:
    """The event of a lead that is stopped; none where it is already."""
    return () if event.lead_stream in state.stopped else (event,)


def decide(
    state: RejectsState, lead_stream: str, command: PersonsCommand, unreadable: str
) -> Sequence[Event]:
    """The events of a person's command. `unreadable` says why the row's body cannot be taken: its present one,
    or the one that an amendment gives it."""
    if command.command_id in state.commands:
        return ()
    if isinstance(command, co.ResumeLead):
        return _resume(state, lead_stream, command)
    dead_letter_id = getattr(command, "dead_letter_id", None)
    row = state.rows.get(dead_letter_id) if dead_letter_id is not None else None
    if row is None or dead_letter_id is None or row.lead_stream != lead_stream:  # another's is not to be seen
        return refuse(command, "there is no open reject with this id")
    if row.state == "retrying":
        return refuse(command, "it is on its way already")
    told = (command.command_id, command.by, command.why)
    match command:
        case co.RetryDeadLetter():
            refusal = _why_not(row, unreadable)
            if refusal:
                return refuse(command, refusal)
            return (ev.DeadLetterRetried(dead_letter_id, row.message_id, row.run + 1, *told),)
        case co.AmendDeadLetter():
            return _amend(row, command, unreadable)
        case co.ResolveDeadLetter():
            if command.outcome not in (None, "done", "undone"):
                return refuse(
                    command, "no step of it was begun: dlq retry delivers it, dlq discard leaves it"
                )
            return (ev.DeadLetterResolved(dead_letter_id, row.message_id, command.outcome or "done", *told),)
        case co.DiscardDeadLetter():
            return (ev.DeadLetterDiscarded(dead_letter_id, row.message_id, *told),)
    return refuse(command, "not a command for a rejected message")


def evolve(state: RejectsState, recorded: Recorded) -> RejectsState:
    """The state after an event, in place."""
    state.version = recorded.version
    event = recorded.event
    apply = _APPLY.get(type(event))
    if apply is not None:
        apply(state, event, recorded)
    command_id = getattr(event, "command_id", None)
    if command_id is not None:
        refused = event.reason if isinstance(event, ev.CommandRefused) else ""
        state.commands[command_id] = (refused, _sent_back(event))
    return state


def stopped_leads(state: RejectsState) -> set[str]:
    """Leads that take no mail until they are resumed: also one whose kept mail is here and whose stop cannot be read
    any more."""
    return state.stopped | {row.lead_stream for row in state.rows.values() if _is_kept(row)}


def _is_kept(row: RejectRow) -> bool:
    return row.category == "lead_stopped" and row.state == "open"


def lead_stream_of(subject: str) -> str:
    """The stream of the lead that a subject names, whatever the subject's spelling."""
    business, _, token = subject.split(".", 2)[-1].partition(".")
    return tokens.lead_stream(business, token)


def _why_not(row: RejectRow, unreadable: str) -> str:
    if row.category == "lead_stopped":
        return "its lead is stopped: `leadline lead resume` delivers all of its messages, in order"
    if row.subject.startswith(_COMMANDS):
        return "a command is not redriven: give it again"
    return unreadable


def _amend(row: RejectRow, command: co.AmendDeadLetter, unreadable: str) -> Sequence[Event]:
    if row.subject.startswith(_COMMANDS):
        return refuse(command, "a command is not redriven: give it again, and discard this")
    payload = command.changes.get("payload")
    if set(command.changes) != {"payload"} or not isinstance(payload, str):
        return refuse(command, "of a rejected message only `payload`, the whole body as text, can be amended")
    try:
        size = len(payload_bytes(payload))
    except Rejected as rejected:
        return refuse(command, rejected.reason)
    if size > MAX_MESSAGE_BYTES:
        return refuse(command, f"larger than {MAX_MESSAGE_BYTES} bytes: {size}")
    if unreadable:
        return refuse(command, unreadable)
    before = {"payload": f"in version {row.version} of this stream"}
    told = (command.command_id, command.by, command.why)
    return (
        ev.DeadLetterAmended(command.dead_letter_id, row.message_id, {"payload": payload}, before, *told),
    )


def _resume(state: RejectsState, lead_stream: str, command: co.ResumeLead) -> Sequence[Event]:
    kept = tuple(
        dead_letter_id
        for dead_letter_id, row in state.rows.items()
        if _is_kept(row) and row.lead_stream == lead_stream
    )
    if lead_stream not in state.stopped and not kept:
        return refuse(command, "this lead is not stopped")
    return (ev.LeadResumed(lead_stream, kept, command.command_id, command.by, command.why),)


def _sent_back(event: Event) -> tuple[str, ...]:
    if isinstance(event, ev.LeadResumed):
        return event.dead_letter_ids
    if isinstance(event, ev.DeadLetterRetried):
        return (event.dead_letter_id,)
    return ()


def _rejected(state: RejectsState, event: MessageRejected, recorded: Recorded) -> None:
    before = state.rows.pop(event.dead_letter_id, None)
    state.rows[event.dead_letter_id] = RejectRow(
        recorded.version,
        event.category,
        event.subject,
        lead_stream_of(event.subject),
        event.size,
        event.message_id,
        run=before.run if before else 1,
        trace=event.traceparent,
    )
    place = recorded.place
    if place is None:
        return
    if place.incarnation != state.incarnation:
        state.incarnation = place.incarnation
        state.sequences = set()
    state.sequences.add(place.sequence)


def _retried(state: RejectsState, event: ev.DeadLetterRetried, _: Recorded) -> None:
    row = state.rows.get(event.dead_letter_id)
    if row is not None:
        row.state = "retrying"
        row.run = event.run


def _amended(state: RejectsState, event: ev.DeadLetterAmended, recorded: Recorded) -> None:
    row = state.rows.get(event.dead_letter_id)
    if row is not None:
        row.version = recorded.version
        row.size = _size_of(str(event.changes.get("payload", "")))


def _size_of(payload: str) -> int:
    """Bytes of a body as it is kept; what follows `base64:` stands for three quarters of its length."""
    if payload.startswith("base64:"):
        return len(payload.removeprefix("base64:")) * 3 // 4
    return len(payload.encode())


def _closed(state: RejectsState, event: ev.DeadLetterResolved | ev.DeadLetterDiscarded, _: Recorded) -> None:
    state.rows.pop(event.dead_letter_id, None)


def _stopped(state: RejectsState, event: ev.LeadStopped, _: Recorded) -> None:
    state.stopped.add(event.lead_stream)
    state.resumed.pop(event.lead_stream, None)


def _resumed(state: RejectsState, event: ev.LeadResumed, recorded: Recorded) -> None:
    state.stopped.discard(event.lead_stream)
    if recorded.place is not None:
        state.resumed[event.lead_stream] = recorded.place
    for dead_letter_id in event.dead_letter_ids:
        row = state.rows.get(dead_letter_id)
        if row is not None:
            row.state = "retrying"
            row.run += 1


_APPLY: dict[type[Event], Callable[[RejectsState, Any, Recorded], None]] = {
    MessageRejected: _rejected,
    ev.DeadLetterRetried: _retried,
    ev.DeadLetterAmended: _amended,
    ev.DeadLetterResolved: _closed,
    ev.DeadLetterDiscarded: _closed,
    ev.LeadStopped: _stopped,
    ev.LeadResumed: _resumed,
}
