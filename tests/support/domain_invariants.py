"""What must be true of every history of a lead, whatever happened to it. Each rule reads events alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from domain import events as ev
from domain.events import Event
from domain.lead import LeadState
from domain.saga import MAX_THROTTLED
from domain.tokens import encode

#: Facts that may stand between those of a message at work: receipts, and what people do.
_ASIDE = (
    ev.MessageReceived,
    ev.DuplicateDetected,
    ev.CommandRefused,
    ev.DeadLetterRetried,
    ev.DeadLetterAmended,
    ev.DeadLetterResolved,
    ev.DeadLetterDiscarded,
    ev.TaskStarted,
    ev.TaskCompleted,
    ev.TaskCancelled,
    ev.TaskReassigned,
    ev.ReplyExpired,
)
_ENDS = (ev.MessageCompleted, ev.MessageDeadLettered)
_EXECUTED = (ev.StepExecuted, ev.ActionExecuted)
_COMPENSATED = (ev.StepCompensated, ev.ActionCompensated)


def in_order(history: Sequence[Event]) -> None:
    """Messages are first ended in the order in which they were received."""
    received = [e.key for e in history if isinstance(e, ev.MessageReceived)]
    ended = [key for key, _ in _first_ends(history)]
    assert ended == received[: len(ended)]


def one_at_a_time(history: Sequence[Event]) -> None:
    """From a message's first fact at work to its end, no other message has any."""
    at_work: str | None = None
    for event in history:
        if isinstance(event, _ASIDE) or getattr(event, "settled_by", None):
            continue
        message_id = getattr(event, "message_id", None)
        if message_id is None or isinstance(event, ev.LeadUnflagged | ev.LeadFlagged):
            continue
        assert at_work in {None, message_id}
        at_work = None if isinstance(event, _ENDS) else message_id


def parked_ones_wait(history: Sequence[Event]) -> None:
    """From a dead letter that parks to the end of its matter, no other message of the lead has facts at work."""
    holder: str | None = None
    letters: dict[str, str] = {}
    for event in history:
        message_id = getattr(event, "message_id", None)
        if isinstance(event, ev.MessageDeadLettered):
            letters[event.message_id] = event.dead_letter_id
        of_other = holder is not None and message_id is not None and letters.get(message_id) != holder
        if of_other and not isinstance(event, _ASIDE) and not getattr(event, "settled_by", None):
            assert isinstance(event, ev.LeadFlagged | ev.LeadUnflagged), event
        if isinstance(event, ev.MessageDeadLettered) and event.parks:
            holder = event.dead_letter_id
        elif _ends_the_matter(event) and getattr(event, "dead_letter_id", None) == holder:
            holder = None
        if isinstance(event, ev.MessageReceived | ev.DeadLetterRetried):
            own = getattr(event, "dead_letter_id", None)
            assert event.behind == (holder if own != holder else None)


def _ends_the_matter(event: Event) -> bool:
    """Whether a dead letter is settled by this: those that wait behind it go on."""
    if isinstance(event, ev.DeadLetterResolved):
        return not event.requeued
    return isinstance(event, ev.MessageCompleted | ev.MessageDeadLettered | ev.DeadLetterDiscarded)


def executed_once(history: Sequence[Event]) -> None:
    """A key is executed once and compensated once, in that order; so is each task."""
    executed = Counter(e.key for e in history if isinstance(e, _EXECUTED))
    undone = Counter(e.key.removesuffix("/undo") for e in history if isinstance(e, _COMPENSATED))
    tasks = Counter(e.task.task_id for e in history if isinstance(e, ev.ActionExecuted))
    assert set(executed.values()) | set(undone.values()) | set(tasks.values()) <= {1}
    assert set(undone) <= set(executed)


def undone_in_reverse(history: Sequence[Event]) -> None:
    """Within one run of a message, compensation goes down the plan, and tries each step once, until a person
    has it tried again."""
    down: dict[str, int] = {}
    for event in history:
        if isinstance(event, ev.ActionsPlanned):
            down.pop(event.message_id, None)
        elif isinstance(event, (*_COMPENSATED, ev.CompensationFailed)):
            if getattr(event, "settled_by", None):
                continue
            assert event.n < down.get(event.message_id, 1000)
            down[event.message_id] = event.n
        elif isinstance(event, ev.DeadLetterResolved) and event.outcome == "retried":
            down.pop(event.message_id or "", None)


def nothing_stands_after_an_ordinary_failure(history: Sequence[Event]) -> None:
    """A message that was dead-lettered because an action failed has every executed step compensated."""
    standing: dict[str, set[str]] = {}
    for event in history:
        if isinstance(event, _EXECUTED):
            standing.setdefault(event.message_id, set()).add(event.key)
        elif isinstance(event, _COMPENSATED):
            standing[event.message_id].discard(event.key.removesuffix("/undo"))
        elif isinstance(event, ev.MessageReceived):
            standing.pop(event.message_id, None)
        elif isinstance(event, ev.MessageDeadLettered) and event.category in {
            "action_failed",
            "breaker_open",
        }:
            assert not standing.get(event.message_id)


def an_action_is_its_steps(history: Sequence[Event]) -> None:
    """Steps are done in order, but for an action that a person leaves out; with the last one their action is executed,
    and with the last one that still stands of an executed action it is compensated. No other event says either."""
    plans: dict[str, dict[int, ev.PlannedAction]] = {}
    stands: dict[str, set[int]] = {}
    executed: dict[str, set[int]] = {}
    unknown: dict[str | None, ev.PlannedAction] = {}
    left_out: dict[str, set[int]] = {}
    for event in history:
        if isinstance(event, ev.ActionsPlanned):
            plans[event.message_id] = {step.n: step for step in event.actions}
            left_out[event.message_id] = set()
            stands[event.message_id], executed[event.message_id] = set(), set()
        elif isinstance(event, _EXECUTED):
            step, done = plans[event.message_id][event.n], stands[event.message_id]
            assert set(range(step.n)) <= done | left_out[event.message_id]
            assert isinstance(event, ev.ActionExecuted) is (step.n == step.last)
            done.add(step.n)
            if step.n == step.last:
                executed[event.message_id].add(step.last)
        elif isinstance(event, _COMPENSATED):
            step, done = plans[event.message_id][event.n], stands[event.message_id]
            done.remove(step.n)
            whole = step.last in executed[event.message_id] and not done & set(
                range(step.first, step.last + 1)
            )
            assert isinstance(event, ev.ActionCompensated) is whole
        elif isinstance(event, ev.ActionFailed) and event.category == "outcome_unknown":
            unknown[event.message_id] = plans[event.message_id][event.n]
        elif isinstance(event, ev.DeadLetterResolved):
            of_unknown = unknown.pop(event.message_id, None)
            if of_unknown is not None and event.outcome == "skipped":
                left_out[str(event.message_id)] |= set(range(of_unknown.first, of_unknown.last + 1))


def calls_alternate(history: Sequence[Event]) -> None:
    """No call is begun while another is out, and none of a message whose outcome a person must settle."""
    out: str | None = None
    unsettled: set[str] = set()
    for event in history:
        if isinstance(event, ev.ActionStarted):
            assert out is None
            assert event.message_id not in unsettled
            out = event.key
        elif getattr(event, "key", None) == out and not isinstance(event, ev.LeadFlagged | ev.LeadUnflagged):
            out = None
        if isinstance(event, ev.ActionFailed) and event.category == "outcome_unknown":
            unsettled.add(event.message_id)
        elif isinstance(event, ev.DeadLetterResolved | ev.DeadLetterDiscarded):
            unsettled.discard(event.message_id or "")


def attempts_are_bounded(history: Sequence[Event]) -> None:
    """At most four calls of a key in one run that the process survived and the target took; of an order towards
    a once target, one. A target puts a call off so often and no more."""
    classes: dict[str, str | None] = {}
    made: Counter[str] = Counter()
    put_off: Counter[str] = Counter()
    for event in history:
        if isinstance(event, ev.DeadLetterResolved) and event.outcome == "retried":
            made = Counter({key: n for key, n in made.items() if not _is_of(key, event.message_id)})
        elif isinstance(event, ev.ActionsPlanned):
            classes |= {step.key: step.idempotency for step in event.actions}
            for step in event.actions:
                made.pop(step.key, None)
                put_off.pop(step.key, None)
        elif isinstance(event, ev.ActionStarted):
            made[event.key] += 1
            once = classes.get(event.key) == "once" and event.action == "create_order"
            assert made[event.key] <= (1 if once else 4)
        elif isinstance(event, ev.ActionInterrupted):
            made[event.key] -= classes.get(event.key) != "once"
        elif isinstance(event, ev.ActionAttemptFailed) and event.kind == "throttled":
            made[event.key] -= 1
            put_off[event.key] += 1
            assert put_off[event.key] <= MAX_THROTTLED
        elif isinstance(event, ev.ActionDeferred) and event.returned_attempt:
            made[event.key] -= 1


def _is_of(key: str, message_id: str | None) -> bool:
    """Whether a key is one of a message's."""
    return message_id is not None and key.split("/")[2].partition("@")[0] == encode(message_id)


def every_message_is_somewhere(history: Sequence[Event], state: LeadState) -> None:
    """A received message is at work, has ended, or is with a person; and no two at once."""
    received = [e.message_id for e in history if isinstance(e, ev.MessageReceived)]
    queued = [work.message.message_id for work in state.queue]
    parked = [work.message.message_id for work in state.letters.values()]
    assert len(set(queued)) == len(queued)
    assert not set(queued) & set(parked)
    ended = {e.message_id for e in history if isinstance(e, _ENDS)}
    assert set(received) <= set(queued) | ended


def tasks_follow_from_events(history: Sequence[Event], state: LeadState) -> None:
    """The open tasks are those that were made and neither ended nor undone."""
    tasks: dict[str, str] = {}
    for event in history:
        if isinstance(event, ev.ActionExecuted | ev.ReplyExpired):
            tasks[event.task.task_id] = "pending"
        elif isinstance(event, ev.TaskStarted):
            tasks[event.task_id] = "in_progress"
        elif isinstance(event, ev.ActionCompensated | ev.TaskCompleted | ev.TaskCancelled):
            tasks.pop(event.task_id, None)
    assert tasks == state.tasks


def _first_ends(history: Sequence[Event]) -> list[tuple[str, Event]]:
    """(key of the message's life, its first end), in the order of the ends."""
    lives: dict[str, str] = {}
    ended: dict[str, Event] = {}
    for event in history:
        if isinstance(event, ev.MessageReceived):
            lives[event.message_id] = event.key
        elif isinstance(event, _ENDS):
            ended.setdefault(lives[event.message_id], event)
    return list(ended.items())


OF_HISTORY: tuple[Callable[[Sequence[Event]], None], ...] = (
    in_order,
    one_at_a_time,
    parked_ones_wait,
    executed_once,
    undone_in_reverse,
    nothing_stands_after_an_ordinary_failure,
    an_action_is_its_steps,
    calls_alternate,
    attempts_are_bounded,
)
OF_STATE: tuple[Callable[[Sequence[Event], LeadState], None], ...] = (
    every_message_is_somewhere,
    tasks_follow_from_events,
)
