"""Where a business keeps the order over dead letters: a lead's later messages wait behind one until it is settled."""

from __future__ import annotations

from typing import Any

import pytest

from domain import commands as co
from domain import lead
from domain.events import (
    ActionsPlanned,
    DeadLetterRetried,
    MessageCompleted,
    MessageDeadLettered,
    MessageReceived,
)
from domain.outcomes import Done, FailedForGood, Unknown
from tests.support.domain_given import Story, dead_letter_id, names, order
from tests.support.domain_rules import playbook

LETTER = dead_letter_id("m1")


def parked(*later: str, idempotency: Any = "keyed") -> Story:
    """m1 is a dead letter, and the later ones have come."""
    story = Story(playbook({"create_order": idempotency}, parks=True))
    story.receive(order("m1"))
    story.answer(Unknown("timeout") if idempotency == "once" else FailedForGood("no"))
    for message_id in later:
        story.receive(order(message_id))
    return story


def give(story: Story, kind: Any, letter: str = LETTER, **fields: Any) -> list[str]:
    command_id = f"c{len(story.history)}"
    return names(story.command(kind(command_id=command_id, by="ann", dead_letter_id=letter, **fields)))


def completed(story: Story) -> list[str]:
    return [event.message_id for event in story.all(MessageCompleted)]


def test_later_messages_are_received_and_wait_behind_the_dead_letter() -> None:
    story = parked("m2", "m3")
    assert story.last(MessageDeadLettered).parks
    assert [event.behind for event in story.all(MessageReceived)] == [None, LETTER, LETTER]
    assert story.at_rest
    assert len(story.all(ActionsPlanned)) == 1


def test_without_the_setting_they_go_on() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order("m1"))
    story.answer(FailedForGood("no"))
    story.receive(order("m2"))
    assert not story.last(MessageDeadLettered).parks
    assert story.call.message.message_id == "m2"


def test_one_that_is_in_the_queue_already_waits_too() -> None:
    story = Story(playbook({"create_order": "keyed"}, parks=True))
    story.receive(order("m1"))
    story.receive(order("m2"))
    assert "ActionsPlanned" not in names(story.answer(FailedForGood("no")))
    assert story.at_rest


def test_a_retry_goes_before_those_that_wait_and_its_success_lets_them_go_in_order() -> None:
    story = parked("m2", "m3")
    give(story, co.RetryDeadLetter)
    assert story.call.message.message_id == "m1"
    for _ in range(3):
        story.answer(Done())
    assert completed(story) == ["m1", "m2", "m3"]


def test_a_retry_that_fails_again_keeps_them_waiting() -> None:
    story = parked("m2")
    give(story, co.RetryDeadLetter)
    story.answer(FailedForGood("no"))
    assert story.at_rest
    assert story.state.holder == LETTER


def test_a_crash_lets_nobody_go() -> None:
    story = parked("m2").crash()
    assert lead.is_held(story.state)
    assert story.at_rest


@pytest.mark.parametrize("kind", [co.DiscardDeadLetter, co.ResolveDeadLetter])
def test_one_that_is_discarded_or_resolved_lets_them_go(kind: Any) -> None:
    story = parked("m2", "m3")
    give(story, kind)
    assert story.call.message.message_id == "m2"
    story.answer(Done())
    assert story.call.message.message_id == "m3"


@pytest.mark.parametrize(
    ("outcome", "first"), [("done", "m1"), ("skip", "m1"), ("retry", "m1"), ("undone", "m2")]
)
def test_what_a_person_says_of_an_unknown_step_decides_who_goes_first(outcome: str, first: str) -> None:
    story = parked("m2", idempotency="once")
    give(story, co.ResolveDeadLetter, outcome=outcome)
    if outcome == "retry":
        story.answer(Done())
    if outcome != "undone":
        assert completed(story)[0] == first
    assert story.call.message.message_id == "m2"
    assert story.state.holder is None


def test_another_dead_letter_that_is_retried_waits_like_the_others() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order("m0"))
    story.answer(FailedForGood("no"))
    story.rules = playbook({"create_order": "keyed"}, parks=True)
    story.receive(order("m1"))
    story.answer(FailedForGood("no"))
    give(story, co.RetryDeadLetter, dead_letter_id("m0"))
    assert story.last(DeadLetterRetried).behind == LETTER
    assert story.at_rest
    give(story, co.DiscardDeadLetter)
    assert story.call.message.message_id == "m0"


def test_what_was_decided_stays_when_the_setting_changes() -> None:
    story = parked("m2")
    story.rules = playbook({"create_order": "keyed"})
    story.crash()
    assert story.at_rest
    give(story, co.RetryDeadLetter)
    story.answer(FailedForGood("no"))
    assert not story.last(MessageDeadLettered).parks
    assert story.call.message.message_id == "m2", "the business lets messages go on now"
