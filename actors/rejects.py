"""What a partition cannot take, kept and sent back: one actor a partition, the writer of `rejects:<partition>`.

It stands on the intake's way (stop 1) for bodies that cannot be read, and in for leads that are stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from actors.protocol import Mail, Recorder, Rejection, Replies
from actors.recording import Cause, Recording, RecordingActor
from domain import events as ev
from domain import rejects, tokens
from domain.commands import AmendDeadLetter, CommandOutcome, PersonsCommand, ReceiveMessage, ResumeLead
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
from domain.snapshots import Snapshots
from domain.tenants import Tenants
from domain.tokens import rejects_stream


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
    on_death: Callable[[str, BaseException], None]


class RejectsActor(RecordingActor):
    """Owns `rejects:<partition>`. Crash-only: if its code raises, the process says why and ends."""

    __slots__ = ("_after", "_fresh", "_places", "shared", "state")

    snapshots = Snapshots(RejectsState, rejects.RULES)

    def __init__(self, partition: int, shared: RejectsParts) -> None:
        super().__init__(rejects_stream(partition), shared.recording)
        self.shared = shared
        self.state = RejectsState(self.actor_urn)
        self._places: list[Place] = []
        self._after: list[Callable[[], None]] = []
        #: Version → body of the events of this batch: what is not durable yet cannot be read from the store.
        self._fresh: dict[int, str] = {}

    def reset(self) -> None:
        self.state = RejectsState(self.actor_urn)
        self._places.clear()
        self._after.clear()
        self._fresh.clear()

    def fold(self, recorded: Recorded) -> None:
        rejects.evolve(self.state, recorded)
        if not recorded.position:
            payload = _payload_of(recorded.event)
            if payload is not None:
                self._fresh[recorded.version] = payload

    def version(self) -> int:
        return self.state.version

    def kept_state(self) -> RejectsState:
        return self.state

    def restore(self, state: RejectsState) -> None:
        self.state = state

    def remembered(self) -> int:
        return len(self.state.rows) + len(self.state.sequences) + len(self.state.commands)

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
        """A stopped lead's command: refused for good, also once the lead is resumed [H14]."""
        if command.command_id not in self.state.commands:
            cause = Cause(
                f"in:{rejection.place.sequence}", command.command_id, rejection.trace, rejection.place
            )
            self.record(refuse(command, rejection.reason), now, cause)
        self._places.append(rejection.place)
        refused, _ = self.state.commands[command.command_id]
        self._after.append(lambda: self._answer(command.command_id, command.reply_to, refused, now))

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
        known = command.command_id in self.state.commands
        if not known:
            unreadable = self._why_unreadable(command)
            events = rejects.decide(self.state, mail.stream, command, unreadable)
            cause = Cause(f"in:{mail.place.sequence}", command.command_id, mail.trace, mail.place)
            self.record(events, now, cause)
        refused, sent_back = self.state.commands[command.command_id]
        if not sent_back:
            self._places.append(mail.place)  # else the last one that is sent back reports it
        self._after.append(lambda: self._carry_out(mail, command, refused, sent_back, now))

    def _carry_out(
        self, mail: Mail, command: PersonsCommand, refused: str, sent_back: Sequence[str], now: datetime
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
        self._answer(command.command_id, command.reply_to, refused, now)

    def _answer(self, command_id: str, reply_to: str | None, refused: str, now: datetime) -> None:
        if reply_to is not None:
            outcome = CommandOutcome(command_id, done=not refused, reason=refused, at=now)
            self.shared.replies.publish(reply_to, msgspec.json.encode(outcome))

    def _redriven(self, mail: Mail, sent_back: Sequence[str]) -> list[Mail]:
        """The bodies of these dead letters as mail, in order; the last one reports the command's place."""
        messages = [
            (row, message, dead_letter_id)
            for dead_letter_id in sent_back
            if (row := self.state.rows.get(dead_letter_id)) is not None
            and isinstance(message := self._read(row), IncomingMessage)
        ]
        if sent_back and not messages:
            self.shared.positions.recorded([mail.place])
        last = len(messages) - 1
        return [
            Mail(row.lead_stream, mail.place, ReceiveMessage(message, redrive_of), row.trace, n == last)
            for n, (row, message, redrive_of) in enumerate(messages)
        ]

    def _why_unreadable(self, command: PersonsCommand) -> str:
        """Why the body that the command leaves the row with is no message; empty where it is one."""
        row = self.state.rows.get(getattr(command, "dead_letter_id", ""))
        if row is None:
            return ""
        if isinstance(command, AmendDeadLetter):
            message = self._amended(row, command.changes.get("payload"))
        else:
            message = self._read(row)
        return "" if isinstance(message, IncomingMessage) else f"it still cannot be taken: {message}"

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
            return self._decoded(row, self._body(row))
        except Rejected as rejected:
            return rejected.reason

    def _decoded(self, row: RejectRow, body: bytes) -> IncomingMessage:
        _, _, business, token = row.subject.split(".", 3)
        return decode_message(body, business, token, self.shared.tenants)

    def _body(self, row: RejectRow) -> bytes:
        payload = self._fresh.get(row.version)
        if payload is None:
            [held] = self.parts.load(self.actor_urn, after=row.version - 1, limit=1)
            payload = _payload_of(held.event) or ""
        return payload_bytes(payload)


def _payload_of(event: ev.Event) -> str | None:
    """The body that an event holds, as it is kept; None of one that holds none."""
    if isinstance(event, MessageRejected):
        return event.payload
    return str(event.changes["payload"]) if isinstance(event, ev.DeadLetterAmended) else None


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
