"""Waits are recorded [H16], a breaker burns no attempts, and answers that nobody awaits give no events [H4]."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain import lead
from domain.commands import Command, EndWait, InterruptAction, RecordOutcome
from domain.events import ActionDeferred, ActionFailed, ActionStarted, MessageDeadLettered
from domain.lead import Wait
from domain.outcomes import Done, Failed, NotCalled, Unknown
from tests.support.domain_given import T0, Story, base_key, names, order
from tests.support.domain_rules import playbook

SECOND = timedelta(seconds=1)
KEY = f"{base_key()}/0.create_order"


def ordering() -> Story:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    return story


def test_a_wait_is_recorded_with_its_end_and_survives_a_crash() -> None:
    story = ordering()
    story.answer(Failed("503"))
    until = story.last(ActionDeferred).until
    story.now += timedelta(milliseconds=400)
    story.crash()
    assert story.due == Wait(KEY, 1, until - story.now)


def test_a_wait_that_has_passed_while_nobody_lived_is_over() -> None:
    story = ordering()
    story.answer(Failed("503"))
    story.crash()
    story.now += timedelta(days=1)
    assert story.due.delay == timedelta()


def test_a_clock_set_back_lengthens_no_wait() -> None:
    story = ordering()
    story.answer(Failed("503"))
    planned = story.due.delay
    story.now -= timedelta(hours=1)
    assert story.due.delay == planned
    assert story.crash().due.delay == planned


def test_an_open_breaker_makes_an_action_wait_without_burning_attempts() -> None:
    story = ordering()
    for _ in range(20):
        story.answer(NotCalled(10_000_000))
        assert story.due.delay == 10 * SECOND
        story.wait()
    assert (story.call.key, story.call.attempt) == (KEY, 1)
    story.answer(Failed("503"))
    story.wait()
    assert story.call.attempt == 2
    story.answer(NotCalled(10_000_000))
    story.wait()
    assert story.call.attempt == 2


def test_calls_that_were_held_back_are_no_calls() -> None:
    story = ordering()
    story.now += SECOND
    story.answer(NotCalled(10_000_000))
    assert story.state.queue[0].first_call is None
    for _ in range(90):
        story.wait()
        if not story.all(MessageDeadLettered):
            story.answer(NotCalled(10_000_000))
        else:
            break
    letter = story.last(MessageDeadLettered)
    assert (letter.attempts, letter.first_attempt_at, letter.last_attempt_at) == (0, None, None)


def test_the_last_call_is_the_last_that_was_made() -> None:
    story = ordering()
    story.answer(Failed("503"))
    story.wait()
    story.answer(NotCalled(1_000_000))
    work = story.state.queue[0]
    assert (work.calls, work.first_call, work.last_call) == (1, T0, T0)


def test_waiting_for_a_breaker_ends_at_its_deadline() -> None:
    story = ordering()
    story.answer(NotCalled(60_000_000))
    deadline = story.last(ActionDeferred).deadline
    assert deadline == T0 + timedelta(minutes=15)
    while not story.at_rest:
        story.wait()
        if not story.at_rest:
            story.answer(NotCalled(70_000_000))
            assert story.last(ActionDeferred).deadline == deadline
            assert story.last(ActionDeferred).until <= deadline
    assert story.now == deadline
    failed = story.last(ActionFailed)
    assert (failed.category, failed.maybe_done) == ("breaker_open", False)
    assert "waited for create_order-target" in failed.error
    assert story.last(MessageDeadLettered).category == "breaker_open"


def test_a_call_that_got_through_begins_a_new_deadline() -> None:
    story = ordering()
    story.answer(NotCalled(60_000_000))
    story.wait()
    story.answer(Failed("503"))
    assert story.last(ActionDeferred).deadline is None
    story.wait()
    story.answer(NotCalled(60_000_000))
    assert story.last(ActionDeferred).deadline == story.now + timedelta(minutes=15)


def test_a_deadline_after_an_unknown_attempt_keeps_the_key() -> None:
    story = ordering()
    story.answer(Unknown("timeout"))
    story.wait()
    while not story.at_rest:
        story.answer(NotCalled(400_000_000))
        story.wait()
    assert story.last(ActionFailed).maybe_done


def test_a_target_that_the_settings_do_not_name_is_waited_for_until_they_do() -> None:
    story = ordering()
    for _ in range(5):
        story.answer(NotCalled(600_000_000, "target_configuration"))
        deferred = story.last(ActionDeferred)
        assert (deferred.reason, deferred.deadline) == ("target_configuration", None)
        assert deferred.until == story.now + 600 * SECOND
        story.wait()
    assert (story.call.key, story.call.attempt) == (KEY, 1)


def test_a_deferred_action_names_the_target_it_waits_for() -> None:
    story = ordering()
    story.answer(Failed("503"))
    assert story.last(ActionDeferred).target == "create_order-target"
    story.wait()
    story.answer(NotCalled(1))
    assert story.last(ActionDeferred).target == "create_order-target"


# answers that nobody awaits


@pytest.mark.parametrize(
    "stale",
    [
        RecordOutcome(KEY, 2, Done()),
        RecordOutcome(f"{KEY}/undo", 1, Done()),
        RecordOutcome(f"{KEY}#2", 1, Done()),
        InterruptAction(KEY, 2),
        EndWait(KEY, 1),
        EndWait(KEY, 0),
    ],
)
def test_while_a_call_is_out_only_its_own_outcome_counts(stale: Command) -> None:
    assert ordering().tell(stale) == []


@pytest.mark.parametrize(
    "stale", [RecordOutcome(KEY, 1, Done()), InterruptAction(KEY, 1), EndWait(KEY, 2), EndWait("other", 1)]
)
def test_while_an_action_waits_only_its_own_timer_counts(stale: Command) -> None:
    story = ordering()
    story.answer(Failed("503"))
    assert story.tell(stale) == []


@pytest.mark.parametrize(
    "stale",
    [
        RecordOutcome(KEY, 1, Done()),
        RecordOutcome(KEY, 1, Unknown("x")),
        InterruptAction(KEY, 1),
        EndWait(KEY, 1),
    ],
)
def test_a_lead_at_rest_awaits_nothing(stale: Command) -> None:
    story = ordering()
    story.answer(Done())
    assert story.at_rest
    assert story.tell(stale) == []
    assert Story().tell(stale) == []


def test_an_outcome_counts_once() -> None:
    story = ordering()
    call = story.call
    story.answer(Failed("503"))
    story.wait()
    assert story.tell(RecordOutcome(call.key, call.attempt, Done())) == []
    assert story.call.attempt == 2


def test_asking_for_the_next_step_changes_nothing() -> None:
    story = ordering()
    assert lead.next_step(story.state, story.now) == lead.next_step(story.state, story.now)
    assert len(story.all(ActionStarted)) == 1


def test_a_timer_ends_one_wait() -> None:
    story = ordering()
    story.answer(Failed("503"))
    due = story.due
    story.wait()
    assert names(story.tell(EndWait(due.key, due.attempt))) == []
