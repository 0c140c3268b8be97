"""A target's configuration that is wrong is waited for until it is mended: nothing fails and nothing is dropped."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain import turns
from domain.commands import EndWait
from domain.events import (
    ActionAttemptFailed,
    ActionDeferred,
    ActionExecuted,
    ActionStarted,
    Idempotency,
    MessageDeadLettered,
)
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, NotCalled
from domain.retry import PARKED
from tests.support.domain_given import T0, Story, base_key, names, order
from tests.support.domain_rules import playbook

KEY = f"{base_key()}/0.create_order"


def ordering(idempotency: Idempotency = "keyed") -> Story:
    story = Story(playbook({"create_order": idempotency}))
    story.receive(order())
    return story


@pytest.mark.parametrize("idempotency", ["none", "keyed", "once"])
def test_a_refused_call_is_parked_without_a_deadline_and_loses_no_attempt(idempotency: Idempotency) -> None:
    story = ordering(idempotency)
    assert story.answer(Misconfigured("the target answered 401")) == [
        ActionAttemptFailed("m1", 0, "create_order", KEY, 1, "failed", "the target answered 401"),
        ActionDeferred(
            "m1",
            0,
            "create_order",
            KEY,
            "target_configuration",
            T0 + PARKED,
            returned_attempt=True,
            target="create_order-target",
        ),
    ]
    story.wait()
    assert (story.call.key, story.call.attempt) == (KEY, 1)


def test_however_often_it_is_refused_it_is_done_once_that_is_mended() -> None:
    story = ordering("once")
    for _ in range(30):
        story.answer(Misconfigured("403", switched_off=True))
        story.tell(EndWait(KEY, 0))
    story.answer(Done({"id": "7"}))
    done = story.all(ActionExecuted)[0]
    assert (done.attempts, done.remote) == (1, {"id": "7"})


def test_refusals_take_none_of_the_retries_of_a_call_that_fails_too() -> None:
    story = ordering()
    for _ in range(3):
        story.answer(Misconfigured("401"))
        story.wait()
        story.answer(Failed("503"))
        story.wait()
    assert story.call.attempt == 4
    story.answer(Misconfigured("401"))
    story.wait()
    assert names(story.answer(Failed("503")))[:2] == ["ActionAttemptFailed", "ActionFailed"]


def test_a_call_that_was_refused_was_made_and_one_that_was_held_back_was_not() -> None:
    """Attempts are given back in both cases; a dead letter counts what its target has answered."""
    story = ordering()
    first = story.now
    story.answer(Misconfigured("401"))
    story.wait()
    story.answer(NotCalled(60_000_000, "target_configuration"))
    story.wait()
    last = story.now
    story.answer(FailedForGood("422"))
    letter = story.last(MessageDeadLettered)
    assert (letter.attempts, letter.first_attempt_at, letter.last_attempt_at) == (2, first, last)


def test_a_call_held_back_after_a_refusal_leaves_the_refusal_as_the_last_that_was_made() -> None:
    story = ordering()
    refused = story.now
    story.answer(Misconfigured("401"))
    story.wait()
    story.answer(NotCalled(60_000_000, "target_configuration"))
    work = story.state.queue[0]
    assert (work.calls, work.first_call, work.last_call) == (1, refused, refused)


def test_a_compensation_is_parked_too() -> None:
    story = Story(playbook({"create_order": "keyed", "notify_sales": "keyed"}))
    story.receive(order())
    story.answer(Done())
    story.answer(FailedForGood("no"))
    story.answer(Misconfigured("401"))
    deferred = story.last(ActionDeferred)
    assert (deferred.undo, deferred.reason) == (True, "target_configuration")
    story.wait()
    assert (story.call.key, story.call.attempt) == (f"{KEY}/undo", 1)


def test_a_wait_for_a_breaker_that_becomes_one_for_its_configuration_has_no_deadline_any_more() -> None:
    story = ordering()
    story.answer(NotCalled(60_000_000))
    assert story.last(ActionDeferred).deadline is not None
    story.wait()
    story.answer(NotCalled(10_000_000, "target_configuration"))
    assert story.last(ActionDeferred).deadline is None
    story.now += timedelta(days=30)
    story.tell(EndWait(KEY, 0))
    assert story.call.attempt == 1


@pytest.mark.parametrize("reason", ["busy", "target_configuration"])
def test_a_new_process_ends_the_waits_that_only_the_old_one_knew_of(reason: str) -> None:
    story = ordering()
    story.answer(NotCalled(60_000_000, reason))  # type: ignore[arg-type]
    story.crash()
    assert turns.out_of_turn(story.state) == EndWait(KEY, 0)


def test_other_waits_go_on_as_they_were_recorded() -> None:
    story = ordering()
    assert turns.out_of_turn(story.state) is None
    story.answer(NotCalled(60_000_000))
    assert turns.out_of_turn(story.state) is None
    story.wait()
    story.answer(Failed("503"))
    assert turns.out_of_turn(story.state) is None
    assert turns.out_of_turn(Story().state) is None


def test_a_wait_for_a_turn_has_no_deadline_and_takes_no_attempt() -> None:
    story = ordering("once")
    story.answer(NotCalled(60_000_000, "busy"))
    deferred = story.last(ActionDeferred)
    assert (deferred.deadline, deferred.returned_attempt) == (None, True)
    story.tell(EndWait(KEY, 0))
    assert [event.attempt for event in story.all(ActionStarted)] == [1, 1]
