"""Whatever happens to a lead, in whatever order, with crashes in between: the invariants hold.

Hypothesis makes up messages, redeliveries, outcomes, timers, commands and crashes. After every step the
state rebuilt from the encoded events equals the living one (`Story.tell` compares them).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import commands as co
from domain import lead
from domain.commands import EndWait, InterruptAction, ReceiveMessage, RecordOutcome
from domain.events import ActionExecuted, ActionStarted, MessageDeadLettered, Place
from domain.lead import LeadState, Wait
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, NotCalled, Unknown
from domain.ports import ActionCall
from domain.snapshots import Snapshots
from tests.support.domain_given import INCARNATION, Story, message
from tests.support.domain_invariants import OF_HISTORY, OF_STATE
from tests.support.domain_rules import action_specs, playbook

INTENTS = ("ORDER_REQUEST", "COMPLAINT", "SCHEDULE_CALL", "PRICING_INQUIRY", "UNKNOWN", "NOBODYS")
IDS = st.sampled_from([f"m{n}" for n in range(6)])
OUTCOMES = st.sampled_from(
    [
        Done({"id": "7"}),
        Done(),
        Failed("503"),
        Failed("429", 60_000_000, throttled=True),
        FailedForGood("no"),
        Unknown("timeout"),
        Misconfigured("401"),
        Misconfigured("410", switched_off=True),
        NotCalled(10_000_000),
        NotCalled(60_000_000, "target_configuration"),
    ]
)
CLASS = st.sampled_from(["none", "keyed", "once"])
#: An action has no target, one, or several.
TARGETS = CLASS | st.lists(CLASS, min_size=2, max_size=3).map(tuple)
CLASSES = st.fixed_dictionaries({}, optional=dict.fromkeys(action_specs(), TARGETS))
JUMPS = st.sampled_from([0, 1, 3600, 16 * 60, 9 * 86_400, -3600])

SNAPSHOTS = Snapshots(LeadState, lead.RULES)


class ALead(RuleBasedStateMachine):
    """One lead, and a world that does its worst."""

    @initialize(classes=CLASSES, parks=st.booleans())
    def begins(self, classes: dict[str, Any], *, parks: bool) -> None:
        self.story = Story(playbook(classes, parks=parks))
        self.commands = 0

    @rule(message_id=IDS, intent=st.sampled_from(INTENTS), confidence=st.sampled_from([0.95, 0.6, 0.1]))
    def a_message_comes(self, message_id: str, intent: str, confidence: float) -> None:
        entities = {"product": "laptop"}
        self.story.receive(message(message_id, intent, confidence=confidence, entities=entities))

    @rule(message_id=IDS, back=st.integers(0, 3))
    def the_log_hands_out_again_what_was_recorded(self, message_id: str, back: int) -> None:
        place = Place(INCARNATION, 3, max(0, self.story.state.sequence - back))
        if self.story.state.sequence:
            assert self.story.tell(ReceiveMessage(message(message_id)), place=place) == []

    @rule(outcome=OUTCOMES)
    @precondition(lambda self: self.is_out)
    def the_call_ends(self, outcome: Any) -> None:
        assert self.story.answer(outcome)

    @rule()
    @precondition(lambda self: self.is_out)
    def the_process_dies_during_the_call(self) -> None:
        self.story.crash()
        assert self.story.interrupt()

    @rule()
    @precondition(lambda self: self.is_waiting)
    def the_wait_passes(self) -> None:
        assert self.story.wait()

    @rule()
    def the_process_dies(self) -> None:
        self.story.crash()

    @rule(seconds=JUMPS)
    def time_passes(self, seconds: int) -> None:
        self.story.now += timedelta(seconds=seconds)

    @rule(outcome=OUTCOMES, which=st.integers(0, 20))
    def an_answer_comes_that_nobody_awaits(self, outcome: Any, which: int) -> None:
        step = lead.next_step(self.story.state, self.story.now)
        started = [(e.key, e.attempt) for e in self.story.all(ActionStarted)]
        for key, attempt in started[which:][:1]:
            if step is None or (step.key, step.attempt) != (key, attempt):
                assert self.story.tell(RecordOutcome(key, attempt, outcome)) == []
                assert self.story.tell(InterruptAction(key, attempt)) == []
                assert self.story.tell(EndWait(key, attempt)) == []

    @rule(
        kind=st.sampled_from(["retry", "done", "undone", "again", "skip", "resolve", "discard", "amend"]),
        which=st.integers(0, 3),
        again=st.booleans(),
    )
    def a_person_looks_at_a_dead_letter(self, kind: str, which: int, *, again: bool) -> None:
        letters = list(dict.fromkeys(e.dead_letter_id for e in self.story.all(MessageDeadLettered)))
        for letter in letters[which:][:1]:
            told: dict[str, Any] = {
                "command_id": self._command_id(again=again),
                "by": "ann",
                "dead_letter_id": letter,
            }
            command: co.PersonsCommand
            if kind == "retry":
                command = co.RetryDeadLetter(**told)
            elif kind == "discard":
                command = co.DiscardDeadLetter(**told)
            elif kind == "amend":
                command = co.AmendDeadLetter(**told, changes={"intent": "COMPLAINT"})
            else:
                said: Any = {"resolve": None, "again": "retry"}.get(kind, kind)
                command = co.ResolveDeadLetter(**told, outcome=said)
            known = command.command_id in self.story.state.commands
            assert bool(self.story.command(command)) is not known

    @rule(kind=st.sampled_from([co.StartTask, co.CompleteTask, co.CancelTask]), which=st.integers(0, 5))
    def a_person_works_a_task(self, kind: Any, which: int) -> None:
        made = [e.task.task_id for e in self.story.all(ActionExecuted)]
        for task_id in made[which:][:1]:
            assert self.story.command(kind(command_id=self._command_id(), by="bob", task_id=task_id))

    @invariant()
    def the_history_is_right(self) -> None:
        history = [recorded.event for recorded in self.story.history]
        for rule_of_history in OF_HISTORY:
            rule_of_history(history)
        for rule_of_state in OF_STATE:
            rule_of_state(history, self.story.state)

    @invariant()
    def a_snapshot_gives_the_same_state_back(self) -> None:
        assert SNAPSHOTS.decode(SNAPSHOTS.encode(self.story.state)) == self.story.state

    @invariant()
    def a_lead_with_work_always_has_a_next_step(self) -> None:
        works = bool(self.story.state.queue) and not lead.is_held(self.story.state)
        assert works is (self._step is not None)

    @property
    def is_out(self) -> bool:
        return isinstance(self._step, ActionCall)

    @property
    def is_waiting(self) -> bool:
        return isinstance(self._step, Wait)

    @property
    def _step(self) -> ActionCall | Wait | None:
        return lead.next_step(self.story.state, self.story.now)

    def _command_id(self, *, again: bool = False) -> str:
        if not again or not self.commands:
            self.commands += 1
        return f"c{self.commands}"


TestAnyInterleaving = ALead.TestCase
#: When it fails, Hypothesis takes minutes to find the shortest story: it is to tell it, not to be cut off.
TestAnyInterleaving.pytestmark = [pytest.mark.timeout(600)]  # type: ignore[attr-defined]
TestAnyInterleaving.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
