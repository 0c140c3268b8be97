"""Nobody knows whether it happened: nothing is undone, repeated or forgotten until a person says so."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain import commands as co
from domain.events import (
    ActionExecuted,
    ActionFailed,
    ActionInterrupted,
    ActionStarted,
    CommandRefused,
    DeadLetterResolved,
    Idempotency,
    MessageCompleted,
    MessageDeadLettered,
)
from domain.outcomes import Done, Failed, FailedForGood, Unknown
from domain.saga import MAX_INTERRUPTED
from tests.support.domain_given import Story, base_key, dead_letter_id, message, names, order
from tests.support.domain_rules import playbook

BOTH: dict[str, Idempotency] = {"create_order": "keyed", "notify_sales": "once"}


def unknown_second() -> Story:
    """The order is placed; whether sales were told towards a once target, nobody knows."""
    story = Story(playbook(BOTH))
    story.receive(order())
    story.answer(Done({"order_id": "7"}))
    story.answer(Unknown("timeout"))
    return story


def unknown_first() -> Story:
    """Whether the order was placed towards a once target, nobody knows; sales are not told yet."""
    story = Story(playbook({"create_order": "once"}))
    story.receive(order())
    story.answer(Unknown("timeout"))
    return story


def settle(story: Story, outcome: str | None, command_id: str = "c1") -> list[str]:
    command = co.ResolveDeadLetter(
        command_id=command_id,
        by="ann",
        dead_letter_id=dead_letter_id(),
        outcome=outcome,  # type: ignore[arg-type]
    )
    return names(story.command(command))


def test_an_unknown_outcome_of_a_once_target_is_dead_lettered_uncompensated() -> None:
    story = unknown_second()
    kinds = names(recorded.event for recorded in story.history)
    assert kinds[-3:] == ["ActionAttemptFailed", "ActionFailed", "MessageDeadLettered"]
    assert "ActionCompensated" not in kinds
    assert story.last(ActionFailed).category == "outcome_unknown"
    assert story.last(MessageDeadLettered).category == "outcome_unknown"
    assert len(story.state.tasks) == 1
    assert story.at_rest


@pytest.mark.parametrize("idempotency", ["none", "keyed"])
def test_an_unknown_outcome_elsewhere_is_simply_tried_again(idempotency: Idempotency) -> None:
    story = Story(playbook({"create_order": idempotency}))
    story.receive(order())
    story.answer(Unknown("timeout"))
    story.wait()
    assert (story.call.key, story.call.attempt) == (f"{base_key()}/0.create_order", 2)


def test_it_cannot_be_retried_or_settled_without_an_answer() -> None:
    story = unknown_second()
    retry = co.RetryDeadLetter(command_id="c0", by="ann", dead_letter_id=dead_letter_id())
    assert names(story.command(retry)) == ["CommandRefused"]
    assert "nobody knows whether notify_sales happened" in story.last(CommandRefused).reason
    assert settle(story, None) == ["CommandRefused"]
    assert "say --as done|undone|retry|skip" in story.last(CommandRefused).reason


def test_settled_as_done_the_last_action_completes_the_message() -> None:
    story = unknown_second()
    assert settle(story, "done") == ["ActionExecuted", "DeadLetterResolved"]
    executed = story.last(ActionExecuted)
    assert (executed.action, executed.settled_by, executed.attempts) == ("notify_sales", "ann", 0)
    assert not story.last(DeadLetterResolved).requeued
    assert len(story.state.tasks) == 2
    assert story.state.letters == {}


def test_settled_as_done_the_rest_of_the_plan_is_carried_out() -> None:
    story = unknown_first()
    assert settle(story, "done") == [
        "ActionExecuted",
        "DeadLetterResolved",
        "ActionExecuted",
        "MessageCompleted",
    ]
    assert story.last(DeadLetterResolved).requeued
    assert [event.action for event in story.all(ActionExecuted)] == ["create_order", "notify_sales"]


def test_settled_as_done_and_failing_later_it_is_compensated_with_the_rest() -> None:
    targets: dict[str, Idempotency] = {"create_order": "once", "notify_sales": "keyed"}
    story = Story(playbook(targets))
    story.receive(order())
    story.answer(Unknown("timeout"))
    settle(story, "done")
    story.answer(FailedForGood("no"))
    assert story.call.key == f"{base_key()}/0.create_order/undo"


def test_settled_as_undone_what_was_done_is_compensated() -> None:
    story = unknown_second()
    assert settle(story, "undone") == ["DeadLetterResolved", "ActionStarted"]
    assert story.call.key == f"{base_key()}/0.create_order/undo"
    assert story.call.remote == {"order_id": "7"}
    assert names(story.answer(Done())) == ["ActionCompensated", "MessageDeadLettered"]
    letter = story.last(MessageDeadLettered)
    assert (letter.category, letter.settled) == ("action_failed", True)
    assert letter.error == "timeout (settled as undone by ann)"
    assert story.state.tasks == {}


def test_settled_as_undone_with_nothing_done_needs_no_work() -> None:
    story = unknown_first()
    assert settle(story, "undone") == ["DeadLetterResolved"]
    assert not story.last(DeadLetterResolved).requeued
    assert story.at_rest


def test_settled_as_undone_it_may_be_retried() -> None:
    story = unknown_first()
    settle(story, "undone")
    story.command(co.RetryDeadLetter(command_id="c2", by="ann", dead_letter_id=dead_letter_id()))
    assert story.call.key == f"{base_key()}/0.create_order"


def test_a_compensation_that_fails_after_settling_is_a_person_s_again() -> None:
    story = unknown_second()
    settle(story, "undone")
    story.answer(FailedForGood("shipped"))
    letter = story.last(MessageDeadLettered)
    assert (letter.category, letter.settled) == ("compensation_failed", False)
    retry = co.RetryDeadLetter(command_id="c2", by="ann", dead_letter_id=dead_letter_id())
    assert names(story.command(retry)) == ["CommandRefused"]
    assert settle(story, "undone", "c3") == ["ActionCompensated", "DeadLetterResolved"]


def test_while_it_is_a_person_s_again_its_id_begins_no_second_life() -> None:
    story = unknown_second()
    settle(story, "undone")
    story.answer(FailedForGood("shipped"))
    story.now += timedelta(days=9)
    assert names(story.receive(order())) == ["DuplicateDetected"]
    assert settle(story, "undone", "c3") == ["ActionCompensated", "DeadLetterResolved"]


def test_settling_joins_the_end_of_the_queue() -> None:
    story = unknown_first()
    story.receive(order("m2"))
    assert settle(story, "done") == ["ActionExecuted", "DeadLetterResolved"]
    assert story.call.message.message_id == "m2"
    story.answer(Done())
    assert [event.message_id for event in story.all(ActionExecuted)] == ["m1", "m2", "m2", "m1"]


def test_the_lead_goes_on_with_its_next_message_meanwhile() -> None:
    story = unknown_second()
    story.receive(message("m2"))
    assert story.call.message.message_id == "m2"


# calls interrupted by a crash [H3]


@pytest.mark.parametrize("idempotency", ["none", "keyed"])
def test_an_interrupted_call_is_made_again_with_the_same_key(idempotency: Idempotency) -> None:
    story = Story(playbook({"create_order": idempotency}))
    story.receive(order())
    story.crash()
    assert names(story.interrupt()) == ["ActionInterrupted", "ActionStarted"]
    assert (story.call.key, story.call.attempt) == (f"{base_key()}/0.create_order", 2)
    assert story.answer(Done())[-1].__class__.__name__ == "MessageCompleted"


def test_an_interrupted_call_of_a_once_target_is_unknown() -> None:
    story = Story(playbook(BOTH))
    story.receive(order())
    story.answer(Done())
    story.crash()
    assert names(story.interrupt()) == ["ActionInterrupted", "ActionFailed", "MessageDeadLettered"]
    assert story.last(ActionInterrupted).key == f"{base_key()}/1.notify_sales"
    assert story.last(MessageDeadLettered).category == "outcome_unknown"


def test_interruptions_take_none_of_the_retries() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    for _ in range(5):
        story.crash().interrupt()
    for _ in range(3):
        assert names(story.answer(Failed("500"))) == ["ActionAttemptFailed", "ActionDeferred"]
        story.wait()
    assert names(story.answer(Failed("500")))[:2] == ["ActionAttemptFailed", "ActionFailed"]


def test_a_call_that_the_process_ends_with_again_and_again_is_given_up_and_keeps_its_key() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    for _ in range(MAX_INTERRUPTED - 1):
        assert names(story.crash().interrupt()) == ["ActionInterrupted", "ActionStarted"]
    assert names(story.crash().interrupt()) == ["ActionInterrupted", "ActionFailed", "MessageDeadLettered"]
    failed = story.last(ActionFailed)
    assert (failed.attempts, failed.maybe_done, failed.category) == (MAX_INTERRUPTED, True, "action_failed")
    story.command(co.RetryDeadLetter(command_id="c1", by="ann", dead_letter_id=dead_letter_id()))
    assert story.call.key == f"{base_key()}/0.create_order"


@pytest.mark.parametrize(
    ("idempotency", "kind"), [("keyed", "ActionStarted"), ("once", "CompensationFailed")]
)
def test_an_interrupted_compensation_is_judged_by_its_target_too(idempotency: Idempotency, kind: str) -> None:
    story = Story(playbook({"create_order": idempotency, "notify_sales": "keyed"}))
    story.receive(order())
    story.answer(Done())
    story.answer(FailedForGood("no"))
    assert story.call.undo
    assert names(story.crash().interrupt())[:2] == ["ActionInterrupted", kind]


# called again, or left out


def test_a_step_of_unknown_outcome_is_called_again_under_its_key_and_the_plan_goes_on() -> None:
    story = unknown_first()
    key = story.last(ActionStarted).key
    assert settle(story, "retry") == ["DeadLetterResolved", "ActionStarted"]
    assert story.last(DeadLetterResolved).outcome == "retried"
    assert story.last(DeadLetterResolved).by == "ann"
    assert story.call.key == key
    story.answer(Done())
    assert story.last(MessageCompleted).executed == ("create_order", "notify_sales")
    assert story.state.letters == {}


def test_a_step_called_again_whose_answer_is_lost_again_is_unknown_again() -> None:
    story = unknown_first()
    settle(story, "retry")
    story.answer(Unknown("timeout"))
    assert story.last(MessageDeadLettered).category == "outcome_unknown"
    assert story.state.letters[dead_letter_id()].unknown == 0


def test_a_step_of_unknown_outcome_is_left_out_and_the_rest_follows() -> None:
    story = unknown_first()
    assert settle(story, "skip") == ["DeadLetterResolved", "ActionExecuted", "MessageCompleted"]
    assert story.last(MessageCompleted).executed == ("notify_sales",)
    assert [event.action for event in story.all(ActionExecuted)] == ["notify_sales"]


@pytest.mark.parametrize("outcome", ["retry", "skip"])
def test_where_no_step_is_open_there_is_nothing_to_call_again_or_to_leave_out(outcome: str) -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    story.answer(FailedForGood("no"))
    assert settle(story, outcome) == ["CommandRefused"]
