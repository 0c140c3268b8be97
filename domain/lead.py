"""A lead: its queue of messages, what it has seen, and what follows.

`decide(state, command) → events` refuses or accepts; `follow(state) → events` is what state alone leads
to; `evolve(state, recorded)` applies what happened and never raises; `next_step(state)` is the call or
wait that is due. The state belongs to one actor and is evolved in place: a writer whose append did not
become durable throws it away and reads its events again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct, field

from domain import events as ev
from domain import operate, replies, saga, work
from domain.commands import (
    Command,
    EndWait,
    ExpireReply,
    InterruptAction,
    PersonsCommand,
    ReceiveMessage,
    RecordOutcome,
    RedriveReply,
)
from domain.events import Event, MessageReceived, Place, Recorded
from domain.playbook import Playbook
from domain.ports import ActionCall
from domain.tokens import encode
from domain.work import Work

#: What ends the step at work.
_ANSWERS = frozenset((RecordOutcome, InterruptAction, EndWait))
#: How long a message id is remembered: WhatsApp redelivers for up to 7 days; promised are 8.
REMEMBERED = timedelta(days=8, hours=1)
#: Raised with each change of what `evolve` makes of an event: snapshots of other rules are not read.
RULES = 3


class LeadState(Struct):
    """Everything that is known of a lead. `queue[0]` is at work; `letters` are dead-lettered, by id."""

    stream: str
    version: int = 0
    incarnation: str = ""
    sequence: int = 0
    queue: list[Work] = field(default_factory=list)
    letters: dict[str, Work] = field(default_factory=dict)
    #: message id → when it was recorded, oldest first; cut by that time, not by what a message says [H23].
    seen: dict[str, datetime] = field(default_factory=dict)
    #: command id → "" where it was carried out, else why it was refused; and when.
    commands: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    #: The dead letter that the others of the queue wait behind, in letters or back at the head of the queue.
    holder: str | None = None
    redriven: dict[str, datetime] = field(default_factory=dict)
    #: Open tasks: id → status.
    tasks: dict[str, str] = field(default_factory=dict)
    #: What the lead's idempotency keys begin with, `<business>/<lead token>`.
    base_key: str = ""
    #: Ids have been forgotten: one that is not known may have been here before, so keys say which life it is.
    forgot: bool = False

    def __post_init__(self) -> None:
        self.base_key = "/".join(self.stream.split(":", 2)[1:])


class Wait(Struct, frozen=True):
    """The lead is to be told `EndWait(key, attempt)` in `delay` from now."""

    key: str
    attempt: int
    delay: timedelta


def decide(
    state: LeadState,
    command: Command | PersonsCommand,
    playbook: Playbook,
    *,
    now: datetime,
    place: Place | None = None,
) -> Sequence[Event]:
    """The events that a command makes of this state; none where it is known already or meant for nobody."""
    if isinstance(command, ReceiveMessage):
        return _receive(state, command, place, now)
    if type(command) in _ANSWERS:  # exactly: an `isinstance` that does not hold takes longer than the rest
        return _answer(state, command, playbook, now)
    if isinstance(command, PersonsCommand):
        if command.command_id in state.commands or _is_recorded(state, place):
            return ()
        if isinstance(command, ExpireReply):
            known = (command.message_id,) if state.forgot else state.seen
            return replies.expire(state.base_key, command, playbook, known=known, now=now)
        events = operate.decide(state.queue, state.letters, state.tasks, command, playbook, now=now)
        return events if state.holder is None else [_behind(state.holder, event) for event in events]
    if isinstance(command, RedriveReply):
        events, taken = decide(state, command.reply, playbook, now=now), replies.taken(command, place)
        return events if taken.command_id in state.commands else (*events, taken)
    return ()


def follow(state: LeadState, playbook: Playbook, now: datetime) -> Sequence[Event]:
    """What follows from the state alone: the next facts of the message at the head of the queue."""
    if not state.queue or (state.holder is not None and is_held(state)):
        return ()
    return saga.advance(state.queue[0], playbook, now)


def is_held(state: LeadState) -> bool:
    """Whether the head of the queue waits behind a dead letter."""
    return state.holder is not None and bool(state.queue) and state.queue[0].dead_letter_id != state.holder


def evolve(state: LeadState, recorded: Recorded) -> LeadState:
    """The state after an event, in place. Total: what happened, happened."""
    state.version = recorded.version
    event: Any = recorded.event
    if recorded.place is not None:
        _take_place(state, recorded.place)
    change, apply, commanded = _EFFECTS.get(type(event), _NO_EFFECT)
    if change is not None and (current := _work_of(state, event.message_id)) is not None:
        change(current, event, recorded)
    if apply is not None:
        apply(state, event, recorded)
    if commanded:
        _answered(state, event, recorded)
    return state


def next_step(state: LeadState, now: datetime) -> ActionCall | Wait | None:
    """The call that is started, or the wait that is recorded; nothing for a lead at rest."""
    if not state.queue or state.queue[0].step is None:
        return None
    current = state.queue[0]
    step = current.step
    assert step is not None  # narrowed above; mypy cannot see through the attribute
    if step.state == "deferred":
        until = step.until or now
        delay = max(timedelta(), min(until - now, step.planned_wait))
        return Wait(step.key, step.attempt, delay)
    planned = current.plan[step.n]
    _, remote = current.done.get(step.n, (None, {}))
    task = current.task_of(step.n) if step.undo else None
    return ActionCall(
        state.stream,
        step.key,
        step.attempt,
        planned.action,
        planned.target or "",
        current.message,
        current.response,
        step.undo,
        task,
        remote,
        current.trace,
        current.received,
    )


def _receive(
    state: LeadState, command: ReceiveMessage, place: Place | None, now: datetime
) -> Sequence[Event]:
    message = command.message
    if command.redrive_of is not None:
        if command.redrive_of in state.redriven:
            return ()
    elif _is_recorded(state, place):
        return ()
    if _is_known(state, message.message_id, now):
        return (ev.DuplicateDetected(message.message_id, command.redrive_of),)
    key = f"{state.base_key}/{encode(message.message_id)}"
    if place is not None and (state.forgot or message.message_id in state.seen):
        key = f"{key}@{place.sequence}"
    ai = message.ai
    return (
        MessageReceived(
            message_id=message.message_id,
            key=key,
            lead_id=message.lead_id,
            business_id=message.business_id,
            tenant_id=message.tenant_id,
            intent=message.intent,
            confidence=message.confidence,
            payload=message.payload,
            entities=message.entities,
            text=message.text,
            suggested_response=message.suggested_response,
            received_at=message.received_at,
            ai_model=ai.model if ai else None,
            ai_latency_ms=ai.latency_ms if ai else None,
            redrive_of=command.redrive_of,
            behind=state.holder,
        ),
    )


def _behind(holder: str, event: Event) -> Event:
    """What goes back to work while a dead letter holds the others waits with them."""
    back = isinstance(event, ev.DeadLetterRetried) or (
        isinstance(event, ev.DeadLetterResolved) and event.requeued
    )
    if back and event.dead_letter_id != holder:  # type: ignore[attr-defined]  # of those two kinds
        return msgspec.structs.replace(event, behind=holder)
    return event


def _is_recorded(state: LeadState, place: Place | None) -> bool:
    """Whether this entry of the log has been taken already: only comparable within one incarnation [H6]."""
    return place is not None and place.incarnation == state.incarnation and place.sequence <= state.sequence


def _is_known(state: LeadState, message_id: str, now: datetime) -> bool:
    """Whether a message id has taken effect, or is about to."""
    seen = state.seen.get(message_id)
    if seen is None and not state.forgot:
        return False
    if seen is not None and now - seen <= REMEMBERED:
        return True
    if any(w.message.message_id == message_id for w in state.queue):
        return True
    return any(w.message.message_id == message_id and not w.resolved for w in state.letters.values())


def _answer(state: LeadState, command: Any, playbook: Playbook, now: datetime) -> Sequence[Event]:
    """What the end of a step's call or wait leads to; nothing for an answer that nobody awaits [H4]."""
    current = state.queue[0] if state.queue else None
    step = current.step if current is not None else None
    if current is None or step is None or step.key != command.key or step.attempt != command.attempt:
        return ()
    if step.state == "deferred":
        return saga.wait_is_over(current, now) if type(command) is EndWait else ()
    if type(command) is RecordOutcome:
        return saga.outcome(current, command.outcome, playbook, now)
    return saga.interrupted(current) if type(command) is InterruptAction else ()


def _answered(state: LeadState, event: Any, recorded: Recorded) -> None:
    refused = event.reason if isinstance(event, ev.CommandRefused) else ""
    state.commands[event.command_id] = (refused, recorded.at)


def _take_place(state: LeadState, place: Place) -> None:
    if place.incarnation != state.incarnation:
        state.incarnation = place.incarnation
        state.sequence = place.sequence
    elif place.sequence > state.sequence:
        state.sequence = place.sequence


def _work_of(state: LeadState, message_id: str | None) -> Work | None:
    for current in state.queue:
        if current.message.message_id == message_id:
            return current
    for letter in state.letters.values():
        if letter.message.message_id == message_id:
            return letter
    return None


def _received(state: LeadState, event: MessageReceived, recorded: Recorded) -> None:
    arrived = Work(event, recorded.at, event.key, recorded.trace, recorded.event_id)
    state.queue.append(arrived)
    if state.letters:
        state.letters.pop(arrived.dead_letter_id, None)  # a second life takes over the row [H23]
    state.seen.pop(event.message_id, None)
    _forget(state, recorded.at)
    state.seen[event.message_id] = recorded.at
    if event.redrive_of is not None:
        state.redriven[event.redrive_of] = recorded.at


def _forget(state: LeadState, at: datetime) -> None:
    """Drop what was recorded too long ago to be promised. Insertion order is recording order."""
    horizon = at - REMEMBERED
    for memory in (state.seen, state.redriven):
        while memory:
            oldest = next(iter(memory))
            if memory[oldest] >= horizon:
                break
            del memory[oldest]
            state.forgot = True
    while state.commands:
        oldest = next(iter(state.commands))
        if state.commands[oldest][1] >= horizon:
            break
        del state.commands[oldest]


def _duplicate(state: LeadState, event: ev.DuplicateDetected, recorded: Recorded) -> None:
    if event.redrive_of is not None:
        state.redriven[event.redrive_of] = recorded.at


def _task_made(state: LeadState, event: ev.ActionExecuted | ev.ReplyExpired, _: Recorded) -> None:
    state.tasks[event.task.task_id] = "pending"


def _compensated(state: LeadState, event: ev.ActionCompensated, _: Recorded) -> None:
    state.tasks.pop(event.task_id, None)


def _task_started(state: LeadState, event: ev.TaskStarted, _: Recorded) -> None:
    state.tasks[event.task_id] = "in_progress"


def _task_ended(state: LeadState, event: ev.TaskCompleted | ev.TaskCancelled, _: Recorded) -> None:
    state.tasks.pop(event.task_id, None)


def _leave_queue(state: LeadState, message_id: str) -> Work | None:
    for index, current in enumerate(state.queue):
        if current.message.message_id == message_id:
            return state.queue.pop(index)
    return None


def _completed(state: LeadState, event: ev.MessageCompleted, _: Recorded) -> None:
    done = _leave_queue(state, event.message_id)
    if state.holder is not None and done is not None:
        _lets_go(state, done.dead_letter_id)


def _dead_lettered(state: LeadState, event: ev.MessageDeadLettered, _: Recorded) -> None:
    done = _leave_queue(state, event.message_id)
    if done is not None:
        state.letters[event.dead_letter_id] = done
    if event.parks:
        state.holder = event.dead_letter_id
    else:
        _lets_go(state, event.dead_letter_id)


def _lets_go(state: LeadState, dead_letter_id: str) -> None:
    if state.holder == dead_letter_id:
        state.holder = None


def _back_to_work(state: LeadState, dead_letter_id: str) -> None:
    """To the end of the queue; one that holds the others goes before them."""
    letter = state.letters.pop(dead_letter_id, None)
    if letter is None:
        return
    if state.holder == dead_letter_id:
        state.queue.insert(0, letter)
    else:
        state.queue.append(letter)


def _requeue(state: LeadState, event: ev.DeadLetterRetried, _: Recorded) -> None:
    _back_to_work(state, event.dead_letter_id)


def _resolved(state: LeadState, event: ev.DeadLetterResolved, _: Recorded) -> None:
    if event.requeued:
        _back_to_work(state, event.dead_letter_id)
        return
    _lets_go(state, event.dead_letter_id)
    if event.outcome != "undone":
        state.letters.pop(event.dead_letter_id, None)


def _discarded(state: LeadState, event: ev.DeadLetterDiscarded, _: Recorded) -> None:
    state.letters.pop(event.dead_letter_id, None)
    _lets_go(state, event.dead_letter_id)


_APPLY: dict[type[Event], Callable[[LeadState, Any, Recorded], None]] = {
    MessageReceived: _received,
    ev.DuplicateDetected: _duplicate,
    ev.ActionExecuted: _task_made,
    ev.ActionCompensated: _compensated,
    ev.ReplyExpired: _task_made,
    ev.TaskStarted: _task_started,
    ev.TaskCompleted: _task_ended,
    ev.TaskCancelled: _task_ended,
    ev.MessageCompleted: _completed,
    ev.MessageDeadLettered: _dead_lettered,
    ev.DeadLetterRetried: _requeue,
    ev.DeadLetterResolved: _resolved,
    ev.DeadLetterDiscarded: _discarded,
}

_NO_EFFECT = (None, None, False)
#: Event → what it changes of its message's work, what of the lead, and whether a person's command left it.
_EFFECTS = {
    kind: (work.CHANGES.get(kind), _APPLY.get(kind), "command_id" in kind.__struct_fields__)
    for kind in ev.STORED_NAMES
}
