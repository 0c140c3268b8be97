"""What people may do to a lead's dead letters and tasks, and what they may not yet.

Every command gives an event: what it did, or `CommandRefused` with a reason a person understands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from domain import commands as co
from domain import events as ev
from domain import saga
from domain.commands import PersonsCommand, command_name
from domain.errors import Rejected
from domain.events import CommandRefused, Event
from domain.messages import MAX_MESSAGE_BYTES, check_id, clean
from domain.playbook import Playbook
from domain.work import Work

#: What can be said of a step that a person has to settle.
_AS = "--as done|undone|retry|skip"
AMENDABLE = ("intent", "confidence", "entities", "text", "suggested_response")


#: The command's word → the event's.
_RESOLVED: dict[str | None, Literal["done", "undone", "retried", "skipped"]] = {
    None: "done",
    "done": "done",
    "undone": "undone",
    "retry": "retried",
    "skip": "skipped",
}


class _Amendment(msgspec.Struct):
    """The types that amended fields must have: the wire's own."""

    intent: str = ""
    confidence: float = 0.0
    entities: dict[str, str] = {}
    text: str | None = None
    suggested_response: str | None = None


def decide(
    queue: Sequence[Work],
    letters: Mapping[str, Work],
    tasks: Mapping[str, str],
    command: PersonsCommand,
    playbook: Playbook,
    *,
    now: datetime,
) -> Sequence[Event]:
    """The events of a person's command."""
    match command:
        case co.StartTask() | co.CompleteTask() | co.CancelTask() | co.ReassignTask():
            return _task(tasks, command)
        case co.RetryDeadLetter() | co.AmendDeadLetter() | co.ResolveDeadLetter() | co.DiscardDeadLetter():
            letter = letters.get(command.dead_letter_id)
            if letter is None:
                return _no_letter(queue, command, command.dead_letter_id)
            return _letter(letter, command, playbook, now=now)
        case co.ResumeLead():
            return refuse(command, "this lead is not stopped")
    return refuse(command, "a lead does not know this command")


def refuse(command: PersonsCommand, reason: str) -> Sequence[Event]:
    """The event of a command that is not carried out."""
    return (CommandRefused(command.command_id, command_name(command), command.by, command.why, reason),)


def _letter(
    letter: Work,
    command: co.RetryDeadLetter | co.AmendDeadLetter | co.ResolveDeadLetter | co.DiscardDeadLetter,
    playbook: Playbook,
    *,
    now: datetime,
) -> Sequence[Event]:
    match command:
        case co.RetryDeadLetter():
            return _retry(letter, command)
        case co.AmendDeadLetter():
            return _amend(letter, command)
        case co.ResolveDeadLetter():
            return _resolve(letter, command, playbook, now=now)
        case co.DiscardDeadLetter():
            told = (command.command_id, command.by, command.why)
            return (ev.DeadLetterDiscarded(command.dead_letter_id, letter.message.message_id, *told),)


def _retry(letter: Work, command: co.RetryDeadLetter) -> Sequence[Event]:
    if letter.unsettled:
        return refuse(command, _settle_first(letter))
    told = (command.command_id, command.by, command.why)
    return (ev.DeadLetterRetried(command.dead_letter_id, letter.message.message_id, letter.run + 1, *told),)


def _amend(letter: Work, command: co.AmendDeadLetter) -> Sequence[Event]:
    try:
        changes = amended(command.changes)
    except Rejected as rejected:
        return refuse(command, rejected.reason)
    if letter.unsettled:
        return refuse(command, _settle_first(letter))
    if letter.held_keys:
        return refuse(command, _may_stand(letter))
    before = {name: getattr(letter.message, name) for name in changes}
    return (
        ev.DeadLetterAmended(
            command.dead_letter_id,
            letter.message.message_id,
            changes,
            before,
            command.command_id,
            command.by,
            command.why,
        ),
    )


def amended(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Amended fields by the wire's own rules. Raises `Rejected`."""
    unknown = sorted(clean(name[:64]) for name in set(changes) - set(AMENDABLE))
    if unknown or not changes:
        raise Rejected(f"only {', '.join(AMENDABLE)} can be amended, not {', '.join(unknown) or 'nothing'}")
    try:
        checked = msgspec.convert(dict(changes), _Amendment)
    except msgspec.ValidationError as error:
        raise Rejected(f"wrong field: {clean(str(error))}") from None
    if len(msgspec.json.encode(checked)) > MAX_MESSAGE_BYTES:
        raise Rejected(f"larger than {MAX_MESSAGE_BYTES} bytes")
    if "intent" in changes:
        check_id("intent", checked.intent, 64)
    if not 0 <= checked.confidence <= 1:
        raise Rejected("confidence must be between 0 and 1")
    checked.entities = {clean(k): clean(v) for k, v in checked.entities.items() if v}
    checked.text = clean(checked.text) if checked.text else None
    checked.suggested_response = clean(checked.suggested_response) if checked.suggested_response else None
    return {name: getattr(checked, name) for name in AMENDABLE if name in changes}


def _resolve(
    letter: Work, command: co.ResolveDeadLetter, playbook: Playbook, *, now: datetime
) -> Sequence[Event]:
    if letter.unsettled and command.outcome is None:
        return refuse(command, f"{_open_question(letter)}: say {_AS}")
    outcome = _RESOLVED[command.outcome]
    if outcome in {"retried", "skipped"} and not letter.unsettled:
        return refuse(command, "no step of it is open: dlq retry handles it again, dlq discard leaves it")
    settled: list[Event] = []
    if outcome == "retried":
        requeued = True
    elif outcome == "skipped":
        requeued = letter.unknown is not None
    elif outcome == "done" and letter.unknown is not None:
        planned = letter.plan[letter.unknown]
        settled += saga.executed(letter, planned, playbook, now, settled_by=command.by)
        requeued = letter.unknown + 1 < len(letter.plan)
    elif outcome == "undone":
        for index, n in enumerate(letter.undo_failed):
            before = letter.undo_failed[:index]
            settled += saga.compensated(letter, n, playbook, settled_by=command.by, before=before)
        requeued = letter.unknown is not None and bool(letter.to_undo())
    else:
        requeued = False
    message_id = letter.message.message_id
    told = (command.command_id, command.by, command.why)
    resolved = ev.DeadLetterResolved(command.dead_letter_id, message_id, outcome, *told, requeued)
    return (*settled, resolved)


def _may_stand(letter: Work) -> str:
    """Its next attempt keeps its key, and a receiver that has seen a key takes nothing else for it [H1]."""
    steps = ", ".join(place.partition(".")[2] for place in letter.held_keys)
    return (
        f"an attempt of {steps} may have happened with the message as it is: look there, and say so with"
        " dlq resolve --as undone (it has not, or is undone now) before you amend it, or dlq retry it as it is"
    )


def _settle_first(letter: Work) -> str:
    return f"{_open_question(letter)}; settle it first: dlq resolve {_AS}"


def _open_question(letter: Work) -> str:
    n = letter.unknown
    if n is not None:
        return f"nobody knows whether {saga.step_name(letter.plan[n])} happened"
    failed = ", ".join(saga.step_name(letter.plan[n]) for n in letter.undo_failed)
    return f"the compensation of {failed} failed"


def _no_letter(queue: Sequence[Work], command: PersonsCommand, dead_letter_id: str) -> Sequence[Event]:
    if any(work.dead_letter_id == dead_letter_id for work in queue):
        return refuse(command, "this message is already back at work")
    return refuse(command, "this lead has no open dead letter with this id")


def _task(
    tasks: Mapping[str, str],
    command: co.StartTask | co.CompleteTask | co.CancelTask | co.ReassignTask,
) -> Sequence[Event]:
    status = tasks.get(command.task_id)
    if status is None:
        return refuse(command, "this lead has no open task with this id")
    told = (command.command_id, command.by, command.why)
    match command:
        case co.StartTask():
            if status == "in_progress":
                return refuse(command, "the task is already in progress")
            return (ev.TaskStarted(command.task_id, *told),)
        case co.CompleteTask():
            return (ev.TaskCompleted(command.task_id, *told),)
        case co.CancelTask():
            return (ev.TaskCancelled(command.task_id, *told),)
        case co.ReassignTask():
            return (
                ev.TaskReassigned(command.task_id, command.assigned_to_type, command.assigned_to_id, *told),
            )
