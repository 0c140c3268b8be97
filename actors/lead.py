"""Stop 3 of 7: one lead's actor. Receives its mail, asks the domain what follows, has it recorded, then acts.

What may not live here: rules (`domain/lead.py`), and any reference to another actor: all it tells goes to
an id. It never blocks but for reading its own events when it wakes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from actors.protocol import Mail, Recorder, Replies, Wake
from actors.recording import Cause, Recording, RecordingActor
from actors.turns import Waiting
from domain import lead, turns
from domain.commands import (
    Command,
    CommandOutcome,
    EndWait,
    InterruptAction,
    PersonsCommand,
    ReceiveMessage,
    RecordOutcome,
    RedriveReply,
)
from domain.events import ActionStarted, Event, Place, Recorded
from domain.lead import LeadState
from domain.outcomes import NotCalled
from domain.playbook import Playbook
from domain.ports import ActionCall
from domain.snapshots import Snapshots


class Calls(Protocol):
    """The way to the breakers' supervisors."""

    def ask(self, target: str, asker: Waiting) -> NotCalled | None:
        """Whether a call that needs a turn may be recorded as started: None, or why it has to wait. A turn that is
        given is kept until `begin` or `give_back`. Any thread; returns at once."""
        ...

    def give_back(self, key: str) -> None:
        """The call with this key does not come, whether a turn is kept for it or not."""
        ...

    def begin(self, call: ActionCall) -> None:
        """Make the call, once, and tell its lead `RecordOutcome`. Any thread; returns at once."""
        ...

    def in_flight(self, key: str) -> bool:
        """Whether a call with this key is at work, or its outcome not yet told."""
        ...


class LeadParts(Struct, frozen=True):
    """What all lead actors share."""

    recording: Recording
    playbook: Playbook
    calls: Calls
    #: Address, message, seconds.
    arm: Callable[[str, Any, float], None]
    positions: Recorder
    replies: Replies
    #: Told of a lead that is going to read its events, before any of its mail can be seen.
    woken: Callable[[str], None]
    #: Told once a lead has recorded something: failures before are forgiven.
    recovered: Callable[[str], None]
    #: The lead's code raised: error, and all that is not recorded, in order.
    crashed: Callable[[LeadActor, BaseException, Any], None]


class LeadActor(RecordingActor):
    """Owns `lead:<business>:<token>`. When a told message raises, the directory replaces it (`crashed`)."""

    __slots__ = ("_armed", "_contested", "_found", "_issued", "_state", "_turn", "shared", "unused")

    snapshots = Snapshots(LeadState, lead.RULES)

    def __init__(self, stream: str, shared: LeadParts) -> None:
        super().__init__(stream, shared.recording)
        self.shared = shared
        #: Sweeps of the directory since this lead had mail.
        self.unused = 0
        self._state = LeadState(stream)
        #: (key, attempt) of the call that this actor has sent off or knows to be at work.
        self._issued: tuple[str, int] | None = None
        #: Its waiting twin: the wait that a timer is armed for.
        self._armed: tuple[str, int] | None = None
        #: The call that was found started in the events: made by an actor before this one.
        self._found: tuple[str, int] | None = None
        #: Key of the call that a turn is kept for while its start is recorded.
        self._turn: str | None = None
        #: Another process has written this stream while this actor lived: what it started is its own.
        self._contested = False

    def reset(self) -> None:
        self._give_back()
        self._state = LeadState(self.actor_urn)
        self._issued = self._armed = self._found = None

    def loaded(self) -> None:
        step = self._state.queue[0].step if self._state.queue else None
        if step is not None and step.state == "started":
            self._found = (step.key, step.attempt)

    def fold(self, recorded: Recorded) -> None:
        lead.evolve(self._state, recorded)

    def version(self) -> int:
        return self._state.version

    def kept_state(self) -> LeadState:
        return self._state

    def restore(self, state: LeadState) -> None:
        self._state = state

    def remembered(self) -> int:
        state = self._state
        return len(state.seen) + len(state.tasks) + len(state.letters) + len(state.queue)

    def handle(self, message: Any, now: datetime) -> None:
        """One message: its events, and what follows from the state then."""
        self.unused = 0
        if type(message) is Mail:
            self._decide_command(message.command, now, _cause_of(message))
        elif type(message) is RecordOutcome:
            self._came_back((message.key, message.attempt))
            self._decide_command(message, now, self._cause_of_work())
        elif isinstance(message, Command):
            self._decide_command(message, now, self._cause_of_work())
            if type(message) is EndWait:
                self._wait_ended(message)
        elif type(message) is Wake and (over := turns.out_of_turn(self._state)) is not None:
            self._decide_command(over, now, self._cause_of_work())

    def _came_back(self, answered: tuple[str, int]) -> None:
        """That call is over, and no other: one that was held back is begun again as the same attempt, maybe
        in this very batch, and one that is found started stays so, whatever an earlier attempt led to."""
        if self._found == answered:
            self._found = None
        if self._issued == answered:
            self._issued = None

    def _wait_ended(self, wait: EndWait) -> None:
        """Where the call still waits, its timer is armed anew; where it needs no turn now, another may have it."""
        self._armed = None
        if self._turn != wait.key:
            self.shared.calls.give_back(wait.key)

    def _decide_command(self, command: Command | PersonsCommand, now: datetime, because: Cause) -> None:
        shared, state = self.shared, self._state
        events = lead.decide(state, command, shared.playbook, now=now, place=because.place)
        if events:
            self.record(self._in_turn(events, now), now, because)
        current = None
        while state.queue and (follow := lead.follow(state, shared.playbook, now)):
            if current is not state.queue[0]:
                current, because = state.queue[0], self._cause_of_work()
            self.record(self._in_turn(follow, now), now, because)

    def _in_turn(self, events: Sequence[Event], now: datetime) -> Sequence[Event]:
        """These events; in the place of a start that needs a turn and has none, that it waits."""
        if type(events[0]) is not ActionStarted:
            return events
        begun = turns.asked_by(self._state, events)
        if begun is None:
            return events
        asker = Waiting(begun.key, self.actor_urn, begun.attempt - 1)
        refusal = self.shared.calls.ask(begun.target, asker)
        if refusal is not None:
            return turns.turned_away(self._state, begun, refusal, self.shared.playbook, now)
        self._turn = begun.key
        return events

    def _give_back(self) -> None:
        """Its call does not come."""
        if self._turn is not None:
            self.shared.calls.give_back(self._turn)
            self._turn = None

    def _cause_of_work(self) -> Cause:
        """What follows in a message's saga was caused by its receipt."""
        if not self._state.queue:
            return Cause()
        work = self._state.queue[0]
        return Cause(work.cause, work.message.message_id, work.trace)

    def places(self, batch: Sequence[Any]) -> tuple[Place, ...]:
        return tuple([m.place for m in batch if type(m) is Mail and m.reports])

    def report(self, places: Sequence[Place]) -> None:
        if places:
            self.shared.positions.recorded(places)

    def settled(self, batch: Sequence[Any]) -> None:
        """The batch is durable: answer who asked, and do what is due."""
        for message in batch:
            if type(message) is Mail and (given := _given(message)) is not None:
                self._answer(given)
        self._act()
        self.shared.recovered(self.actor_urn)

    def _act(self) -> None:
        step = lead.next_step(self._state, self.parts.clock.now())
        if step is None:
            return
        this = (step.key, step.attempt)
        if isinstance(step, ActionCall):
            if self._issued != this:
                self._call(step, this)
        elif self._armed != this:
            self._armed, self._issued = this, None
            self.shared.arm(self.actor_urn, EndWait(*this), step.delay.total_seconds())

    def _call(self, call: ActionCall, this: tuple[str, int]) -> None:
        """Make a call that this actor has recorded; find out about one that it has found recorded.

        A found one that is in flight will be answered. One that is not may have its outcome in the box
        already: only where nothing is there either is it interrupted [H3, H4]. One that another process
        has started since this actor lives is that one's to end: two would interrupt each other [H25].
        """
        if this != self._found:
            self._issued, self._armed, self._turn = this, None, None
            self.shared.calls.begin(call)
        elif not (self._contested or self.shared.calls.in_flight(call.key) or self._has_mail()):
            self.waiting.append(InterruptAction(*this))

    def _has_mail(self) -> bool:
        return bool(self.waiting) or not self.actor_inbox.empty()

    def conflicted(self, batch: Sequence[Any]) -> Sequence[Any]:
        self._contested = True
        return batch

    def _answer(self, command: PersonsCommand) -> None:
        """Also for a command that came again: the answer is in the record [H14]."""
        if command.reply_to is None or command.command_id not in self._state.commands:
            return
        reason, at = self._state.commands[command.command_id]
        outcome = CommandOutcome(command.command_id, done=not reason, reason=reason, at=at)
        self.shared.replies.publish(command.reply_to, msgspec.json.encode(outcome))

    def on_crash(self, error: BaseException, current: Any) -> None:
        self._give_back()
        self.shared.crashed(self, error, current)


def _given(mail: Mail) -> PersonsCommand | None:
    """The command that the mail is; None for a message."""
    command = mail.command
    if isinstance(command, ReceiveMessage):
        return None
    return command.reply if isinstance(command, RedriveReply) else command


def _cause_of(mail: Mail) -> Cause:
    command = mail.command
    if isinstance(command, ReceiveMessage):
        correlation = command.message.message_id
    else:
        correlation = command.reply.command_id if isinstance(command, RedriveReply) else command.command_id
    return Cause(f"in:{mail.place.sequence}", correlation, mail.trace, mail.place)
