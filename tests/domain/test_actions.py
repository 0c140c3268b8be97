"""The four actions' tasks, column by column of DESIGN's table."""

from __future__ import annotations

from datetime import timedelta
from types import ModuleType

import pytest

from domain.events import ActionCompensated, ActionExecuted, LeadFlagged, LeadUnflagged, Task
from domain.intents.handler import IntentHandler, Plan
from domain.outcomes import Done, FailedForGood
from domain.tokens import derived_id
from tests.support.domain_given import T0, Story, base_key, message, order
from tests.support.domain_rules import action_specs, playbook

TABLE = [
    ("notify_sales", "sales_notification", "team", "sales", 24, "normal"),
    ("create_order", "order_processing", "team", "orders", 4, "high"),
    ("create_support_ticket", "support_ticket", "team", "support", 2, "high"),
    ("flag_for_review", "lead_review", "role", "reviewer", 24, "low"),
]
#: A message that plans the action, and its place in the plan.
ASKED_BY = {
    "notify_sales": message("m1", "PRICING_INQUIRY", text="How much?"),
    "create_order": order("m1", text="One laptop"),
    "create_support_ticket": message("m1", "COMPLAINT"),
    "flag_for_review": message("m1", "UNKNOWN", confidence=0.6),
}


def task_of(story: Story, action: str) -> Task:
    return next(done.task for done in story.all(ActionExecuted) if done.action == action)


def test_there_are_exactly_the_four_actions_of_the_table() -> None:
    assert sorted(action_specs()) == sorted(row[0] for row in TABLE)


@pytest.mark.parametrize(("action", "task_type", "kind", "who", "hours", "priority"), TABLE)
def test_each_action_makes_the_task_of_the_table(
    action: str, task_type: str, kind: str, who: str, hours: int, priority: str
) -> None:
    story = Story()
    story.receive(ASKED_BY[action])
    task = task_of(story, action)
    assert (task.task_type, task.assigned_to_type, task.assigned_to_id) == (task_type, kind, who)
    assert task.due_date == T0 + timedelta(hours=hours)
    assert task.priority == priority
    assert task.tenant_id == "acme"
    assert task.description == (ASKED_BY[action].text or "")
    assert task.title


def test_sales_hear_of_a_complaint_with_high_priority() -> None:
    story = Story()
    story.receive("m1", intent="COMPLAINT")
    assert task_of(story, "notify_sales").priority == "high"


def test_the_due_time_counts_from_the_execution() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    story.now += timedelta(minutes=10)
    story.answer(Done())
    assert task_of(story, "create_order").due_date == T0 + timedelta(hours=4, minutes=10)


def test_a_tasks_id_follows_from_the_actions_key() -> None:
    story = Story()
    story.receive(order())
    ids = [done.task.task_id for done in story.all(ActionExecuted)]
    assert ids == [derived_id(f"{base_key()}/0.create_order"), derived_id(f"{base_key()}/1.notify_sales")]


def test_the_task_tells_a_person_what_the_message_was() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order(suggested_response="On it"))
    story.answer(Done({"order_id": "4711"}))
    assert task_of(story, "create_order").metadata == {
        "intent": "ORDER_REQUEST",
        "confidence": 0.95,
        "entities": {"product": "laptop"},
        "response": "On it",
        "remote": {"order_id": "4711"},
    }
    assert "remote" not in task_of(story, "notify_sales").metadata


def test_a_review_flags_the_lead_for_this_message() -> None:
    story = Story()
    story.receive(ASKED_BY["flag_for_review"])
    assert story.last(LeadFlagged) == LeadFlagged("m1", f"{base_key()}/0.flag_for_review")


def test_compensating_a_review_removes_this_messages_flag() -> None:
    theirs = ModuleType("theirs")
    plan = Plan(("flag_for_review", "create_order"), "x")
    theirs.HANDLER = IntentHandler("REVIEW_FIRST", lambda _m, _b: plan)  # type: ignore[attr-defined]
    story = Story(playbook({"create_order": "keyed"}, modules=[theirs]))
    story.receive("m1", intent="REVIEW_FIRST")
    story.answer(FailedForGood("no"))
    assert story.last(LeadUnflagged).key == story.last(LeadFlagged).key
    assert story.last(ActionCompensated).task_id == task_of(story, "flag_for_review").task_id


def test_an_action_that_the_settings_lost_while_its_call_was_out_still_makes_a_task() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    story.rules = playbook({"create_order": "keyed"}, actions={})
    story.answer(Done({"order_id": "4711"}))
    task = task_of(story, "create_order")
    assert (task.task_type, task.assigned_to_type, task.assigned_to_id) == (
        "create_order",
        "role",
        "reviewer",
    )
    assert task.metadata["remote"] == {"order_id": "4711"}
