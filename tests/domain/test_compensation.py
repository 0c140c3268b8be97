"""What was done is undone in reverse when a step fails for good, under keys of its own [H10]."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from domain import commands as co
from domain.events import (
    ActionCompensated,
    ActionExecuted,
    ActionStarted,
    CompensationFailed,
    DeadLetterResolved,
    Idempotency,
    MessageDeadLettered,
)
from domain.intents.handler import IntentHandler, Plan
from domain.outcomes import Done, Failed, FailedForGood, NotCalled, Outcome, Unknown
from tests.support.domain_given import Story, base_key, dead_letter_id, names, order
from tests.support.domain_rules import playbook

LONG = ("create_order", "create_support_ticket", "flag_for_review", "notify_sales")


def long_plan(targets: dict[str, Idempotency]) -> Story:
    """A message whose plan has all four actions."""
    module = ModuleType("long")
    handler = IntentHandler("LONG", lambda _message, _band: Plan(LONG, "x"))
    module.HANDLER = handler  # type: ignore[attr-defined]
    return Story(playbook(targets, modules=[module]))


def failed_at_the_end(idempotency: Idempotency = "keyed") -> Story:
    """Three actions done, the fourth failed for good: the compensation of the third is due."""
    targets: dict[str, Idempotency] = dict.fromkeys(LONG, idempotency)
    story = long_plan(targets)
    story.receive("m1", intent="LONG")
    for n in range(3):
        story.answer(Done({"id": str(n)}))
    story.answer(FailedForGood("no"))
    return story


def key(n: int) -> str:
    return f"{base_key()}/{n}.{LONG[n]}"


def give_up(story: Story, outcome: Outcome) -> None:
    for _ in range(3):
        story.answer(outcome)
        story.wait()
    story.answer(outcome)


def test_what_was_done_is_undone_in_reverse() -> None:
    story = failed_at_the_end()
    for _ in range(3):
        story.answer(Done())
    undone = story.all(ActionCompensated)
    assert [event.n for event in undone] == [2, 1, 0]
    tasks = {event.n: event.task.task_id for event in story.all(ActionExecuted)}
    assert [event.task_id for event in undone] == [tasks[2], tasks[1], tasks[0]]
    assert story.last(MessageDeadLettered).category == "action_failed"
    assert story.state.tasks == {}
    assert story.at_rest


def test_a_compensation_has_a_key_attempts_and_a_target_of_its_own() -> None:
    story = failed_at_the_end()
    call = story.call
    assert (call.key, call.attempt, call.undo) == (f"{key(2)}/undo", 1, True)
    assert call.target == "flag_for_review-target"
    assert call.remote == {"id": "2"}
    assert call.task is not None
    assert call.task == story.all(ActionExecuted)[2].task
    story.answer(Failed("503"))
    story.wait()
    assert (story.call.key, story.call.attempt) == (f"{key(2)}/undo", 2)


def test_without_targets_everything_is_undone_in_one_go() -> None:
    story = long_plan({"notify_sales": "keyed"})
    story.receive("m1", intent="LONG")
    assert names(story.answer(FailedForGood("no"))) == [
        "ActionAttemptFailed",
        "ActionFailed",
        "ActionCompensated",
        "LeadUnflagged",
        "ActionCompensated",
        "ActionCompensated",
        "MessageDeadLettered",
    ]


def test_the_first_action_that_fails_has_nothing_to_undo() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    assert "ActionCompensated" not in names(story.answer(FailedForGood("no")))


def test_after_a_compensation_that_failed_the_others_still_run() -> None:
    story = failed_at_the_end()
    story.answer(Done())
    give_up(story, Failed("503"))
    failed = story.last(CompensationFailed)
    assert (failed.n, failed.action, failed.attempts, failed.error) == (1, LONG[1], 4, "503")
    assert story.call.key == f"{key(0)}/undo"
    story.answer(Done())
    assert [event.n for event in story.all(ActionCompensated)] == [2, 0]
    letter = story.last(MessageDeadLettered)
    assert letter.category == "compensation_failed"
    assert letter.error == "no; compensation of create_support_ticket failed: 503"
    assert list(story.state.tasks) == [failed.task_id]


def test_a_compensation_of_unknown_outcome_towards_a_once_target_is_a_failed_one() -> None:
    story = failed_at_the_end("once")
    story.answer(Unknown("timeout"))
    assert story.last(CompensationFailed).error == "timeout"
    assert story.call.key == f"{key(1)}/undo"


def test_cancelling_an_order_is_tried_again_where_nothing_happened() -> None:
    story = failed_at_the_end("once")
    story.answer(Done())
    story.answer(Done())
    story.answer(Failed("connection refused"))
    story.wait()
    assert (story.call.key, story.call.attempt) == (f"{key(0)}/undo", 2)


def test_a_compensation_waits_for_its_breaker_too() -> None:
    story = failed_at_the_end()
    story.answer(NotCalled(10_000_000))
    story.wait()
    assert (story.call.key, story.call.attempt) == (f"{key(2)}/undo", 1)


def test_a_person_settles_a_failed_compensation_and_may_then_retry() -> None:
    story = failed_at_the_end()
    give_up(story, Failed("503"))
    story.answer(Done())
    story.answer(Done())
    retry = co.RetryDeadLetter(command_id="c1", by="ann", dead_letter_id=dead_letter_id())
    assert names(story.command(retry)) == ["CommandRefused"]
    undone = co.ResolveDeadLetter(
        command_id="c2", by="ann", dead_letter_id=dead_letter_id(), outcome="undone"
    )
    assert names(story.command(undone)) == ["ActionCompensated", "LeadUnflagged", "DeadLetterResolved"]
    assert story.last(ActionCompensated).settled_by == "ann"
    assert story.state.tasks == {}
    again = co.RetryDeadLetter(command_id="c3", by="ann", dead_letter_id=dead_letter_id())
    story.command(again)
    assert story.call.key == f"{key(0)}#2"


# keys of later runs


def retry(story: Story, command_id: str) -> None:
    story.command(co.RetryDeadLetter(command_id=command_id, by="ann", dead_letter_id=dead_letter_id()))


def test_a_second_run_after_compensation_has_keys_of_its_own() -> None:
    story = failed_at_the_end()
    for _ in range(3):
        story.answer(Done())
    retry(story, "c1")
    for n in range(4):
        assert story.call.key == f"{key(n)}#2"
        story.answer(Done())
    assert story.history[-1].event.__class__.__name__ == "MessageCompleted"


def test_a_second_run_where_nothing_was_compensated_keeps_the_keys() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    story.answer(FailedForGood("no"))
    retry(story, "c1")
    assert story.call.key == f"{base_key()}/0.create_order"


def test_a_step_that_may_have_happened_keeps_its_key_in_the_next_run() -> None:
    targets: dict[str, Idempotency] = {"create_order": "keyed", "notify_sales": "keyed"}
    story = Story(playbook(targets))
    story.receive(order())
    story.answer(Done())
    give_up(story, Unknown("timeout"))
    story.answer(Done())
    assert "an attempt may have happened" in story.last(MessageDeadLettered).error
    retry(story, "c1")
    assert story.call.key == f"{base_key()}/0.create_order#2"
    story.answer(Done())
    assert story.call.key == f"{base_key()}/1.notify_sales"


def test_a_key_that_was_done_and_undone_is_never_used_again() -> None:
    targets: dict[str, Idempotency] = dict.fromkeys(LONG, "keyed")
    story = long_plan(targets)
    story.receive("m1", intent="LONG")
    story.answer(Done())
    give_up(story, Unknown("timeout"))  # step 1 may have happened
    story.answer(Done())  # step 0 is undone
    retry(story, "c1")
    story.answer(Done())
    assert story.call.key == key(1)
    story.answer(Done())  # now it has, under its first key
    story.answer(FailedForGood("no"))
    for _ in range(2):
        story.answer(Done())  # and is undone
    retry(story, "c2")
    story.answer(Done())
    assert story.call.key == f"{key(1)}#3"
    keys = [start.key for start in story.all(ActionStarted)]
    assert key(1) not in keys[keys.index(f"{key(1)}/undo") :]


def test_each_run_after_compensation_names_itself() -> None:
    story = failed_at_the_end()
    for _ in range(3):
        story.answer(Done())
    for run in (2, 3):
        retry(story, f"c{run}")
        assert story.call.key == f"{key(0)}#{run}"
        story.answer(Done())
        story.answer(FailedForGood("again"))
        assert story.call.key == f"{key(0)}#{run}/undo"
        story.answer(Done())
    assert [letter.run for letter in story.all(MessageDeadLettered)] == [1, 2, 3]
    assert {letter.dead_letter_id for letter in story.all(MessageDeadLettered)} == {dead_letter_id()}


# a compensation that failed, tried again or left


def settle(story: Story, outcome: Any) -> list[str]:
    command = co.ResolveDeadLetter(
        command_id=f"c-{outcome}", by="ann", dead_letter_id=dead_letter_id(), outcome=outcome
    )
    return names(story.command(command))


def two_not_undone() -> Story:
    """Steps 2 and 0 could not be undone, step 1 is."""
    story = failed_at_the_end()
    give_up(story, Failed("503"))
    story.answer(Done())
    give_up(story, Failed("503"))
    return story


def test_compensations_that_failed_are_called_again_in_reverse_and_none_that_succeeded() -> None:
    story = two_not_undone()
    assert settle(story, "retry") == ["DeadLetterResolved", "ActionStarted"]
    assert story.call.key == f"{key(2)}/undo"
    story.answer(Done())
    assert story.call.key == f"{key(0)}/undo"
    story.answer(Done())
    assert sorted(event.n for event in story.all(ActionCompensated)) == [0, 1, 2]
    letter = story.last(MessageDeadLettered)
    assert (letter.category, letter.settled) == ("action_failed", False)
    assert "undone again as ann had it" in letter.error
    assert story.state.tasks == {}
    retry(story, "c9")
    assert story.call.key == f"{key(0)}#2"


def test_a_compensation_that_fails_again_is_for_a_person_again() -> None:
    story = two_not_undone()
    settle(story, "retry")
    give_up(story, Failed("503"))
    story.answer(Done())
    assert story.last(MessageDeadLettered).category == "compensation_failed"
    assert story.state.letters[dead_letter_id()].undo_failed == [2]


def test_a_compensation_that_is_left_stands_with_its_task_and_the_message_is_closed() -> None:
    story = two_not_undone()
    assert settle(story, "skip") == ["DeadLetterResolved"]
    assert story.last(DeadLetterResolved).outcome == "skipped"
    assert len(story.state.tasks) == 2
    assert story.state.letters == {}
    again = co.RetryDeadLetter(command_id="c9", by="ann", dead_letter_id=dead_letter_id())
    assert names(story.command(again)) == ["CommandRefused"]
