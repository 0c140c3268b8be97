"""A call of a target that may be called once is begun in its turn only. Until then it waits, and is not begun.

A call that is begun and still stands in a queue when the process dies would be unknown, although it was never made.
Pure; `actors/turns.py` gives the turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from domain import saga
from domain.commands import EndWait
from domain.events import ActionStarted, Event
from domain.lead import LeadState
from domain.outcomes import NotCalled
from domain.playbook import Playbook
from domain.work import Step


def asked_by(state: LeadState, events: Sequence[Event]) -> ActionStarted | None:
    """The call that these events of the lead would begin, where it needs a turn: such a start stands alone."""
    begun = events[0] if len(events) == 1 else None
    if not isinstance(begun, ActionStarted):
        return None
    return begun if state.queue[0].plan[begun.n].idempotency == "once" else None


def turned_away(
    state: LeadState, begun: ActionStarted, refusal: NotCalled, playbook: Playbook, now: datetime
) -> Sequence[Event]:
    """What is recorded in the place of a start that has no turn: its wait; nothing where that is recorded already."""
    work = state.queue[0]
    step = work.step or Step(begun.n, begun.key, begun.undo, begun.attempt - 1, "deferred")
    waits = step.until is not None and now < step.until and step.deadline is None
    if waits and step.reason == refusal.reason:
        return ()
    return saga.held_back(work, step, refusal, playbook, now=now, returned=False)


def out_of_turn(state: LeadState) -> EndWait | None:
    """What ends the wait that a new process knows nothing of: for a turn at the target, or for its settings,
    which may be other ones now. A lead that is woken by a start, or resumed, asks again at once."""
    step = state.queue[0].step if state.queue else None
    if step is None or step.state != "deferred" or step.reason not in {"busy", "target_configuration"}:
        return None
    return EndWait(step.key, step.attempt)
