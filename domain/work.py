"""One message while anybody needs to know of it: its plan, what of it is done, undone, waiting or unknown.

State only: `CHANGES` applies what happened. The rules are in `domain/saga.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from domain import events as ev
from domain.events import Category, DeferReason, Event, MessageReceived, PlannedAction, Recorded, Task
from domain.tokens import derived_id

#: queued: planned next; settling: its outcome is unknown, dead-lettered next; parked: a person decides.
Phase = Literal["queued", "acting", "compensating", "settling", "parked"]


class Step(Struct):
    """The call at work: begun (`started`) or waiting (`deferred`)."""

    n: int
    key: str
    undo: bool
    #: Calls begun, the current one included.
    attempt: int
    state: Literal["started", "deferred"]
    until: datetime | None = None
    deadline: datetime | None = None
    #: How long the wait was planned for, whatever the clock does meanwhile [H16].
    planned_wait: timedelta = timedelta()
    reason: DeferReason = "retry"
    #: One attempt at least may have happened.
    maybe_done: bool = False
    #: Attempts that ended with the process: no failures of the target.
    interrupted: int = 0
    #: Attempts that the target put off (429): no failures either.
    throttled: int = 0

    @property
    def answered(self) -> int:
        """Attempts that count against the retries."""
        return self.attempt - self.interrupted - self.throttled


class Failure(Struct, frozen=True):
    """Why the message goes to the dead letter queue."""

    category: Category
    error: str
    stack: str | None = None


class Work(Struct):
    """A message from its receipt until nobody needs to know of it any more. Owned by its lead's state."""

    message: MessageReceived
    received: datetime
    base_key: str
    trace: str = ""
    cause: str = ""
    phase: Phase = "queued"
    run: int = 1
    #: Number in the keys of this run; stays what it was until a run is to have keys of its own.
    key_run: int = 1
    #: The next run has keys of its own: it asks for something else, or what was asked for stands no more.
    new_keys: bool = False
    plan: tuple[PlannedAction, ...] = ()
    escalate: bool = False
    response: str = ""
    next: int = 0
    step: Step | None = None
    #: n → what was done: its task (of an action's last step), and the ids the target gave.
    done: dict[int, tuple[Task | None, dict[str, str]]] = field(default_factory=dict)
    undone: list[int] = field(default_factory=list)
    undo_failed: list[int] = field(default_factory=list)
    #: The step of which nobody knows whether it happened.
    unknown: int | None = None
    failure: Failure | None = None
    #: `<n>.<action>` → key of a failed step that may have happened.
    held_keys: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    first_call: datetime | None = None
    last_call: datetime | None = None
    #: What `last_call` was before: a call that was held back was none.
    call_before: datetime | None = None
    #: The last call has been answered, so it was made: an attempt may be given back, and the call still counts.
    answered: bool = False
    resolved: bool = False
    was_dead_letter: bool = False

    @property
    def dead_letter_id(self) -> str:
        """The same over all runs and lives of the message id: one row of the queue."""
        return derived_id(self.base_key.partition("@")[0])

    @property
    def unsettled(self) -> bool:
        """A person has to say first what happened."""
        return self.unknown is not None or bool(self.undo_failed)

    def task_of(self, n: int) -> Task | None:
        """The task of a step's action; None until all its steps are done."""
        task, _ = self.done.get(self.plan[n].last, (None, {}))
        return task

    def to_undo(self) -> list[int]:
        """Steps that stand, in the order of their compensation."""
        return [n for n in reversed(self.done) if n not in self.undone and n not in self.undo_failed]


def _planned(work: Work, event: ev.ActionsPlanned, _: Recorded) -> None:
    work.phase = "acting"
    work.plan = event.actions
    work.escalate = event.escalate
    work.response = event.response
    work.next = 0


def _started(work: Work, event: ev.ActionStarted, recorded: Recorded) -> None:
    work.calls += 1
    work.first_call = work.first_call or recorded.at
    work.call_before = work.last_call
    work.last_call = recorded.at
    work.answered = False
    before = work.step
    if before is None or before.key != event.key:
        work.step = Step(event.n, event.key, event.undo, event.attempt, "started")
        return
    before.state = "started"
    before.attempt = event.attempt


def _executed(work: Work, event: ev.ActionExecuted, _: Recorded) -> None:
    _is_done(work, event.n, event.task, event.remote)


def _step_executed(work: Work, event: ev.StepExecuted, _: Recorded) -> None:
    _is_done(work, event.n, None, event.remote)


def _is_done(work: Work, n: int, task: Task | None, remote: dict[str, str]) -> None:
    work.done[n] = (task, remote)
    work.next = n + 1
    work.step = None
    if work.unknown == n:
        work.unknown = None


def _attempt_failed(work: Work, event: ev.ActionAttemptFailed, _: Recorded) -> None:
    work.answered = True
    if work.step is None:
        return
    if event.kind == "unknown":
        work.step.maybe_done = True
    elif event.kind == "throttled":
        work.step.throttled += 1


def _interrupted(work: Work, _event: ev.ActionInterrupted, _: Recorded) -> None:
    if work.step is not None:
        work.step.maybe_done = True
        work.step.interrupted += 1


def _deferred(work: Work, event: ev.ActionDeferred, recorded: Recorded) -> None:
    step = work.step
    if step is None or step.key != event.key:
        step = work.step = Step(event.n, event.key, event.undo, 0, "deferred")
    step.state = "deferred"
    step.reason = event.reason
    step.until = event.until
    step.deadline = event.deadline
    step.planned_wait = max(timedelta(), event.until - recorded.at)
    if not event.returned_attempt:
        return
    step.attempt -= 1
    if not work.answered:
        work.calls -= 1
        work.last_call = work.call_before
        work.first_call = work.first_call if work.calls else None


def _failed(work: Work, event: ev.ActionFailed, _: Recorded) -> None:
    work.step = None
    work.failure = Failure(event.category, event.error)
    if event.category == "outcome_unknown":
        work.unknown = event.n
        work.phase = "settling"
        return
    work.phase = "compensating"
    if event.maybe_done:
        work.held_keys[f"{event.n}.{event.action}"] = event.key


def _compensated(work: Work, event: ev.ActionCompensated | ev.StepCompensated, _: Recorded) -> None:
    work.step = None
    work.undone.append(event.n)
    work.held_keys.pop(f"{event.n}.{event.action}", None)  # its target has seen that key done and undone
    if event.n in work.undo_failed:
        work.undo_failed.remove(event.n)


def _compensation_failed(work: Work, event: ev.CompensationFailed, _: Recorded) -> None:
    work.step = None
    work.undo_failed.append(event.n)
    before = work.failure.error if work.failure else ""
    error = f"{before}; compensation of {event.action} failed: {event.error}"
    work.failure = Failure("compensation_failed", error)


def _dead_lettered(work: Work, event: ev.MessageDeadLettered, _: Recorded) -> None:
    work.phase = "parked"
    work.was_dead_letter = True
    work.resolved = event.settled  # settled as undone, and then its compensation failed: open again
    work.step = None
    work.failure = work.failure or Failure(event.category, event.error)


def _retried(work: Work, event: ev.DeadLetterRetried, _: Recorded) -> None:
    """A new run: planned anew, under new keys where something was compensated, or the message is another one."""
    if work.undone or work.new_keys:
        work.key_run = event.run
        work.new_keys = False
    work.phase = "queued"
    work.run = event.run
    work.plan = ()
    work.next = 0
    work.done = {}
    work.undone = []
    work.failure = None
    work.resolved = False


def _amended(work: Work, event: ev.DeadLetterAmended, _: Recorded) -> None:
    fields = MessageReceived.__struct_fields__
    changes = {name: value for name, value in event.changes.items() if name in fields}
    work.message = msgspec.structs.replace(work.message, **changes)
    work.new_keys = True


def _resolved(work: Work, event: ev.DeadLetterResolved, _: Recorded) -> None:
    unknown, work.unknown = work.unknown, None
    work.resolved = event.outcome == "undone"
    if work.resolved and not event.requeued:
        _stands_no_more(work, unknown, event.by)
    if event.outcome == "retried":
        _tries_again(work, unknown, event.by)
        return
    if event.outcome == "skipped" and unknown is not None and unknown < len(work.plan):
        work.next = work.plan[unknown].last + 1  # with the rest of its action: a part of one has no task
    if event.outcome in {"done", "skipped"}:
        work.undo_failed = []
        work.failure = None
        work.phase = "acting"
        return
    if event.requeued:
        error = work.failure.error if work.failure else ""
        work.failure = Failure("action_failed", f"{error} (settled as undone by {event.by})")
        work.phase = "compensating"


def _stands_no_more(work: Work, unknown: int | None, by: str) -> None:
    """A person has settled what was asked; where nothing was, what may have happened has not, or is undone."""
    failure = work.failure or Failure("action_failed", "")
    if unknown is not None or failure.category == "compensation_failed":
        work.failure = Failure("action_failed", f"{failure.error} (settled as undone by {by})")
    else:
        work.held_keys = {}
        work.new_keys = True


def _tries_again(work: Work, unknown: int | None, by: str) -> None:
    """The step whose outcome nobody knew is called again, or the compensations that failed are."""
    if unknown is not None:
        work.failure = None
        work.phase = "acting"
        return
    work.undo_failed = []
    error = work.failure.error if work.failure else ""
    work.failure = Failure("action_failed", f"{error} (undone again as {by} had it)")
    work.phase = "compensating"


#: The events that change a message's work, and how, in place: the work belongs to its lead's state. None raises.
CHANGES: Mapping[type[Event], Callable[[Work, Any, Recorded], None]] = {
    ev.ActionsPlanned: _planned,
    ev.ActionStarted: _started,
    ev.StepExecuted: _step_executed,
    ev.ActionExecuted: _executed,
    ev.ActionAttemptFailed: _attempt_failed,
    ev.ActionInterrupted: _interrupted,
    ev.ActionDeferred: _deferred,
    ev.ActionFailed: _failed,
    ev.StepCompensated: _compensated,
    ev.ActionCompensated: _compensated,
    ev.CompensationFailed: _compensation_failed,
    ev.MessageDeadLettered: _dead_lettered,
    ev.DeadLetterRetried: _retried,
    ev.DeadLetterAmended: _amended,
    ev.DeadLetterResolved: _resolved,
}
