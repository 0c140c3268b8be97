"""The lead beside a small model of it: whatever happens, both do the same next, and both leave the same behind."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import commands as co
from domain import lead
from domain.events import (
    ActionCompensated,
    ActionExecuted,
    CommandRefused,
    DeadLetterResolved,
    MessageCompleted,
    MessageDeadLettered,
)
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, NotCalled, Unknown
from domain.ports import ActionCall
from tests.support.domain_given import T0, Story, dead_letter_id, message
from tests.support.domain_model import PUT_OFF, Lead, Message
from tests.support.domain_rules import playbook

INTENTS = (
    "ORDER_REQUEST",
    "ORDER_REQUEST",
    "ORDER_REQUEST",
    "COMPLAINT",
    "COMPLAINT",
    "SCHEDULE_CALL",
    "PRICING_INQUIRY",
    "UNKNOWN",
    "NOBODYS",
)
ENDS = (
    "done",
    "done",
    "failed",
    "failed",
    "failed",
    "failed for good",
    "unknown",
    "breaker",
    "target_configuration",
    "busy",
    "misconfigured",
    "throttled",
    "throttled for long",
    "lost",
)
OTHERS = ("create_support_ticket", "flag_for_review")
ONE = st.sampled_from(["none", "keyed", "keyed", "once"])
CLASS = ONE | st.lists(ONE, min_size=2, max_size=3).map(tuple)
CLASSES = st.fixed_dictionaries(
    {"create_order": CLASS, "notify_sales": CLASS}, optional=dict.fromkeys(OTHERS, CLASS)
)
#: What a person may say of a dead letter.
SAID = st.sampled_from(["done", "undone", "retry", "skip", None])


class BesideItsModel(RuleBasedStateMachine):
    """What is told to the one is told to the other."""

    @initialize(classes=CLASSES)
    def begins(self, classes: dict[str, Any]) -> None:
        self.story = Story(playbook(classes), rebuilds=False)
        self.model = Lead(classes)
        self.commands = 0

    @rule(intent=st.sampled_from(INTENTS), confidence=st.sampled_from([0.9, 0.9, 0.5, 0.4]))
    @precondition(lambda self: len(self.model.queue) < 3)
    def a_message_comes(self, intent: str, confidence: float) -> None:
        self._receive(f"m{len(self.model.known)}", intent, confidence)

    @rule(which=st.integers(0, 5))
    @precondition(lambda self: self.model.known)
    def a_message_comes_again(self, which: int) -> None:
        self._receive(f"m{which % len(self.model.known)}", "ORDER_REQUEST", 0.9)

    @rule(ends=st.lists(st.sampled_from(ENDS), min_size=1, max_size=9))
    @precondition(lambda self: self.is_out)
    def calls_end(self, ends: list[str]) -> None:
        """Several one after the other, with the waits between them: most of what can happen lies behind the third."""
        for end in ends:
            if self.is_waiting:
                self._wait(0)
            if self.is_out:
                self._ends(end)

    @rule()
    def the_process_dies(self) -> None:
        self.story.crash()

    @rule(minutes=st.sampled_from([0, 1, 16]))
    @precondition(lambda self: self.is_waiting)
    def the_wait_is_over(self, minutes: int) -> None:
        self._wait(minutes)

    @rule(which=st.integers(0, 9))
    @precondition(lambda self: self.model.ended)
    def a_person_retries(self, which: int) -> None:
        name = self._ended(which)
        refused = self._told(co.RetryDeadLetter, name)
        assert refused is not self.model.retry(name)

    @rule(which=st.integers(0, 9))
    @precondition(lambda self: len(self.model.letters) > 1)
    def a_person_discards(self, which: int) -> None:
        name = self._ended(which)
        refused = self._told(co.DiscardDeadLetter, name)
        assert refused is not self.model.discard(name)

    @rule(which=st.integers(0, 9), said=SAID)
    @precondition(lambda self: self.model.letters)
    def a_person_resolves(self, which: int, said: Any) -> None:
        self._resolves(self._ended(which), said)

    @rule(well=st.integers(0, 3), undone=st.booleans(), said=SAID)
    @precondition(lambda self: self.is_out)
    def it_goes_wrong_and_a_person_says(self, well: int, *, undone: bool, said: Any) -> None:
        """After steps that go well one does not; what stands then is undone, or fails to be."""
        head = self.model.queue[0]
        for _ in range(well):
            if self._is_out(head):
                self._ends("done")
        if self._is_out(head):
            self._ends("unknown" if self.model.class_of(head) == "once" else "failed for good")
        while self._is_out(head) and head.undo:
            self._ends("done" if undone else "failed for good")
        if head.name in self.model.letters:
            self._resolves(head.name, said)

    @rule(reason=st.sampled_from(["", "", "busy", "breaker", "target_configuration"]))
    @precondition(lambda self: any("once" in classes for classes in self.model.classes.values()))
    def turns_are_short_or_not(self, reason: Any) -> None:
        """From now on; who waits learns of it when its wait is over."""
        self.story.refusal = NotCalled(10_000_000, reason) if reason else None
        self.model.refused = reason

    @invariant()
    def both_do_the_same_next(self) -> None:
        step = lead.next_step(self.story.state, self.story.now)
        head = self.model.queue[0] if self.model.queue else None
        if head is None or head.at is None:
            assert step is None
        elif head.waits == "out":
            assert isinstance(step, ActionCall)
            action, part = head.plan[head.at]
            several = len(self.model.classes[action]) > 1
            target = f"{action}-target.{'abc'[part]}" if several else f"{action}-target"
            assert (step.message.message_id, step.target, step.undo) == (head.name, target, head.undo)
        else:
            assert isinstance(step, lead.Wait)

    @invariant()
    def both_leave_the_same_behind(self) -> None:
        ended: dict[str, str] = {}
        tasks: list[str] = []
        made: dict[str, str] = {}
        for event in (recorded.event for recorded in self.story.history):
            if isinstance(event, MessageCompleted):
                ended[event.message_id] = "completed"
            elif isinstance(event, MessageDeadLettered):
                ended[event.message_id] = event.category
            elif isinstance(event, DeadLetterResolved):
                if event.outcome == "done" and not event.requeued:
                    ended[event.message_id or ""] = "completed"
            elif isinstance(event, ActionExecuted):
                made[event.task.task_id] = f"{event.message_id} {event.action}"
                tasks.append(made[event.task.task_id])
            elif isinstance(event, ActionCompensated):
                tasks.remove(made[event.task_id])
        assert ended == self.model.ended
        assert sorted(tasks) == sorted(self.model.tasks)
        assert sorted(self.story.state.letters) == sorted(map(dead_letter_id, self.model.letters))

    @property
    def is_out(self) -> bool:
        return isinstance(lead.next_step(self.story.state, self.story.now), ActionCall)

    @property
    def is_waiting(self) -> bool:
        return isinstance(lead.next_step(self.story.state, self.story.now), lead.Wait)

    def _is_out(self, message: Message) -> bool:
        return self.is_out and self.model.queue[0] is message

    def _receive(self, name: str, intent: str, confidence: float) -> None:
        self.story.receive(message(name, intent, confidence=confidence, entities={"product": "tea"}))
        self.model.receive(name, intent, confidence)

    def _wait(self, minutes: int) -> None:
        self.story.now += timedelta(minutes=minutes)
        self.story.wait()
        self.model.now = (self.story.now - T0).total_seconds()
        self.model.waited()

    def _ends(self, end: str) -> None:
        match end:
            case "done":
                self.story.answer(Done({"id": "1"}))
                self.model.done()
            case "failed" | "failed for good":
                for_good = end == "failed for good"
                self.story.answer(FailedForGood("no") if for_good else Failed("503"))
                self.model.failed(for_good=for_good)
            case "unknown":
                self.story.answer(Unknown("timeout"))
                self.model.unknown()
            case "throttled" | "throttled for long":
                head = self.model.queue[0]
                for _ in range(1 if end == "throttled" else PUT_OFF):
                    if self.is_waiting:
                        self._wait(0)
                    if not self.is_out:  # it has no turn
                        return
                    self.story.answer(Failed("429", throttled=True))
                    self.model.throttled()
                    if self.model.queue[:1] != [head] or not head.put_off:
                        return
            case "misconfigured":
                self.story.answer(Misconfigured("401"))
                self.model.held_back("target_configuration")
            case "breaker" | "target_configuration" | "busy":
                self.story.answer(NotCalled(10_000_000, end))
                self.model.held_back(end)
            case _:
                self.story.crash().interrupt()
                self.model.lost()

    def _ended(self, which: int) -> str:
        """A dead letter as a rule; now and then a message that is none any more."""
        names = list(self.model.letters) or list(self.model.ended)
        return names[which % len(names)] if which else next(iter(self.model.ended))

    def _resolves(self, name: str, said: Any) -> None:
        refused = self._told(co.ResolveDeadLetter, name, outcome=said)
        assert refused is not self.model.resolve(name, said)

    def _told(self, kind: Any, name: str, **fields: Any) -> bool:
        """Whether the command is refused."""
        self.commands += 1
        command = kind(
            command_id=f"c{self.commands}", by="ann", dead_letter_id=dead_letter_id(name), **fields
        )
        return any(isinstance(event, CommandRefused) for event in self.story.command(command))


TestBesideItsModel = BesideItsModel.TestCase
TestBesideItsModel.pytestmark = [pytest.mark.timeout(600)]  # type: ignore[attr-defined]
TestBesideItsModel.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
