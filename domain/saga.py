"""The saga's rules: a plan carried out in order, undone in reverse when a step fails for good.

`advance` says what follows from a message's state (`domain/work.py`), `outcome` what follows from a call's
end. Plain functions from state to events; see H. Garcia-Molina and K. Salem, "Sagas" (1987).
"""

from __future__ import annotations

import traceback
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from domain import events as ev
from domain.actions import build_task
from domain.events import Category, DeferReason, Event, PlannedAction
from domain.messages import clean
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, NotCalled, Outcome, Unknown
from domain.playbook import Playbook, RunKeys, plan_message
from domain.retry import PARKED, delay_before
from domain.work import Failure, Step, Work

#: What of an exception's text is kept.
MAX_ERROR = 2000
#: A call during which the process ended so often is given up.
MAX_INTERRUPTED = 20
#: A call that its target puts off so often (429) is given up: no pause that it asked for was long enough.
MAX_THROTTLED = 20

_MICROSECOND = timedelta(microseconds=1)


def advance(work: Work, playbook: Playbook, now: datetime) -> Sequence[Event]:
    """What follows from the state of the message at the head of its lead's queue; nothing while it waits."""
    if work.phase == "queued":
        return _plan(work, playbook)
    if work.step is not None:
        return ()
    if work.phase == "acting":
        return _act(work, playbook, now)
    if work.phase == "compensating":
        return _compensate(work, playbook)
    return (dead_letter(work, work.failure or Failure("outcome_unknown", "unknown"), playbook),)


def outcome(work: Work, result: Outcome, playbook: Playbook, now: datetime) -> Sequence[Event]:
    """What the end of the started call means."""
    step = _started(work)
    if isinstance(result, Done):
        return _succeeded(work, step, result.remote, playbook, now=now)
    if isinstance(result, NotCalled):
        return held_back(work, step, result, playbook, now=now)
    if isinstance(result, Misconfigured):
        waits = _deferred(work, step, "target_configuration", now + PARKED, returned=True)
        return (_attempt_failed(work, step, "failed", result.error), waits)
    return _went_wrong(work, step, result, playbook, now=now)


def interrupted(work: Work) -> Sequence[Event]:
    """A started call whose outcome is lost: called again where that is harmless, unknown where not [H3].

    A crash is no failure of the target, and takes none of its retries: calls that wait for a worker are
    interrupted with those under way.
    """
    step = _started(work)
    planned = work.plan[step.n]
    event = ev.ActionInterrupted(
        work.message.message_id, step.n, planned.action, step.key, step.attempt, step.undo
    )
    if planned.idempotency == "once":
        lost = "the process ended during the call; nobody knows whether it happened"
        return (event, _failed(work, step, "outcome_unknown", lost))
    if step.interrupted + 1 < MAX_INTERRUPTED:
        return (event, _start(work, planned, undo=step.undo, attempt=step.attempt + 1))
    lost = f"the process ended {MAX_INTERRUPTED} times during the call: it may be the call that ends it"
    return (event, _failed(work, step, _for_good(step), lost, maybe_done=True))


def wait_is_over(work: Work, now: datetime) -> Sequence[Event]:
    """The deferred call's time has come: it is begun, or given up where its deadline has passed."""
    step = work.step
    if step is None or step.state != "deferred":
        return ()
    if step.deadline is not None and now >= step.deadline:
        waited = f"waited for {work.plan[step.n].target} until {step.deadline.isoformat()}"
        return (_failed(work, step, "breaker_open", waited),)
    return (_start(work, work.plan[step.n], undo=step.undo, attempt=step.attempt + 1),)


def held_back(
    work: Work, step: Step, result: NotCalled, playbook: Playbook, *, now: datetime, returned: bool = True
) -> Sequence[Event]:
    """The wait of a call that is not made now; `returned` says whether it was begun before."""
    until = now + timedelta(microseconds=result.retry_in_us)
    deadline = None  # of a turn or a missing setting there is none: nothing is dropped for it
    if result.reason == "breaker":
        deadline = step.deadline or now + playbook.breaker_wait
        until = min(until, deadline)
    return (_deferred(work, step, result.reason, until, deadline=deadline, returned=returned),)


def executed(
    work: Work,
    planned: PlannedAction,
    playbook: Playbook,
    now: datetime,
    *,
    remote: dict[str, str] | None = None,
    settled_by: str | None = None,
) -> Sequence[Event]:
    """The events of a step that is done; with its action's last one, that action's task follows."""
    spec = playbook.spec_of(planned.action)
    message = work.message
    step = (message.message_id, planned.n, planned.action, planned.key)
    attempts = work.step.attempt if work.step is not None else 0
    remote = remote or {}
    if planned.n < planned.last:
        return (ev.StepExecuted(*step, planned.target or "", attempts, remote, settled_by),)
    shown = _remotes(work, planned, remote)
    task = build_task(spec, planned, message, work.response, now=now, remote=shown)
    done = ev.ActionExecuted(*step, task, attempts, remote, settled_by)
    if spec.flags_lead:
        return (done, ev.LeadFlagged(message.message_id, planned.key))
    return (done,)


def compensated(
    work: Work,
    n: int,
    playbook: Playbook,
    *,
    attempts: int = 0,
    settled_by: str | None = None,
    before: Collection[int] = (),
) -> Sequence[Event]:
    """The events of a step that is undone; with the last one that stood of an executed action, that action's.

    `before` are steps that earlier events of the same decision undo.
    """
    planned = work.plan[n]
    message_id = work.message.message_id
    step = (message_id, n, planned.action, f"{planned.key}/undo")
    task = work.task_of(n)
    others = set(range(planned.first, planned.last + 1)) - {n, *work.undone, *before}
    if task is None or others:
        return (ev.StepCompensated(*step, planned.target or "", attempts, settled_by),)
    event = ev.ActionCompensated(*step, task.task_id, attempts, settled_by)
    if playbook.spec_of(planned.action).flags_lead:
        return (event, ev.LeadUnflagged(message_id, work.plan[planned.last].key))
    return (event,)


def step_name(planned: PlannedAction) -> str:
    """What a person calls a step: its action, and which target where there are several."""
    return planned.action if planned.parts == 1 else f"{planned.action} at {planned.target}"


def _plan(work: Work, playbook: Playbook) -> Sequence[Event]:
    try:
        keys = RunKeys(work.base_key, work.run, work.key_run, work.held_keys)
        return plan_message(playbook, work.message, keys)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a handler's own: a person has to look [H20]
        return (dead_letter(work, Failure("handler_failed", describe(error), stack_of(error)), playbook),)


def _act(work: Work, playbook: Playbook, now: datetime) -> Sequence[Event]:
    if work.next >= len(work.plan):
        return (_completed(work, now),)
    planned = work.plan[work.next]
    if planned.action not in playbook.actions:
        gone = f"no executor carries out {planned.action!r} any more"
        message_id = work.message.message_id
        return (
            ev.ActionFailed(message_id, planned.n, planned.action, planned.key, 0, "action_failed", gone),
        )
    if planned.target is None:
        return executed(work, planned, playbook, now)
    return (_start(work, planned, undo=False, attempt=1),)


def _compensate(work: Work, playbook: Playbook) -> Sequence[Event]:
    remaining = work.to_undo()
    if not remaining:
        return (dead_letter(work, work.failure or Failure("action_failed", "compensated"), playbook),)
    planned = work.plan[remaining[0]]
    if planned.target is None:
        return compensated(work, planned.n, playbook)
    return (_start(work, planned, undo=True, attempt=1),)


def _completed(work: Work, now: datetime) -> Event:
    completed = ev.MessageCompleted(
        work.message.message_id,
        work.run,
        tuple(work.plan[n].action for n, (task, _) in work.done.items() if task is not None),
        max(0, (now - work.received) // _MICROSECOND),
        work.escalate,
    )
    if not work.was_dead_letter:
        return completed
    return msgspec.structs.replace(
        completed,
        dead_letter_id=work.dead_letter_id,
        attempts=work.calls,
        first_attempt_at=work.first_call,
        last_attempt_at=work.last_call,
    )


def dead_letter(work: Work, failure: Failure, playbook: Playbook) -> Event:
    """The message as a row of the queue. Failed compensation outweighs what made it necessary."""
    message = work.message
    category: Category = "compensation_failed" if work.undo_failed else failure.category
    settled = work.resolved and not work.undo_failed
    business = playbook.tenants.find(message.business_id)
    return ev.MessageDeadLettered(
        work.dead_letter_id,
        message.message_id,
        message.lead_id,
        message.business_id,
        message.tenant_id,
        work.run,
        category,
        failure.error,
        message.payload,
        failure.stack,
        work.calls,
        work.first_call,
        work.last_call,
        settled=settled,
        parks=business is not None and business.parks and not settled,
    )


def _start(work: Work, planned: PlannedAction, *, undo: bool, attempt: int) -> Event:
    key = f"{planned.key}/undo" if undo else planned.key
    assert planned.target is not None  # only steps with a target are started
    return ev.ActionStarted(
        work.message.message_id, planned.n, planned.action, key, attempt, planned.target, undo
    )


def _succeeded(
    work: Work, step: Step, remote: dict[str, str], playbook: Playbook, *, now: datetime
) -> Sequence[Event]:
    if step.undo:
        return compensated(work, step.n, playbook, attempts=step.attempt)
    return executed(work, work.plan[step.n], playbook, now, remote=remote)


def _went_wrong(
    work: Work,
    step: Step,
    result: Failed | FailedForGood | Misconfigured | Unknown,
    playbook: Playbook,
    *,
    now: datetime,
) -> Sequence[Event]:
    planned = work.plan[step.n]
    if isinstance(result, Failed) and result.throttled:
        return _put_off(work, step, result, playbook, now=now)
    unknown = isinstance(result, Unknown)
    attempt = _attempt_failed(work, step, "unknown" if unknown else "failed", result.error)
    if unknown and planned.idempotency == "once":
        return (attempt, _failed(work, step, "outcome_unknown", result.error))
    if not _may_repeat(planned, result, step, playbook):
        maybe = step.maybe_done or unknown
        return (attempt, _failed(work, step, _for_good(step), result.error, maybe_done=maybe))
    retry_after = result.retry_after_us if isinstance(result, Failed) else None
    delay = delay_before(playbook.retry, step.key, step.answered + 1, retry_after_us=retry_after)
    return (attempt, _deferred(work, step, "retry", now + delay))


def _put_off(work: Work, step: Step, result: Failed, playbook: Playbook, *, now: datetime) -> Sequence[Event]:
    """A 429 proves that nothing happened and says nothing of the call: it takes none of its retries, whatever
    the target's class. But it does not go on for ever."""
    attempt = _attempt_failed(work, step, "throttled", result.error)
    put_off = step.throttled + 1
    if put_off >= MAX_THROTTLED:
        return (attempt, _failed(work, step, _for_good(step), f"{result.error} ({put_off} times)"))
    delay = delay_before(playbook.retry, step.key, put_off + 1, retry_after_us=result.retry_after_us)
    return (attempt, _deferred(work, step, "retry", now + delay))


def _attempt_failed(
    work: Work, step: Step, kind: Literal["failed", "throttled", "unknown"], error: str
) -> Event:
    planned = work.plan[step.n]
    message_id = work.message.message_id
    return ev.ActionAttemptFailed(
        message_id, step.n, planned.action, step.key, step.attempt, kind, clean(error), step.undo
    )


def _deferred(
    work: Work,
    step: Step,
    reason: DeferReason,
    until: datetime,
    *,
    deadline: datetime | None = None,
    returned: bool = False,
) -> Event:
    planned = work.plan[step.n]
    return ev.ActionDeferred(
        work.message.message_id,
        step.n,
        planned.action,
        step.key,
        reason,
        until,
        deadline,
        returned_attempt=returned,
        undo=step.undo,
        target=planned.target,
    )


def _remotes(work: Work, planned: PlannedAction, remote: dict[str, str]) -> Mapping[str, object]:
    """The ids that an action's targets gave, as its task shows them; `remote` is what the last one gave."""
    if planned.parts == 1:
        return remote
    given: dict[str, object] = {}
    for n in range(planned.first, planned.n + 1):
        ids = remote if n == planned.n else work.done[n][1]
        step = work.plan[n]
        name = step.name or step.action
        if ids:
            given[name if name not in given else step.target or name] = ids
    return given


def _may_repeat(planned: PlannedAction, result: Outcome, step: Step, playbook: Playbook) -> bool:
    if isinstance(result, FailedForGood) or step.answered >= playbook.retry.attempts:
        return False
    if planned.idempotency != "once" or step.undo:
        return True
    return not playbook.spec_of(planned.action).never_repeat_once


def _for_good(step: Step) -> Category:
    return "compensation_failed" if step.undo else "action_failed"


def _failed(
    work: Work, step: Step, category: Category, error: str, *, maybe_done: bool | None = None
) -> Event:
    """The step's end without success: the action's own, or its compensation's."""
    planned = work.plan[step.n]
    message_id = work.message.message_id
    error = clean(error)
    if planned.parts > 1:
        error = f"{planned.target}: {error}"
    if step.undo:
        task = work.task_of(step.n)
        task_id = task.task_id if task is not None else ""
        return ev.CompensationFailed(
            message_id, step.n, planned.action, step.key, task_id, step.attempt, error
        )
    held = step.maybe_done if maybe_done is None else maybe_done
    if held and category == "action_failed":
        error = f"{error} (an attempt may have happened: a retry keeps the key)"
    return ev.ActionFailed(message_id, step.n, planned.action, step.key, step.attempt, category, error, held)


def _started(work: Work) -> Step:
    assert work.step is not None  # the caller has matched (key, attempt)
    return work.step


def describe(error: BaseException) -> str:
    """An exception in a few words, whatever its own `str()` does."""
    try:
        text = str(error)
    except Exception:  # code that raises may raise here too; its type is said in any case
        text = "(its text cannot be read)"
    return clean(f"{type(error).__name__}: {text}"[:MAX_ERROR])


def stack_of(error: BaseException, limit: int = 4000) -> str:
    """An exception's stack, at most `limit` characters of its end."""
    return clean("".join(traceback.format_exception(error))[-limit:])
