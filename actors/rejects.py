"""What a partition cannot take, kept and sent back: one actor a partition, the writer of `rejects:<partition>`.

It stands on the intake's way (stop 1) for bodies that cannot be read, and in for leads that are stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from actors.positions import position_name
from actors.protocol import Mail, Recorder, Rejection, Replies
from actors.recording import Cause, Recording, RecordingActor
from domain import events as ev
from domain import rejects, tokens
from domain.commands import (
    AmendDeadLetter,
    CommandOutcome,
    ExpireReply,
    PersonsCommand,
    ReceiveMessage,
    RedriveReply,
    ResumeLead,
    decode_command,
)
from domain.errors import Rejected
from domain.events import MessageRejected, Place, Recorded
from domain.messages import (
    MAX_MESSAGE_BYTES,
    IncomingMessage,
    decode_message,
    payload_bytes,
    printable_payload,
)
from domain.operate import refuse
from domain.rejects import RejectRow, RejectsState
from domain.skips import Missing
from domain.snapshots import Snapshots
from domain.tenants import Tenants
from domain.tokens import rejects_stream

#: Things remembered that time makes superfluous, at which they are looked through.
FORGET_AT = 1000


class StopLead(Struct, frozen=True):
    """A lead's code has raised too often."""

    lead_stream: str
    error: str
    stack: str
    failures: int


class RejectsParts(Struct, frozen=True):
    """What the rejects of all partitions share."""

    recording: Recording
    tenants: Tenants
    positions: Recorder
    replies: Replies
    #: `Directory.resumed`, `Directory.still_stopped`, `Directory.tell`.
    resumed: Callable[[str, Sequence[Mail]], None]
    still_stopped: Callable[[str], None]
    tell: Callable[[str, Any], None]
    #: `Directory.answered`: ids of the commands that are answered from here.
    answered: set[str]
    #: (stream, command id) → the event with which a lead has answered it.
    answer_in: Callable[[str, str], Recorded | None]
    #: A recorded position by its name.
    read_position: Callable[[str], int | None]
    on_death: Callable[[str, BaseException], None]


class RejectsActor(RecordingActor):
    """Owns `rejects:<partition>`. Crash-only: if its code raises, the process says why and ends.

    In memory it knows where each open dead letter stands in the stream, and reads it when a command is about it.
    """

    __slots__ = ("_after", "_forget_at", "_fresh", "_partition", "_places", "shared", "state")

    snapshots = Snapshots(RejectsState, rejects.RULES)

    def __init__(self, partition: int, shared: RejectsParts) -> None:
        super().__init__(rejects_stream(partition), shared.recording)
        self.shared = shared
        self.state = RejectsState(self.actor_urn)
        self._places: list[Place] = []
        self._after: list[Callable[[], None]] = []
        #: Version → event of this batch: what is not durable yet cannot be read from the store.
        self._fresh: dict[int, Recorded] = {}
        self._partition = partition
        self._forget_at = FORGET_AT

    def reset(self) -> None:
        self.state = RejectsState(self.actor_urn)
        self._places.clear()
        self._after.clear()
        self._fresh.clear()

    def fold(self, recorded: Recorded) -> None:
        rejects.evolve(self.state, recorded)
        if not recorded.position:
            self._fresh[recorded.version] = recorded
        if rejects.forgettable(self.state) >= self._forget_at:
            self._forget()

    def stopped_leads(self) -> set[str]:
        """Leads of this partition that take no mail until they are resumed."""
        return rejects.stopped_leads(self.state)

    def being_resumed(self) -> set[str]:
        """Leads that were let go by a command which the log will bring again: it may not have been carried out."""
        return {
            lead_stream
            for lead_stream, place in self.state.resumed.items()
            if place.sequence > self._position(place.incarnation)
        }

    def _position(self, incarnation: str) -> int:
        """The entry up to which all of the partition is recorded."""
        return self.shared.read_position(position_name(self._partition, incarnation)) or 0

    def _forget(self) -> None:
        forgotten = rejects.forget(self.state, self._position(self.state.incarnation))
        self.shared.answered.difference_update(forgotten)
        self._forget_at = max(FORGET_AT, 2 * rejects.forgettable(self.state))

    def version(self) -> int:
        return self.state.version

    def kept_state(self) -> RejectsState:
        return self.state

    def restore(self, state: RejectsState) -> None:
        self.state = state

    def remembered(self) -> int:
        return len(self.state.rows) + rejects.forgettable(self.state)

    def handle(self, message: Any, now: datetime) -> None:
        if isinstance(message, Rejection):
            self._reject(message, now)
        elif isinstance(message, StopLead):
            stopped = ev.LeadStopped(message.lead_stream, message.error, message.stack, message.failures)
            self.record(rejects.stop(self.state, stopped), now, Cause())
        elif isinstance(message, Mail) and isinstance(message.command, PersonsCommand):
            self._obey(message, message.command, now)

    def places(self, batch: Sequence[Any]) -> tuple[Place, ...]:
        places, self._places = tuple(self._places), []
        return places

    def report(self, places: Sequence[Place]) -> None:
        if places:
            self.shared.positions.recorded(places)

    def settled(self, batch: Sequence[Any]) -> None:
        self._fresh.clear()
        after, self._after = self._after, []
        for act in after:
            act()

    def on_crash(self, error: BaseException, current: Any) -> None:
        self.shared.on_death(self.actor_urn, error)

    def loaded(self) -> None:
        self.shared.answered.update(self.state.commands)

    def _refuse(self, rejection: Rejection, command: PersonsCommand, now: datetime) -> None:
        """A stopped lead's command: refused for good, also once the lead is resumed [H14]; but for one that the
        lead has answered before."""
        answer = self._answer_to(command)
        if answer is None:
            lead_stream = rejects.lead_stream_of(rejection.subject)
            answer = self.shared.answer_in(lead_stream, command.command_id)
        if answer is None:
            cause = Cause(
                f"in:{rejection.place.sequence}", command.command_id, rejection.trace, rejection.place
            )
            self.record(refuse(command, rejection.reason), now, cause)
            answer = self._fresh[self.state.version]
        self._places.append(rejection.place)
        refused, _ = rejects.answer_of(answer.event)
        self._after.append(lambda: self._answer(command.command_id, command.reply_to, refused, answer.at))

    def _answer_to(self, command: PersonsCommand) -> Recorded | None:
        """The event that answers a command; None where there is none that can be read."""
        version = self.state.commands.get(command.command_id)
        recorded = self._event(version) if version is not None else None
        return None if recorded is None or isinstance(recorded.event, Missing) else recorded

    def _event(self, version: int) -> Recorded:
        recorded = self._fresh.get(version)
        if recorded is None:
            [recorded] = self.parts.load(self.actor_urn, after=version - 1, limit=1)
        return recorded

    def _row(self, dead_letter_id: str) -> RejectRow | None:
        """An open dead letter, by its events; None for one of which they cannot be read any more."""
        held = rejects.find(self.state, dead_letter_id)
        if held is None:
            return None
        rejected = self._event(held.rejected).event
        body = rejected if held.body == held.rejected else self._event(held.body).event
        if not isinstance(rejected, MessageRejected) or isinstance(body, Missing):
            return None
        return rejects.row_of(held, rejected, body)

    def _reject(self, rejection: Rejection, now: datetime) -> None:
        if rejection.command is not None:
            self._refuse(rejection, rejection.command, now)
            return
        event = _rejected(rejection)
        redriven = rejection.redrive_of is not None
        events = rejects.reject(self.state, event, rejection.place, redriven=redriven)
        cause = Cause(f"in:{rejection.place.sequence}", rejection.message_id or "", rejection.trace)
        place = None if redriven else rejection.place
        self.record(events, now, msgspec.structs.replace(cause, place=place))
        if rejection.reports:
            self._places.append(rejection.place)
        asker = rejection.asker
        if asker is not None:
            self._after.append(lambda: self._answer(*asker, rejection.reason, now))

    def _obey(self, mail: Mail, command: PersonsCommand, now: datetime) -> None:
        answer = self._answer_to(command)
        if answer is None and not (isinstance(command, ResumeLead) or rejects.is_about_reject(command)):
            self.shared.answered.discard(command.command_id)  # it is the lead's own after all
            self._after.append(lambda: self.shared.tell(mail.stream, mail))
            return
        if answer is None:
            self.state.commands.pop(command.command_id, None)
            cause = Cause(f"in:{mail.place.sequence}", command.command_id, mail.trace, mail.place)
            self.record(self._decide_on(mail.stream, command), now, cause)
            answer = self._fresh[self.state.version]
        refused, sent_back = rejects.answer_of(answer.event)
        if not sent_back:
            self._places.append(mail.place)  # else the last one that is sent back reports it
        at = answer.at
        self._after.append(lambda: self._carry_out(mail, command, refused, sent_back, at))

    def _decide_on(self, lead_stream: str, command: PersonsCommand) -> Sequence[ev.Event]:
        if isinstance(command, ResumeLead):
            return rejects.resume(self.state, lead_stream, command, self._mail_of(lead_stream))
        row = self._row(getattr(command, "dead_letter_id", ""))
        unreadable = self._why_unreadable(row, command) if row is not None else ""
        return rejects.decide(self.state, lead_stream, command, row, unreadable)

    def _mail_of(self, lead_stream: str) -> list[str]:
        """The dead letters that are kept for a lead, in order; but for those whose bodies cannot be taken any more (a
        business may be another tenant's now), which stay for a person to amend."""
        events = [self._event(version).event for version in self.state.mail.get(lead_stream, ())]
        kept = [event.dead_letter_id for event in events if isinstance(event, MessageRejected)]
        rows = [(dead_letter_id, self._row(dead_letter_id)) for dead_letter_id in kept]
        return [
            dead_letter_id
            for dead_letter_id, row in rows
            if row is not None and self._again(row, dead_letter_id) is not None
        ]

    def _carry_out(
        self, mail: Mail, command: PersonsCommand, refused: str, sent_back: Sequence[str], at: datetime
    ) -> None:
        """Answer, and send back; again where the command came again, since the lead knows what it has."""
        if isinstance(command, ResumeLead) and mail.stream in self.state.stopped:
            self.shared.still_stopped(mail.stream)
            if sent_back:  # it came again, and the lead is stopped again: what it sent back then is kept anew
                self.shared.positions.recorded([mail.place])
        elif isinstance(command, ResumeLead):
            self.shared.resumed(mail.stream, self._redriven(mail, sent_back))
        else:
            for redriven in self._redriven(mail, sent_back):
                self.shared.tell(redriven.stream, redriven)
        self._answer(command.command_id, command.reply_to, refused, at)

    def _answer(self, command_id: str, reply_to: str | None, refused: str, at: datetime) -> None:
        if reply_to is not None:
            outcome = CommandOutcome(command_id, done=not refused, reason=refused, at=at)
            self.shared.replies.publish(reply_to, msgspec.json.encode(outcome))

    def _redriven(self, mail: Mail, sent_back: Sequence[str]) -> list[Mail]:
        """The bodies of these dead letters as mail, in order; the last one reports the command's place."""
        found = [
            (row, command)
            for dead_letter_id in sent_back
            if (row := self._row(dead_letter_id)) is not None
            and (command := self._again(row, dead_letter_id)) is not None
        ]
        if sent_back and not found:
            self.shared.positions.recorded([mail.place])
        last = len(found) - 1
        return [
            Mail(row.lead_stream, mail.place, command, row.trace, n == last)
            for n, (row, command) in enumerate(found)
        ]

    def _again(self, row: RejectRow, dead_letter_id: str) -> ReceiveMessage | RedriveReply | None:
        """What the lead is told; None for a body that cannot be taken any more."""
        if rejects.is_command(row):
            reply = _kept_reply(row)
            return RedriveReply(reply, dead_letter_id) if reply is not None else None
        message = self._read(row)
        return ReceiveMessage(message, dead_letter_id) if isinstance(message, IncomingMessage) else None

    def _why_unreadable(self, row: RejectRow, command: PersonsCommand) -> str:
        """Why the body that the command leaves the row with is no message; empty where it is one."""
        if isinstance(command, AmendDeadLetter):
            message = self._amended(row, command.changes.get("payload"))
        else:
            message = self._read(row)
        if not isinstance(message, IncomingMessage):
            return f"it still cannot be taken: {message}"
        if row.message_id not in (None, message.message_id):
            return f"this is message {row.message_id!r}, and that one {message.message_id!r}: publish it as its own"
        return ""

    def _amended(self, row: RejectRow, payload: Any) -> IncomingMessage | str:
        try:
            return self._decoded(row, payload_bytes(payload if isinstance(payload, str) else ""))
        except Rejected as rejected:
            return rejected.reason

    def _read(self, row: RejectRow) -> IncomingMessage | str:
        """The row's present body as a message, or why it is none."""
        if row.size > MAX_MESSAGE_BYTES:
            return f"only {MAX_MESSAGE_BYTES} of its {row.size} bytes were kept"
        try:
            return self._decoded(row, payload_bytes(row.payload))
        except Rejected as rejected:
            return rejected.reason

    def _decoded(self, row: RejectRow, body: bytes) -> IncomingMessage:
        _, _, business, token = row.subject.split(".", 3)
        return decode_message(body, business, token, self.shared.tenants)


def _kept_reply(row: RejectRow) -> ExpireReply | None:
    """The only command that is kept for a stopped lead."""
    try:
        command = decode_command(payload_bytes(row.payload))
    except Rejected:
        return None
    return command if isinstance(command, ExpireReply) else None


def _rejected(rejection: Rejection) -> MessageRejected:
    """The event of a rejection; a redriven one falls back to the row it came from."""
    business, lead_id = _addressee(rejection.subject)
    return MessageRejected(
        rejection.redrive_of or rejects.reject_id(rejection.place),
        rejection.category,
        rejection.reason,
        rejection.subject,
        printable_payload(rejection.body[:MAX_MESSAGE_BYTES]),
        rejection.size or len(rejection.body),
        lead_id,
        business,
        rejection.message_id,
        rejection.tenant_id,
        rejection.trace,
    )


def _addressee(subject: str) -> tuple[str | None, str | None]:
    """(business id, lead id) of a subject, each None where its token is not canonical."""
    _, _, business, token = subject.split(".", 3)
    return _decoded(business), _decoded(token)


def _decoded(token: str) -> str | None:
    try:
        return tokens.decode(token)
    except tokens.NotATokenError:
        return None
