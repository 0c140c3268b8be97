"""When a failed call is made again: 1, 5 and 15 seconds on the events' own times, under one key."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import ActionAttemptFailed, ActionDeferred, ActionExecuted, ActionFailed, ActionStarted
from domain.outcomes import Done, Failed, FailedForGood, Outcome, Unknown
from domain.retry import RetryPolicy, delay_before
from domain.saga import MAX_THROTTLED
from tests.support.domain_given import T0, Story, base_key, names, order
from tests.support.domain_rules import playbook

SECOND = timedelta(seconds=1)
KEY = f"{base_key()}/0.create_order"
THROTTLED = Failed("the target answered 429", retry_after_us=1_000_000, throttled=True)


def ordering(idempotency: str = "keyed", retry: RetryPolicy | None = None) -> Story:
    story = Story(playbook({"create_order": idempotency}, retry=retry))
    story.receive(order())
    return story


def fail_until_given_up(story: Story, outcome: Outcome) -> None:
    for _ in range(3):
        story.answer(outcome)
        story.wait()
    story.answer(outcome)


@pytest.mark.parametrize("idempotency", ["none", "keyed"])
@pytest.mark.parametrize("outcome", [Failed("503"), Unknown("timeout")])
def test_a_call_is_made_again_after_1_5_and_15_seconds_and_then_given_up(
    idempotency: str, outcome: Outcome
) -> None:
    story = ordering(idempotency)
    fail_until_given_up(story, outcome)
    for gap, planned in zip(story.gaps(), (1, 5, 15), strict=True):
        assert planned * 0.9 <= gap <= planned * 1.1
    assert [event.attempt for event in story.all(ActionAttemptFailed)] == [1, 2, 3, 4]
    assert story.last(ActionFailed).attempts == 4
    assert story.at_rest


def test_every_attempt_carries_the_same_key() -> None:
    story = ordering()
    fail_until_given_up(story, Failed("503"))
    assert [(start.key, start.attempt) for start in story.all(ActionStarted)] == [
        (KEY, attempt) for attempt in (1, 2, 3, 4)
    ]


def test_the_call_says_its_key_and_attempt_and_has_all_it_needs() -> None:
    story = ordering()
    story.answer(Failed("503"))
    story.wait()
    call = story.call
    assert (call.key, call.attempt, call.action, call.target) == (
        KEY,
        2,
        "create_order",
        "create_order-target",
    )
    assert call.message.entities == {"product": "laptop"}
    assert call.response
    assert not call.undo


def test_a_retry_that_succeeds_goes_on_with_the_plan() -> None:
    story = ordering()
    story.answer(Failed("503"))
    story.wait()
    assert names(story.answer(Done({"order_id": "7"}))) == [
        "ActionExecuted",
        "ActionExecuted",
        "MessageCompleted",
    ]
    done = story.all(ActionExecuted)[0]
    assert (done.attempts, done.remote, done.key) == (2, {"order_id": "7"}, KEY)


def test_what_failed_for_good_is_not_tried_again() -> None:
    story = ordering()
    assert names(story.answer(FailedForGood("no such product"))) == [
        "ActionAttemptFailed",
        "ActionFailed",
        "MessageDeadLettered",
    ]
    failed = story.last(ActionFailed)
    assert (failed.category, failed.error, failed.maybe_done) == ("action_failed", "no such product", False)


def test_a_once_target_is_called_again_only_where_nothing_happened() -> None:
    story = Story(playbook({"notify_sales": "once"}))
    story.receive("m1")
    story.answer(Failed("connection refused"))
    story.wait()
    assert story.call.attempt == 2
    story.answer(Unknown("timeout"))
    assert story.at_rest
    assert story.last(ActionFailed).category == "outcome_unknown"


def test_create_order_towards_a_once_target_is_never_repeated() -> None:
    story = ordering("once")
    story.answer(Failed("connection refused"))
    assert story.at_rest
    assert len(story.all(ActionStarted)) == 1
    assert story.last(ActionFailed).category == "action_failed"


@pytest.mark.parametrize("idempotency", ["none", "keyed", "once"])
def test_a_429_takes_none_of_a_calls_retries_whatever_the_target(idempotency: str) -> None:
    story = ordering(idempotency)
    for _ in range(MAX_THROTTLED - 1):
        assert names(story.answer(THROTTLED)) == ["ActionAttemptFailed", "ActionDeferred"]
        story.wait()
    assert {event.kind for event in story.all(ActionAttemptFailed)} == {"throttled"}
    if idempotency != "once":  # an order is not repeated there
        for _ in range(3):
            story.answer(Failed("503"))
            story.wait()
    story.answer(Done())
    assert story.all(ActionExecuted)[0].action == "create_order"


def test_a_target_that_puts_a_call_off_again_and_again_is_given_up() -> None:
    story = ordering("once")
    for _ in range(MAX_THROTTLED - 1):
        story.answer(THROTTLED)
        story.wait()
    story.answer(THROTTLED)
    failed = story.last(ActionFailed)
    assert (failed.category, failed.maybe_done) == ("action_failed", False)
    assert failed.error == f"the target answered 429 ({MAX_THROTTLED} times)"
    assert len({event.attempt for event in story.all(ActionStarted)}) == MAX_THROTTLED, "each is a call made"


def test_a_429_without_a_time_is_waited_for_as_a_failure_is() -> None:
    story = ordering(retry=RetryPolicy(delays=()))
    story.answer(Failed("429", throttled=True))
    assert 0.9 * SECOND <= story.due.delay <= 1.1 * SECOND
    story = ordering()
    for _ in range(6):
        story.answer(Failed("429", throttled=True))
        story.wait()
    for gap, planned in zip(story.gaps(), (1, 5, 15, 15, 15, 15), strict=True):
        assert planned * 0.9 <= gap <= planned * 1.1


def test_a_compensation_that_is_put_off_too_often_is_a_failed_one() -> None:
    story = Story(playbook({"create_order": "keyed", "notify_sales": "keyed"}))
    story.receive(order())
    story.answer(Done())
    story.answer(FailedForGood("no"))
    for _ in range(MAX_THROTTLED - 1):
        story.answer(THROTTLED)
        story.wait()
    assert "CompensationFailed" in names(story.answer(THROTTLED))


def test_an_error_that_no_store_takes_is_recorded_all_the_same() -> None:
    story = ordering()
    story.answer(Failed("a\0b\udc80"))
    assert story.last(ActionAttemptFailed).error == "a\ufffdb\ufffd"


# the policy alone


def test_jitter_is_at_most_a_tenth_and_the_same_for_the_same_key_and_attempt() -> None:
    policy = RetryPolicy()
    delays = {delay_before(policy, f"key-{n}", 2) for n in range(500)}
    assert all(0.9 * SECOND <= delay <= 1.1 * SECOND for delay in delays)
    assert len(delays) > 400
    assert min(delays) < 0.92 * SECOND
    assert max(delays) > 1.08 * SECOND
    assert delay_before(policy, "a", 2) == delay_before(policy, "a", 2)
    assert delay_before(policy, "a", 3) != 5 * delay_before(policy, "a", 2)


def test_a_retry_after_is_honoured_up_to_the_cap() -> None:
    story = ordering()
    for asked, waited in ((60, 60), (4000, 300), (10**30, 300)):
        story.answer(Failed("429", retry_after_us=asked * 1_000_000, throttled=True))
        deferred = story.last(ActionDeferred)
        assert deferred.until - story.now == waited * SECOND
        story.wait()


@pytest.mark.parametrize("asked", [0, -5_000_000, 1])
def test_a_retry_after_never_shortens_a_wait(asked: int) -> None:
    delay = delay_before(RetryPolicy(), "key", 3, retry_after_us=asked)
    assert delay == delay_before(RetryPolicy(), "key", 3)


@given(st.text(max_size=50), st.integers(2, 4), st.none() | st.integers(-(10**40), 10**40))
def test_any_wait_lies_between_the_plan_and_the_cap(key: str, attempt: int, asked: int | None) -> None:
    policy = RetryPolicy()
    base = policy.delays[attempt - 2]
    delay = delay_before(policy, key.encode("utf-8", "replace").decode(), attempt, retry_after_us=asked)
    assert base * 0.9 <= delay <= max(base * 1.1, policy.retry_after_cap)


def test_the_number_of_delays_bounds_the_attempts() -> None:
    story = ordering(retry=RetryPolicy(delays=()))
    story.answer(Failed("503"))
    assert story.last(ActionFailed).attempts == 1
    assert RetryPolicy().attempts == 4


def test_fewer_attempts_in_new_settings_end_what_has_already_had_more() -> None:
    story = ordering()
    story.answer(Failed("503"))
    story.wait()
    story.rules = playbook({"create_order": "keyed"}, retry=RetryPolicy(delays=()))
    story.answer(Failed("503"))
    assert story.last(ActionFailed).attempts == 2


def test_the_clock_of_the_tests_stands_still_until_told() -> None:
    assert ordering().now == T0
