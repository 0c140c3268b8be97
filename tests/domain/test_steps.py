"""An action with several targets: a step for each, started, retried, settled and undone one by one."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from domain import codec, lead
from domain import commands as co
from domain.commands import InterruptAction, RecordOutcome
from domain.events import (
    ActionCompensated,
    ActionExecuted,
    ActionFailed,
    ActionsPlanned,
    ActionStarted,
    CommandRefused,
    CompensationFailed,
    LeadFlagged,
    LeadUnflagged,
    MessageCompleted,
    MessageDeadLettered,
    PlannedAction,
    StepCompensated,
    StepExecuted,
)
from domain.intents.handler import IntentHandler, Plan
from domain.lead import Wait
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, NotCalled, Outcome, Unknown
from domain.playbook import Route
from domain.ports import ActionCall
from domain.tokens import derived_id
from tests.support.domain_given import Story, base_key, dead_letter_id, given, message, names, order
from tests.support.domain_invariants import OF_HISTORY, OF_STATE
from tests.support.domain_rules import playbook

A = "create_order-target.a"
B = "create_order-target.b"
C = "create_order-target.c"


def ordering(*classes: str, sales: Any = None) -> Story:
    """An order that goes to several targets, then sales are told."""
    targets = {"create_order": classes, **({"notify_sales": sales} if sales else {})}
    story = Story(playbook(targets))
    story.receive(order())
    return story


def key(n: int, action: str = "create_order") -> str:
    return f"{base_key()}/{n}.{action}"


def tell(story: Story, command: type[Any], command_id: str, **fields: Any) -> list[str]:
    told = command(command_id=command_id, by="ann", dead_letter_id=dead_letter_id(), **fields)
    return names(story.command(told))


def give_up(story: Story, outcome: Outcome) -> None:
    for _ in range(3):
        story.answer(outcome)
        story.wait()
    story.answer(outcome)


# the plan


def test_each_target_is_a_step_of_the_plan_with_its_own_place_and_key() -> None:
    story = ordering("keyed", "once")
    assert story.last(ActionsPlanned).actions == (
        PlannedAction(0, "create_order", key(0), A, "keyed", "a", 0, 2),
        PlannedAction(1, "create_order", key(1), B, "once", "b", 1, 2),
        PlannedAction(2, "notify_sales", key(2, "notify_sales")),
    )


def test_with_one_target_or_none_the_plan_is_stored_as_ever() -> None:
    story = Story(playbook({"create_order": ("keyed",)}))
    story.receive(order())
    planned = next(r for r in story.history if isinstance(r.event, ActionsPlanned))
    _, row = codec.encode(planned)
    assert b'"n":0,"action":"create_order","key":"acme-foods/lead-1/m1/0.create_order"' in row
    for field in (b'"name"', b'"part"', b'"parts"'):
        assert field not in row


def test_two_actions_of_the_same_name_are_two_actions_with_their_own_steps() -> None:
    twice = ModuleType("twice")
    plan = Plan(("create_order", "create_order"), "x")
    twice.HANDLER = IntentHandler("TWICE", lambda _m, _b: plan)  # type: ignore[attr-defined]
    story = Story(playbook({"create_order": ("keyed", "keyed")}, modules=[twice]))
    story.receive("m1", intent="TWICE")
    for _ in range(4):
        story.answer(Done())
    assert [(s.first, s.last) for s in story.last(ActionsPlanned).actions] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    assert [event.n for event in story.all(ActionExecuted)] == [1, 3]
    assert story.last(MessageCompleted).executed == ("create_order", "create_order")


# carried out


def test_the_action_is_executed_and_its_task_made_when_all_its_steps_are_done() -> None:
    story = ordering("keyed", "keyed", "keyed")
    assert (story.call.target, story.call.key) == (A, key(0))
    assert story.answer(Done({"id": "1"})) == [
        StepExecuted("m1", 0, "create_order", key(0), A, 1, {"id": "1"}),
        ActionStarted("m1", 1, "create_order", key(1), 1, B),
    ]
    assert story.state.tasks == {}
    story.answer(Done())
    assert names(story.answer(Done({"id": "3", "link": "https://c/3"}))) == [
        "ActionExecuted",
        "ActionExecuted",
        "MessageCompleted",
    ]
    done = story.all(ActionExecuted)[0]
    assert (done.n, done.key, done.attempts) == (2, key(2), 1)
    assert done.remote == {"id": "3", "link": "https://c/3"}
    assert done.task.task_id == derived_id(key(2))
    assert done.task.metadata["remote"] == {"a": {"id": "1"}, "c": {"id": "3", "link": "https://c/3"}}
    assert story.last(MessageCompleted).executed == ("create_order", "notify_sales")


def test_a_target_without_a_name_is_shown_by_its_action_and_hides_no_other() -> None:
    story = Story(playbook())

    def route(_business: str, action: str) -> tuple[Route, ...]:
        mine = (
            Route("o", "keyed"),
            Route("o.create_order", "keyed", "create_order"),
            Route("o.x", "keyed", "x"),
        )
        return mine if action == "create_order" else ()

    story.rules = type(story.rules)(story.rules.tenants, story.rules.handlers, story.rules.actions, route)
    story.receive(order())
    for number in "123":
        story.answer(Done({"id": number}))
    assert story.all(ActionExecuted)[0].task.metadata["remote"] == {
        "create_order": {"id": "1"},
        "o.create_order": {"id": "2"},
        "x": {"id": "3"},
    }


def test_each_step_has_retries_of_its_own_under_its_own_key() -> None:
    story = ordering("keyed", "keyed")
    for _ in range(3):
        story.answer(Failed("503"))
        story.wait()
    story.answer(Done())
    assert (story.call.key, story.call.attempt) == (key(1), 1)
    for _ in range(3):
        story.answer(Unknown("timeout"))
        story.wait()
    story.answer(Done())
    assert story.all(StepExecuted)[0].attempts == story.all(ActionExecuted)[0].attempts == 4
    assert story.history[-1].event.__class__ is MessageCompleted


def test_a_step_waits_for_its_own_target() -> None:
    story = ordering("keyed", "once")
    story.answer(Done())
    story.answer(NotCalled(10_000_000))
    assert story.due == Wait(key(1), 0, story.due.delay)
    story.wait()
    assert (story.call.target, story.call.attempt) == (B, 1)


def test_each_step_is_judged_by_its_own_targets_class_after_a_crash() -> None:
    story = ordering("keyed", "once")
    assert names(story.crash().interrupt()) == ["ActionInterrupted", "ActionStarted"]
    story.answer(Done())
    assert names(story.crash().interrupt()) == ["ActionInterrupted", "ActionFailed", "MessageDeadLettered"]
    letter = story.last(MessageDeadLettered)
    assert letter.category == "outcome_unknown"
    assert letter.error.startswith(f"{B}: ")
    assert letter.attempts == 3


def test_a_flag_is_set_when_the_last_step_is_done_and_taken_back_under_the_same_key() -> None:
    review = ModuleType("review")
    plan = Plan(("flag_for_review", "create_order"), "x")
    review.HANDLER = IntentHandler("REVIEW", lambda _m, _b: plan)  # type: ignore[attr-defined]
    rules = playbook({"flag_for_review": ("keyed", "keyed"), "create_order": "keyed"}, modules=[review])
    story = Story(rules)
    story.receive("m1", intent="REVIEW")
    story.answer(Done())
    assert story.all(LeadFlagged) == []
    story.answer(Done())
    story.answer(FailedForGood("no"))
    story.answer(Done())
    assert story.all(LeadUnflagged) == []
    story.answer(Done())
    assert [e.key for e in story.all(LeadFlagged)] == [e.key for e in story.all(LeadUnflagged)]


# undone


def test_steps_are_undone_one_by_one_in_reverse_and_the_last_one_undoes_the_action() -> None:
    story = ordering("keyed", "keyed", "keyed", sales="keyed")
    for number in "123":
        story.answer(Done({"id": number}))
    story.answer(FailedForGood("no"))
    task = story.all(ActionExecuted)[0].task
    for n, target, number in ((2, C, "3"), (1, B, "2"), (0, A, "1")):
        call = story.call
        assert (call.key, call.target, call.undo) == (f"{key(n)}/undo", target, True)
        assert call.remote == {"id": number}, "a compensation gets what its own step was given"
        assert call.task == task
        story.answer(Done())
    assert story.all(StepCompensated) == [
        StepCompensated("m1", 2, "create_order", f"{key(2)}/undo", C, 1),
        StepCompensated("m1", 1, "create_order", f"{key(1)}/undo", B, 1),
    ]
    assert story.all(ActionCompensated) == [
        ActionCompensated("m1", 0, "create_order", f"{key(0)}/undo", task.task_id, 1)
    ]
    assert story.last(MessageDeadLettered).category == "action_failed"
    assert story.state.tasks == {}


def test_an_action_that_fails_halfway_has_its_steps_undone_and_was_never_executed() -> None:
    story = ordering("keyed", "keyed", "keyed")
    story.answer(Done({"id": "1"}))
    story.answer(Done())
    story.answer(FailedForGood("no"))
    assert story.last(ActionFailed).error == f"{C}: no"
    assert story.call.task is None
    story.answer(Done())
    assert story.call.remote == {"id": "1"}
    assert names(story.answer(Done())) == ["StepCompensated", "MessageDeadLettered"]
    assert [event.n for event in story.all(StepCompensated)] == [1, 0]
    assert not story.all(ActionCompensated)
    assert not story.all(ActionExecuted)
    assert story.last(MessageDeadLettered).attempts == 5


def test_a_task_stands_until_every_step_of_its_action_is_undone() -> None:
    story = ordering("keyed", "keyed", sales="keyed")
    story.answer(Done())
    story.answer(Done())
    story.answer(FailedForGood("no"))
    story.answer(FailedForGood("shipped"))
    failed = story.last(CompensationFailed)
    task_id = story.all(ActionExecuted)[0].task.task_id
    assert (failed.n, failed.task_id, failed.error) == (1, task_id, f"{B}: shipped")
    assert names(story.answer(Done())) == ["StepCompensated", "MessageDeadLettered"]
    assert story.last(MessageDeadLettered).category == "compensation_failed"
    assert list(story.state.tasks) == [task_id]
    tell(story, co.RetryDeadLetter, "c1")
    assert f"the compensation of create_order at {B} failed" in story.last(CommandRefused).reason
    assert tell(story, co.ResolveDeadLetter, "c2", outcome="undone") == [
        "ActionCompensated",
        "DeadLetterResolved",
    ]
    assert story.state.tasks == {}


def test_a_person_who_undid_several_steps_of_an_action_undoes_it_once() -> None:
    story = ordering("keyed", "keyed", sales="keyed")
    story.answer(Done())
    story.answer(Done())
    for _ in range(3):
        story.answer(FailedForGood("no"))
    assert [event.n for event in story.all(CompensationFailed)] == [1, 0]
    assert tell(story, co.ResolveDeadLetter, "c1", outcome="undone") == [
        "StepCompensated",
        "ActionCompensated",
        "DeadLetterResolved",
    ]
    assert {event.settled_by for event in story.all(StepCompensated)} == {"ann"}


def test_a_step_of_an_action_that_was_never_executed_fails_to_be_undone_without_a_task() -> None:
    story = ordering("keyed", "keyed")
    story.answer(Done())
    story.answer(FailedForGood("no"))
    story.answer(FailedForGood("shipped"))
    assert story.last(CompensationFailed).task_id == ""
    assert tell(story, co.ResolveDeadLetter, "c1", outcome="undone") == [
        "StepCompensated",
        "DeadLetterResolved",
    ]
    tell(story, co.RetryDeadLetter, "c2")
    assert story.call.key == f"{key(0)}#2"


# settled by a person


def unknown_step(n: int) -> Story:
    """The step's outcome at a once target is unknown; those before are done."""
    story = ordering("once", "once", "once")
    for number in range(n):
        story.answer(Done({"id": str(number)}))
    story.answer(Unknown("timeout"))
    return story


def test_an_unknown_step_says_which_target_it_is_about() -> None:
    story = unknown_step(1)
    assert story.last(MessageDeadLettered).error == f"{B}: timeout"
    tell(story, co.RetryDeadLetter, "c1")
    assert f"nobody knows whether create_order at {B} happened" in story.last(CommandRefused).reason


@pytest.mark.parametrize("n", [0, 1, 2])
def test_settled_as_done_the_rest_of_the_steps_follow(n: int) -> None:
    story = unknown_step(n)
    kinds = tell(story, co.ResolveDeadLetter, "c1", outcome="done")
    assert kinds[0] == ("ActionExecuted" if n == 2 else "StepExecuted")
    settled = story.all(ActionExecuted)[0] if n == 2 else story.last(StepExecuted)
    assert (settled.n, settled.settled_by, settled.attempts) == (n, "ann", 0)
    for _ in range(n + 1, 3):
        story.answer(Done())
    assert [event.n for event in story.all(ActionExecuted)] == [2, 3]
    assert story.last(MessageCompleted).executed == ("create_order", "notify_sales")
    assert story.at_rest


def test_settled_as_done_a_step_is_undone_with_the_others_when_a_later_one_fails() -> None:
    story = unknown_step(1)
    tell(story, co.ResolveDeadLetter, "c1", outcome="done")
    story.answer(FailedForGood("no"))
    undone = []
    while not story.at_rest:
        undone.append((story.call.key, story.call.remote))
        story.answer(Done())
    assert undone == [(f"{key(1)}/undo", {}), (f"{key(0)}/undo", {"id": "0"})]


def test_settled_as_undone_the_steps_before_are_undone() -> None:
    story = unknown_step(2)
    assert tell(story, co.ResolveDeadLetter, "c1", outcome="undone") == [
        "DeadLetterResolved",
        "ActionStarted",
    ]
    story.answer(Done())
    story.answer(Done())
    assert [event.n for event in story.all(StepCompensated)] == [1, 0]
    assert story.last(MessageDeadLettered).settled


# keys of later runs


def test_a_retry_begins_at_the_first_step_under_new_keys_where_something_was_undone() -> None:
    story = ordering("keyed", "keyed")
    story.answer(Done())
    story.answer(FailedForGood("no"))
    story.answer(Done())
    tell(story, co.RetryDeadLetter, "c1")
    assert story.call.key == f"{key(0)}#2"
    story.answer(Done())
    assert story.call.key == f"{key(1)}#2"
    story.answer(Done())
    assert story.all(ActionExecuted)[0].task.task_id == derived_id(f"{key(1)}#2")


def test_settled_as_to_be_retried_the_step_is_called_again_and_the_others_follow() -> None:
    story = ordering("keyed", "once", "keyed")
    story.answer(Done())
    story.answer(Unknown("timeout"))
    assert tell(story, co.ResolveDeadLetter, "c1", outcome="retry") == ["DeadLetterResolved", "ActionStarted"]
    assert story.call.key == key(1)
    story.answer(Done())
    story.answer(Done())
    assert story.last(MessageCompleted).executed == ("create_order", "notify_sales")


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_step_that_is_left_out_takes_the_rest_of_its_action_with_it(n: int) -> None:
    story = ordering("once", "once", "once", sales="keyed")
    for _ in range(n):
        story.answer(Done())
    story.answer(Unknown("timeout"))
    tell(story, co.ResolveDeadLetter, "c1", outcome="skip")
    assert story.call.action == "notify_sales"
    story.answer(FailedForGood("no"))
    for _ in range(n):
        story.answer(Done())
    assert [event.n for event in story.all(StepCompensated)] == list(reversed(range(n)))
    assert not story.all(ActionExecuted)
    assert story.last(MessageDeadLettered).category == "action_failed"


def test_a_step_that_may_have_happened_keeps_its_key_and_the_steps_before_it_get_new_ones() -> None:
    story = ordering("keyed", "keyed")
    story.answer(Done())
    give_up(story, Unknown("timeout"))
    story.answer(Done())
    tell(story, co.RetryDeadLetter, "c1")
    assert story.call.key == f"{key(0)}#2"
    story.answer(Done())
    assert story.call.key == key(1)
    story.answer(Done())
    assert story.all(ActionExecuted)[0].key == key(1)


def test_a_key_that_was_done_and_undone_as_a_step_is_never_used_again() -> None:
    story = ordering("keyed", "keyed", "keyed")
    story.answer(Done())
    give_up(story, Unknown("timeout"))
    story.answer(Done())
    tell(story, co.RetryDeadLetter, "c1")
    story.answer(Done())
    assert story.call.key == key(1)
    story.answer(Done())
    story.answer(FailedForGood("no"))
    story.answer(Done())
    story.answer(Done())
    tell(story, co.RetryDeadLetter, "c2")
    story.answer(Done())
    assert story.call.key == f"{key(1)}#3"


# a crash at every point


class World:
    """Keyed targets behind one lead: what each key has led to, and which calls fail."""

    def __init__(self, fails: str = "") -> None:
        self.effects: list[str] = []
        self.fails = fails

    def call(self, call: ActionCall) -> Outcome:
        if call.target == self.fails and not call.undo:
            return FailedForGood("no")
        if call.key not in self.effects:
            self.effects.append(call.key)
        return Done({"id": call.key})


def run(story: Story, world: World, crash_after: int = -1, *, called: bool = False) -> int:
    """Make the calls until nothing is left; the process dies at the given one, before or after it is made."""
    calls = 0
    while (step := lead.next_step(story.state, story.now)) is not None:
        assert isinstance(step, ActionCall)
        if calls == crash_after:
            if called:
                world.call(step)
            story.crash()
            story.tell(InterruptAction(step.key, step.attempt))
        else:
            story.tell(RecordOutcome(step.key, step.attempt, world.call(step)))
        calls += 1
    return calls


@pytest.mark.parametrize("fails", ["", B, "notify_sales-target.b"])
def test_a_crash_at_any_call_ends_in_the_same_effects_tasks_and_disposition(fails: str) -> None:
    rules = playbook({"create_order": ("keyed", "keyed"), "notify_sales": ("none", "keyed")})

    def told(crash_after: int = -1, *, called: bool = False) -> tuple[Any, int]:
        story, world = Story(rules), World(fails)
        story.receive(order())
        calls = run(story, world, crash_after, called=called)
        history = [recorded.event for recorded in story.history]
        for holds in OF_HISTORY:
            holds(history)
        for holds_of_state in OF_STATE:
            holds_of_state(history, story.state)
        kinds = [name for name in names(history) if name not in {"ActionStarted", "ActionInterrupted"}]
        return (world.effects, story.state.tasks, kinds), calls

    undisturbed, calls = told()
    assert calls >= 3
    for crash_after in range(calls):
        for called in (False, True):
            assert told(crash_after, called=called)[0] == undisturbed


def test_a_history_of_steps_that_ends_anywhere_is_taken_up_from_there() -> None:
    whole = Story(playbook({"create_order": ("keyed", "once"), "notify_sales": ("keyed", "keyed")}))
    whole.receive(order("m1"))
    whole.receive(order("m2"))
    whole.answer(Done())
    whole.answer(Misconfigured("401"))
    whole.wait()
    for outcome in (Done(), Done(), FailedForGood("no"), Done(), FailedForGood("no"), Done()):
        whole.answer(outcome)
    whole.answer(Done())
    whole.answer(Unknown("timeout"))
    assert len(whole.all(MessageDeadLettered)) == 2
    for end in range(1, len(whole.history) + 1):
        story = Story(whole.rules, now=whole.now)
        story.history = whole.history[:end]
        story.crash()
        while events := lead.follow(story.state, story.rules, story.now):
            story.record(events)
        assert story.at_rest is (not story.state.queue)
        for holds in OF_HISTORY:
            holds([recorded.event for recorded in story.history])


def test_what_was_planned_with_one_target_goes_on_so_when_the_settings_name_two() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    before = story.receive(order())
    two = playbook({"create_order": ("keyed", "keyed")})
    now = given(*before).under(two).when(RecordOutcome(key(0), 1, Done({"id": "1"})))
    now.then_names("ActionExecuted", "ActionExecuted", "MessageCompleted")
    given().under(two).when(message("m2", "ORDER_REQUEST", entities={"product": "x"})).then_names(
        "MessageReceived", "IntentDetected", "ActionsPlanned", "ActionStarted"
    )
