"""What one partition could not take: bodies that cannot be read, and the mail of stopped leads.

The same form as a lead: `decide(state, …) → events`, `evolve(state, recorded)` in place and total. The
dead letters themselves stay in the events; the state knows where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
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
RULES = 2
#: Commands are remembered so long, and a day more: what a lead promises for its messages.
_REMEMBERED_DAYS = 9


class Held(Struct, gc=False):
    """Where in the stream an open dead letter stands, by versions."""

    #: Of its `MessageRejected`.
    rejected: int
    #: Of the event that holds its present body.
    body: int
    run: int = 1
    #: Of the event that sent it back; 0 while it waits for a person.
    retried: int = 0


class RejectRow(Struct, frozen=True):
    """One dead letter of a partition. `version` is that of the event which holds its present body."""

    version: int
    category: Literal["rejected", "lead_stopped"]
    subject: str
    lead_stream: str
    payload: str
    size: int
    message_id: str | None
    trace: str
    state: Literal["open", "retrying"]
    run: int


class RejectsState(Struct):
    """Where everything stands that is known of a partition's rejects; what it is, its events tell.

    A flood leaves two integers for each dead letter that is open. Closed ones are forgotten at once, and what cannot
    come again is by `forget`.
    """

    stream: str
    version: int = 0
    incarnation: str = ""
    #: Everything of this incarnation at or below is recorded; above it, the entries that were rejected.
    passed: int = 0
    sequences: set[int] = field(default_factory=set)
    #: Digest of the dead letter's id → the version of its event, as long as nobody has touched it.
    rows: dict[int, int | Held] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    #: Lead stream → versions of the mail that was kept for it.
    mail: dict[str, list[int]] = field(default_factory=dict)
    #: Lead stream → where in the log its last resume stands.
    resumed: dict[str, Place] = field(default_factory=dict)
    #: command id → version of the event that answers it, oldest first.
    commands: dict[str, int] = field(default_factory=dict)
    #: (day, version of its first event), oldest first: how old a version is.
    days: list[tuple[int, int]] = field(default_factory=list)


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
    if redriven:
        held = find(state, event.dead_letter_id)
        return () if held is not None and not held.retried else (event,)
    if place.incarnation != state.incarnation:
        return (event,)
    return () if place.sequence <= state.passed or place.sequence in state.sequences else (event,)


def stop(state: RejectsState, event: ev.LeadStopped) -> Sequence[Event]:
    """The event of a lead that is stopped; none where it is already."""
    return () if event.lead_stream in state.stopped else (event,)


def find(state: RejectsState, dead_letter_id: str) -> Held | None:
    """Where an open dead letter stands; None for one that is closed, or another's."""
    held = state.rows.get(_digest(dead_letter_id))
    return Held(held, held) if isinstance(held, int) else held


def row_of(held: Held, rejected: MessageRejected, body: Event) -> RejectRow:
    """The dead letter by its events; `body` is `rejected` itself where nobody has amended it."""
    payload, size = rejected.payload, rejected.size
    if isinstance(body, ev.DeadLetterAmended):
        payload = str(body.changes.get("payload", ""))
        size = _size_of(payload)
    return RejectRow(
        held.body,
        rejected.category,
        rejected.subject,
        lead_stream_of(rejected.subject),
        payload,
        size,
        rejected.message_id,
        rejected.traceparent,
        "retrying" if held.retried else "open",
        held.run,
    )


def is_command(row: RejectRow) -> bool:
    """Whether the dead letter is a command, and no message."""
    return row.subject.startswith(_COMMANDS)


def decide(
    state: RejectsState, lead_stream: str, command: PersonsCommand, row: RejectRow | None, unreadable: str
) -> Sequence[Event]:
    """The events of a person's command about a dead letter. `unreadable` says why the row's body cannot be taken:
    its present one, or the one that an amendment gives it."""
    if command.command_id in state.commands:
        return ()
    dead_letter_id = getattr(command, "dead_letter_id", None)
    if row is None or dead_letter_id is None or row.lead_stream != lead_stream:  # another's is not to be seen
        return refuse(command, "there is no open reject with this id")
    if row.state == "retrying":
        return refuse(command, "it is on its way already")
    told = (command.command_id, command.by, command.why)
    match command:
        case co.RetryDeadLetter():
            refusal = _why_not(state, row, unreadable)
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


def resume(
    state: RejectsState, lead_stream: str, command: co.ResumeLead, kept: Sequence[str]
) -> Sequence[Event]:
    """The events of letting a lead go: its `kept` mail goes with it, the ids of the dead letters in order."""
    if command.command_id in state.commands:
        return ()
    if lead_stream not in stopped_leads(state):
        return refuse(command, "this lead is not stopped")
    return (ev.LeadResumed(lead_stream, tuple(kept), command.command_id, command.by, command.why),)


def answer_of(event: Event) -> tuple[str, tuple[str, ...]]:
    """What the event of a command says to whoever gave it: why it is refused or "", and the dead letters sent back."""
    if isinstance(event, ev.CommandRefused):
        return event.reason, ()
    if isinstance(event, ev.LeadResumed):
        return "", event.dead_letter_ids
    if isinstance(event, ev.DeadLetterRetried):
        return "", (event.dead_letter_id,)
    return "", ()


def evolve(state: RejectsState, recorded: Recorded) -> RejectsState:
    """The state after an event, in place."""
    state.version = recorded.version
    day = recorded.at.toordinal()
    if not state.days or day > state.days[-1][0]:
        state.days.append((day, recorded.version))
    event = recorded.event
    apply = _APPLY.get(type(event))
    if apply is not None:
        apply(state, event, recorded)
    command_id = getattr(event, "command_id", None)
    if command_id is not None:
        state.commands[command_id] = recorded.version
    return state


def stopped_leads(state: RejectsState) -> set[str]:
    """Leads that take no mail until they are resumed: also one whose kept mail is here and whose stop cannot be read
    any more."""
    return state.stopped | state.mail.keys()


def forgettable(state: RejectsState) -> int:
    """How many things are remembered that time makes superfluous."""
    return len(state.sequences) + len(state.commands)


def forget(state: RejectsState, position: int) -> Sequence[str]:
    """Drop what cannot come again, in place: entries at or below the partition's recorded position, and commands
    and what they sent back after nine days. The ids of those commands."""
    state.passed = max(state.passed, position)
    state.sequences = {sequence for sequence in state.sequences if sequence > position}
    state.resumed = {
        lead_stream: place
        for lead_stream, place in state.resumed.items()
        if place.incarnation != state.incarnation or place.sequence > position
    }
    last_day, _ = state.days[-1] if state.days else (0, 0)
    recent = [(day, version) for day, version in state.days if day >= last_day - _REMEMBERED_DAYS]
    if len(recent) == len(state.days):
        return ()
    state.days = recent
    return _forget_before(state, recent[0][1])


def _forget_before(state: RejectsState, version: int) -> Sequence[str]:
    old = [command_id for command_id, at in state.commands.items() if at < version]
    for command_id in old:
        del state.commands[command_id]
    taken = [key for key, held in state.rows.items() if isinstance(held, Held) and 0 < held.retried < version]
    for key in taken:
        del state.rows[key]
    return old


def lead_stream_of(subject: str) -> str:
    """The stream of the lead that a subject names, whatever the subject's spelling."""
    business, _, token = subject.split(".", 2)[-1].partition(".")
    return tokens.lead_stream(business, token)


def _why_not(state: RejectsState, row: RejectRow, unreadable: str) -> str:
    if row.lead_stream in stopped_leads(state):
        return "its lead is stopped: `leadline lead resume` delivers all that is kept for it, in order"
    if is_command(row):
        return "a command is not redriven: give it again"
    return unreadable


def _amend(row: RejectRow, command: co.AmendDeadLetter, unreadable: str) -> Sequence[Event]:
    if is_command(row):
        kept = row.category == "lead_stopped"
        instead = "`leadline lead resume` delivers it as it is" if kept else "give it again, and discard this"
        return refuse(command, f"a command is not amended: {instead}")
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


def _digest(dead_letter_id: str) -> int:
    """Stands for an id in memory: 120 bits, so that no two of them are taken for one."""
    return int.from_bytes(blake2b(dead_letter_id.encode(), digest_size=15).digest())


def _rejected(state: RejectsState, event: MessageRejected, recorded: Recorded) -> None:
    key, version = _digest(event.dead_letter_id), recorded.version
    before = state.rows.get(key)
    state.rows[key] = Held(version, version, before.run) if isinstance(before, Held) else version
    if event.category == "lead_stopped":
        state.mail.setdefault(lead_stream_of(event.subject), []).append(version)
    place = recorded.place
    if place is None:
        return
    if place.incarnation != state.incarnation:
        state.incarnation = place.incarnation
        state.passed = 0
        state.sequences = set()
    state.sequences.add(place.sequence)


def _touched(state: RejectsState, dead_letter_id: str) -> Held | None:
    """An open dead letter to change."""
    held = find(state, dead_letter_id)
    if held is not None:
        state.rows[_digest(dead_letter_id)] = held
    return held


def _retried(state: RejectsState, event: ev.DeadLetterRetried, recorded: Recorded) -> None:
    held = _touched(state, event.dead_letter_id)
    if held is not None:
        held.retried = recorded.version
        held.run = event.run


def _amended(state: RejectsState, event: ev.DeadLetterAmended, recorded: Recorded) -> None:
    held = _touched(state, event.dead_letter_id)
    if held is not None:
        held.body = recorded.version


def _size_of(payload: str) -> int:
    """Bytes of a body as it is kept; what follows `base64:` stands for three quarters of its length."""
    if payload.startswith("base64:"):
        return len(payload.removeprefix("base64:")) * 3 // 4
    return len(payload.encode())


def _closed(state: RejectsState, event: ev.DeadLetterResolved | ev.DeadLetterDiscarded, _: Recorded) -> None:
    state.rows.pop(_digest(event.dead_letter_id), None)


def _stopped(state: RejectsState, event: ev.LeadStopped, _: Recorded) -> None:
    state.stopped.add(event.lead_stream)
    state.resumed.pop(event.lead_stream, None)


def _resumed(state: RejectsState, event: ev.LeadResumed, recorded: Recorded) -> None:
    state.stopped.discard(event.lead_stream)
    state.mail.pop(event.lead_stream, None)
    if recorded.place is not None:
        state.resumed[event.lead_stream] = recorded.place
    for dead_letter_id in event.dead_letter_ids:
        held = _touched(state, dead_letter_id)
        if held is not None:
            held.retried = recorded.version
            held.run += 1


_APPLY: dict[type[Event], Callable[[RejectsState, Any, Recorded], None]] = {
    MessageRejected: _rejected,
    ev.DeadLetterRetried: _retried,
    ev.DeadLetterAmended: _amended,
    ev.DeadLetterResolved: _closed,
    ev.DeadLetterDiscarded: _closed,
    ev.LeadStopped: _stopped,
    ev.LeadResumed: _resumed,
}
