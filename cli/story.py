"""A stream's events told as a story: one sentence an event, in the words of those who read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from domain import events as ev
from domain.events import Event, Recorded
from domain.skips import Missing

#: Dead letters of these categories are not in the lead's own stream.
NOT_IN_A_STREAM = ("rejected", "lead_stopped")

Teller = Callable[[Any], str]


def sentence(event: Event) -> str:
    """What happened, in one sentence. An event that nobody has words for says its name."""
    teller = TELLERS.get(type(event))
    return teller(event) if teller else type(event).__name__


def lines(history: Iterable[Recorded]) -> Iterable[tuple[str, str, str]]:
    """(time, style, sentence) of each event; the time as the distance from the first."""
    first: datetime | None = None
    for recorded in history:
        first = first or recorded.at
        yield _since(first, recorded.at), STYLES.get(type(recorded.event), ""), sentence(recorded.event)


def _since(first: datetime, at: datetime) -> str:
    if at == first:
        return first.strftime("%Y-%m-%d %H:%M:%S")
    seconds = (at - first).total_seconds()
    if seconds < 60:
        return f"+{seconds:.3f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"+{minutes} min {seconds} s" if minutes < 120 else at.strftime("%Y-%m-%d %H:%M:%S")


def _received(e: ev.MessageReceived) -> str:
    text = f": “{e.text}”" if e.text else ""
    again = " (redelivered from the dead letter queue)" if e.redrive_of else ""
    return f"wrote {e.message_id}{text}{again}"


def _intent(e: ev.IntentDetected) -> str:
    taken = "" if e.handler == e.intent else f"; taken by the rules for {e.handler}"
    return f"the AI read {e.intent} with confidence {e.confidence:.2f} ({e.band}){taken}"


def _planned(e: ev.ActionsPlanned) -> str:
    plan = ", then ".join(_action_of(step) for step in e.actions if step.part == 0) or "nothing to do"
    run = f" for run {e.run}" if e.run > 1 else ""
    escalated = "; a person has to look too" if e.escalate else ""
    return f"plan{run}: {plan}{escalated}; the answer is “{e.response}”"


def _action_of(step: ev.PlannedAction) -> str:
    return step.action if step.parts == 1 else f"{step.action} at {step.parts} targets"


def _started(e: ev.ActionStarted) -> str:
    what = "undo " if e.undo else ""
    return f"{what}{e.action}: call {e.attempt} to {e.target} goes out"


def _executed(e: ev.ActionExecuted) -> str:
    remote = "".join(f", {name} {value}" for name, value in e.remote.items())
    who = f" (says {e.settled_by})" if e.settled_by else ""
    to = f"{e.task.assigned_to_type} {e.task.assigned_to_id}"
    return f"{e.action} is done{remote}{who}: task for {to}, due {e.task.due_date:%Y-%m-%d %H:%M}"


def _step_executed(e: ev.StepExecuted) -> str:
    remote = "".join(f", {name} {value}" for name, value in e.remote.items())
    who = f" (says {e.settled_by})" if e.settled_by else ""
    return f"{e.action} is done at {e.target}{remote}{who}; its next target follows"


_ENDED = {
    "failed": "failed",
    "throttled": "was put off, the target takes no more for now",
    "unknown": "ended without an answer, it may have happened",
}


def _attempt_failed(e: ev.ActionAttemptFailed) -> str:
    return f"{'undo ' if e.undo else ''}{e.action}: call {e.attempt} {_ENDED[e.kind]}: {e.error}"


def _deferred(e: ev.ActionDeferred) -> str:
    until = f", until {e.until:%H:%M:%S}"
    reasons = {
        "retry": f"before it is tried again{until}",
        "breaker": f"for an open breaker{until}",
        "busy": "for its turn at its target",
    }
    why = reasons.get(e.reason, "for its target's configuration to be mended")
    return f"{'undo ' if e.undo else ''}{e.action} waits {why}"


def _step_compensated(e: ev.StepCompensated) -> str:
    who = f" (says {e.settled_by})" if e.settled_by else ""
    return f"{e.action} is undone at {e.target}{who}"


def _compensated(e: ev.ActionCompensated) -> str:
    who = f" (says {e.settled_by})" if e.settled_by else ""
    return f"{e.action} is undone{who}, its task cancelled"


def _dead_lettered(e: ev.MessageDeadLettered) -> str:
    return f"{e.message_id} is a dead letter ({e.category}): {e.error}"


def _completed(e: ev.MessageCompleted) -> str:
    done = ", ".join(e.executed) or "nothing was to be done"
    return f"{e.message_id} is completed after {e.processing_us / 1000:.1f} ms: {done}"


def _opened(e: ev.BreakerOpened) -> str:
    until = f"until {e.retry_at:%H:%M:%S}" if e.retry_at is not None else "until the next start"
    if e.configuration:
        why = ": the target is switched off" if e.switched_off else ": the target's configuration is wrong"
    else:
        why = f" after {e.failures} failures in {e.calls} calls"
    return f"open{why}, {until}: {e.error}"


def _by(what: str) -> Teller:
    """A person's decision: what, who, why."""
    return lambda e: what.format(e=e) + f" by {e.by}" + (f": {e.why}" if e.why else "")


#: Event class → its sentence.
TELLERS: dict[type[Event], Teller] = {
    ev.MessageReceived: _received,
    ev.DuplicateDetected: lambda e: f"{e.message_id} came again: a duplicate, nothing is done twice",
    ev.IntentDetected: _intent,
    ev.ActionsPlanned: _planned,
    ev.ActionStarted: _started,
    ev.StepExecuted: _step_executed,
    ev.ActionExecuted: _executed,
    ev.ActionAttemptFailed: _attempt_failed,
    ev.ActionInterrupted: lambda e: f"{e.action}: the answer to call {e.attempt} was lost in a restart",
    ev.ActionDeferred: _deferred,
    ev.ActionFailed: lambda e: f"{e.action} failed for good after {e.attempts} calls: {e.error}",
    ev.StepCompensated: _step_compensated,
    ev.ActionCompensated: _compensated,
    ev.CompensationFailed: lambda e: f"{e.action} could not be undone, a person has to: {e.error}",
    ev.MessageCompleted: _completed,
    ev.MessageDeadLettered: _dead_lettered,
    ev.DeadLetterRetried: _by("dead letter retried, run {e.run},"),
    ev.DeadLetterAmended: _by("dead letter amended ({e.changes})"),
    ev.DeadLetterResolved: _by("dead letter resolved as {e.outcome}"),
    ev.DeadLetterDiscarded: _by("dead letter discarded"),
    ev.MessageRejected: lambda e: f"{e.message_id or 'a message'} was refused ({e.category}): {e.reason}",
    ev.CommandRefused: _by("command {e.command} refused ({e.reason}), given"),
    ev.TaskStarted: _by("task {e.task_id} started"),
    ev.TaskCompleted: _by("task {e.task_id} completed"),
    ev.TaskCancelled: _by("task {e.task_id} cancelled"),
    ev.TaskReassigned: _by("task {e.task_id} given to {e.assigned_to_type} {e.assigned_to_id}"),
    ev.ReplyExpired: lambda e: (
        f"too late to answer {e.message_id} in the chat (open until {e.window_ended_at:%Y-%m-%d %H:%M}):"
        f" task for {e.task.assigned_to_type} {e.task.assigned_to_id}"
    ),
    ev.LeadFlagged: lambda e: f"flagged for review because of {e.message_id}",
    ev.LeadUnflagged: lambda e: f"the flag because of {e.message_id} is taken back",
    ev.LeadStopped: lambda e: f"this lead is stopped after {e.failures} failures: {e.error}",
    ev.LeadResumed: _by("this lead is resumed"),
    ev.BreakerOpened: _opened,
    ev.BreakerHalfOpened: lambda _: "half-open: a few probes are let through",
    ev.BreakerClosed: lambda _: "closed: the probes came back well",
    ev.StreamRewound: lambda e: (
        f"the log ends at {e.last_sequence} and was read to {e.position}: it was restored or made anew"
    ),
    ev.MessagesLost: lambda e: (
        f"messages {e.from_sequence} to {e.to_sequence} were gone before they were read"
    ),
    ev.EventSkipped: _by("event {e.skipped} of {e.stream} skipped ({e.error})"),
    Missing: lambda _: "an event that cannot be read, and that a person has skipped: `leadline events show`",
}

#: Event class → how its line looks; what is not here is plain.
STYLES: dict[type[Event], str] = {
    ev.MessageReceived: "bold",
    ev.DuplicateDetected: "dim",
    ev.StepExecuted: "green",
    ev.ActionExecuted: "green",
    ev.MessageCompleted: "green",
    ev.ActionAttemptFailed: "yellow",
    ev.ActionInterrupted: "yellow",
    ev.ActionDeferred: "yellow",
    ev.ActionFailed: "red",
    ev.StepCompensated: "magenta",
    ev.ActionCompensated: "magenta",
    ev.CompensationFailed: "bold red",
    ev.MessageDeadLettered: "bold red",
    ev.MessageRejected: "bold red",
    ev.LeadStopped: "bold red",
    ev.CommandRefused: "yellow",
    ev.ReplyExpired: "yellow",
    ev.BreakerOpened: "bold red",
    ev.BreakerHalfOpened: "yellow",
    ev.BreakerClosed: "green",
    ev.MessagesLost: "bold red",
    ev.EventSkipped: "bold red",
    Missing: "bold red",
}
