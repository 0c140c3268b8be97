"""What is recorded of a call that needs a turn and has none: that it waits, and no start."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain import turns
from domain.commands import EndWait
from domain.events import ActionDeferred, ActionStarted, CompensationFailed, DeferReason, Idempotency
from domain.outcomes import Done, Failed, FailedForGood, NotCalled
from domain.retry import PARKED
from tests.support.domain_given import Story, order
from tests.support.domain_rules import playbook

BUSY = NotCalled(PARKED // timedelta(microseconds=1), "busy")
BEHIND_BREAKER = NotCalled(60_000_000)
KEY = "acme-foods/lead-1/m1/0.create_order"


def ordering(idempotency: Idempotency = "once", refusal: NotCalled | None = BUSY) -> Story:
    """An order is planned; its call needs a turn where its target may be called once."""
    story = Story(playbook({"create_order": idempotency}))
    story.refusal = refusal
    story.receive(order("m1"))
    return story


def test_a_call_without_a_turn_waits_and_is_not_started() -> None:
    story = ordering()
    assert story.all(ActionStarted) == []
    [deferred] = story.all(ActionDeferred)
    assert (deferred.key, deferred.reason, deferred.deadline) == (KEY, "busy", None)
    assert not deferred.returned_attempt
    assert (story.due.key, story.due.attempt, story.due.delay) == (KEY, 0, PARKED)
    assert story.state.queue[0].calls == 0


def test_once_it_has_its_turn_it_is_the_first_attempt() -> None:
    story = ordering()
    story.refusal = None
    story.tell(EndWait(KEY, 0))
    assert (story.call.key, story.call.attempt) == (KEY, 1)
    story.answer(Done({"id": "7"}))
    assert story.at_rest
    assert not story.state.letters


def test_a_process_that_dies_while_it_waits_leaves_nothing_unknown() -> None:
    story = ordering().crash()
    assert turns.out_of_turn(story.state) == EndWait(KEY, 0)
    story.refusal = None
    story.tell(EndWait(KEY, 0))
    assert story.call.attempt == 1


@pytest.mark.parametrize("idempotency", ["none", "keyed"])
def test_a_call_that_may_be_repeated_needs_no_turn(idempotency: Idempotency) -> None:
    assert ordering(idempotency).call.attempt == 1


@pytest.mark.parametrize("reason", ["busy", "target_configuration"])
def test_who_waits_for_the_same_already_waits_on_without_an_event(reason: DeferReason) -> None:
    refusal = NotCalled(60_000_000, reason)
    story = ordering(refusal=refusal)
    story.now += timedelta(seconds=59)
    assert story.tell(EndWait(KEY, 0)) == []
    assert story.due.delay == timedelta(seconds=1)
    story.wait()
    assert len(story.all(ActionDeferred)) == 2, "that wait was over"
    assert story.due.delay == timedelta(seconds=60)


def test_what_it_waits_for_now_is_recorded_where_that_is_something_else() -> None:
    story = ordering()
    for refusal in (BEHIND_BREAKER, NotCalled(60_000_000, "target_configuration"), BUSY):
        story.refusal = refusal
        story.tell(EndWait(KEY, 0))
        assert story.last(ActionDeferred).reason == refusal.reason
    assert story.all(ActionStarted) == []


def test_a_wait_for_a_breaker_is_moved_on_and_keeps_its_deadline() -> None:
    story = ordering(refusal=BEHIND_BREAKER)
    deadline = story.last(ActionDeferred).deadline
    assert deadline == story.now + story.rules.breaker_wait
    story.wait()
    assert len(story.all(ActionDeferred)) == 2
    assert story.last(ActionDeferred).deadline == deadline
    story.now = deadline
    story.tell(EndWait(KEY, 0))
    [letter] = story.state.letters.values()
    assert letter.failure is not None
    assert letter.failure.category == "breaker_open"
    assert (letter.calls, letter.first_call) == (0, None)


def test_a_retry_without_a_turn_keeps_the_attempts_that_were_made() -> None:
    story = ordering(refusal=None)
    story.answer(Failed("429", throttled=True))
    story.refusal = BUSY
    story.wait()
    assert story.last(ActionDeferred).reason == "busy"
    story.refusal = None
    story.tell(EndWait(KEY, 1))
    assert story.call.attempt == 2
    assert story.state.queue[0].calls == 2


def test_a_compensation_needs_a_turn_too() -> None:
    story = Story(playbook({"create_order": "once", "notify_sales": "keyed"}))
    story.receive(order("m1"))
    story.answer(Done({"id": "7"}))
    story.refusal = BUSY
    story.answer(FailedForGood("no"))
    deferred = story.last(ActionDeferred)
    assert (deferred.key, deferred.undo, deferred.reason) == (f"{KEY}/undo", True, "busy")
    story.crash().refusal = None
    story.tell(EndWait(deferred.key, 0))
    assert (story.call.undo, story.call.remote) == (True, {"id": "7"})
    story.answer(Done())
    assert story.at_rest
    assert story.all(CompensationFailed) == []
