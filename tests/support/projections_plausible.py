"""Random event streams that Leadline could have recorded: for properties that hold whatever happened."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st

from domain import events as ev
from domain.tokens import lead_stream
from tests.support.projections_story import LeadStory, Story, rejected

LEADS = [("acme", "+49 151/1"), ("acme", "US.1349"), ("globex", "+49 151/1")]
MESSAGES = ["wamid.A==", "m/2", "grün", "m4"]

OUTCOMES = ("done", "undone", "retried", "skipped")

#: (which lead, which message, what happens next to it).
Choice = tuple[int, int, int]


class Plausible:
    """Turns numbers into a history: each picks one of the things that can happen next to a message."""

    def __init__(self) -> None:
        self.story = Story()
        self._leads = [LeadStory(self.story, business, lead) for business, lead in LEADS]
        self._phase: dict[tuple[int, int], str] = {}
        self._runs: dict[tuple[int, int], int] = {}
        self._rejects: dict[str, str] = {}
        self._closed: set[str] = set()
        self._numbers = 0

    def happen(self, choice: Choice) -> None:
        lead, message, pick = choice
        key = (lead, message)
        phase = self._phase.get(key, "new")
        steps = {
            "new": (self._received, self._rejected, self._whole),
            "rejected": (self._redriven, self._retry_reject, self._settle_reject),
            "at work": (self._executed, self._started, self._deferred, self._completed, self._dead_lettered),
            "done": (self._duplicate, self._task_moves, self._second_life),
            "dead": (self._retried, self._resolved, self._discarded, self._duplicate),
        }[phase]
        if pick == 0:
            self._elsewhere(lead)
        else:
            steps[pick % len(steps)](self._leads[lead], key, MESSAGES[message])

    def _whole(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        lead.whole(message)
        self._phase[key] = "done"

    def _received(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        lead.add(lead.received(message, ai_latency_ms=[0.1 + 0.2, 129.5, 1e15][self._next() % 3]))
        lead.add(lead.intent(message, confidence=0.1 * (1 + self._next() % 9)))
        self._phase[key] = "at work"

    def _executed(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        n, run = self._next(), self._runs.get(key, 1)
        key_of = lead.key(message)
        if n % 3 == 0:
            lead.add(ev.StepExecuted(message, n - 1, "flag_for_review", f"{key_of}/{n - 1}.", "a", 1))
        lead.add(lead.executed(message, "flag_for_review", n=n, run=run), ev.LeadFlagged(message, f"k{n}"))
        if n % 2:
            lead.add(ev.StepCompensated(message, n, "flag_for_review", f"{key_of}/{n}./undo", "a", 1))
            lead.add(lead.compensated(message, n, run), ev.LeadUnflagged(message, f"k{n}"))

    def _started(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        lead.add(lead.started(message, undo=self._next() % 3 == 0))

    def _deferred(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        reasons: tuple[ev.DeferReason, ...] = ("retry", "breaker", "target_configuration")
        lead.add(lead.deferred(message, reasons[self._next() % 3], "create_order@acme"))

    def _completed(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        lead.add(lead.completed(message, self._runs.get(key, 1), us=self._next() * 777_777))
        self._phase[key] = "done"

    def _dead_lettered(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        category: ev.Category = "outcome_unknown" if self._next() % 2 else "action_failed"
        lead.add(lead.failed(message, category))
        lead.add(lead.dead_lettered(message, category, run=self._runs.get(key, 1)))
        self._phase[key] = "dead"

    def _retried(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        self._runs[key] = self._runs.get(key, 1) + 1
        lead.add(lead.retried(message, self._runs[key]))
        self._phase[key] = "at work"

    def _resolved(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        requeued = self._next() % 2 == 0
        lead.add(lead.resolved(message, OUTCOMES[self._next() % 4], requeued=requeued))
        self._phase[key] = "at work" if requeued else "done"

    def _discarded(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        lead.add(lead.discarded(message))
        self._phase[key] = "done"

    def _duplicate(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        lead.add(ev.DuplicateDetected(message))

    def _second_life(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        self.story.now += timedelta(days=9)
        self._runs.pop(key, None)
        self._received(lead, key, message)

    def _task_moves(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        task = lead.task_id(message)
        moves = (
            ev.TaskStarted(task, "c", "ann", ""),
            ev.TaskCompleted(task, "c", "ann", ""),
            ev.TaskCancelled(task, "c", "ann", ""),
            ev.TaskReassigned(task, "user", "bob", "c", "ann", ""),
        )
        if task not in self._closed:  # a task that has ended takes no more commands
            move = moves[self._next() % 4]
            lead.add(move)
            if isinstance(move, ev.TaskCompleted | ev.TaskCancelled):
                self._closed.add(task)

    def _rejected(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        category = "lead_stopped" if self._next() % 2 else "rejected"
        known = lead.lead if self._next() % 3 else None
        event = rejected(f"d{key}", message=message, lead=known, business=lead.business, category=category)
        self.story.add("rejects:3", event)
        self._phase[key] = "rejected"

    def _redriven(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        lead.add(lead.received(message, redrive_of=f"d{key}"))
        self._phase[key] = "at work"

    def _retry_reject(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        retried = ev.DeadLetterRetried(f"d{key}", message, 2, "c", "ann", "")
        self.story.add("rejects:3", retried, ev.LeadResumed(lead.stream, (f"d{key}",), "c", "ann", ""))

    def _settle_reject(self, lead: LeadStory, key: tuple[int, int], message: str) -> None:
        self.story.add("rejects:3", ev.DeadLetterResolved(f"d{key}", None, "done", "c", "ann", ""))
        self._phase[key] = "done"

    def _elsewhere(self, lead: int) -> None:
        number = self._next()
        stream = lead_stream(self._leads[lead].business, self._leads[lead].stream.rsplit(":", 1)[1])
        others = (
            ("breaker:orders", ev.BreakerOpened("orders", 10, 7, self.story.now, 30_000_000, "refused")),
            ("breaker:orders", ev.BreakerOpened("orders", 1, 1, None, 0, "410", True, True)),
            ("breaker:orders", ev.BreakerHalfOpened("orders")),
            ("breaker:orders", ev.BreakerClosed("orders")),
            ("rejects:3", ev.LeadStopped(stream, "boom", "stack", 3)),
            ("rejects:3", ev.LeadResumed(stream, (), "c", "ann", "")),
            ("intake:3", ev.MessagesLost(3, "life.0", 5, 9)),
            ("intake:3", ev.StreamRewound(3, "life.0", 600, 500, "life.1")),
        )
        self.story.add(*others[number % len(others)])

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers


def stories() -> st.SearchStrategy[Story]:
    """Histories of up to some two hundred events."""
    choice = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 19))
    return st.lists(choice, max_size=80).map(_told)


def _told(choices: list[Choice]) -> Story:
    plausible = Plausible()
    for choice in choices:
        plausible.happen(choice)
    return plausible.story
