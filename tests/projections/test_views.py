"""What each event makes of the rows: the seven views' rules, one sentence each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from domain import events as ev
from projections import schema
from projections.metrics import MAX_INTENTS, OTHER_INTENTS
from projections.schema import key_columns
from tests.support.projections_story import LeadStory, Story, rejected
from tests.support.projections_views import views_of

DESIGN = {
    "tasks": "task_id, lead_id, business_id, tenant_id, task_type, title, description, status, priority,"
    " assigned_to_type, assigned_to_id, due_date, metadata, created_at, updated_at, message_id",
    "dead_letter_queue": "id, message_id, lead_id, business_id, tenant_id, original_payload, error_message,"
    " error_stack, attempt_count, first_attempt_at, last_attempt_at, status, category, created_at, updated_at",
    "processed_messages": "message_id, lead_id, business_id, processing_status, disposition, processed_at,"
    " expires_at, created_at",
    "metrics": "name, labels, value",
    "breakers": "name, state, failures, opened_at, retry_at, updated_at",
    "leads": "lead_id, business_id, tenant_id, messages, last_intent, flagged, open_tasks, first_seen_at,"
    " last_seen_at",
    "unfinished": "lead_id, business_id, partition, message_id, since, waiting_for",
}


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def lead(story: Story) -> LeadStory:
    return LeadStory(story)


def processed(story: Story) -> list[tuple[str, str]]:
    with views_of(story) as views:
        return [(row["processing_status"], row["disposition"]) for row in views.processed()]


def letters(story: Story) -> list[tuple[str, str]]:
    with views_of(story) as views:
        return [(row["status"], row["category"]) for row in views.dead_letters()]


def waiting(story: Story) -> dict[str, str]:
    with views_of(story) as views:
        return {row["message_id"]: row["waiting_for"] for row in views.unfinished()}


def metric(story: Story, name: str) -> dict[tuple[str, ...], int]:
    with views_of(story) as views:
        return {tuple(row["labels"].values()): row["value"] for row in views.metrics(name)}


def test_the_views_have_exactly_the_columns_of_the_design() -> None:
    assert {t.name: ", ".join(c.name for c in t.columns) for t in schema.VIEWS} == DESIGN


def test_an_executed_action_is_a_task_with_its_metadata(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.executed("m1", "create_order"))
    with views_of(story) as views:
        (task,) = views.tasks()
    assert task["task_id"] == lead.task_id("m1")
    assert (task["lead_id"], task["business_id"], task["message_id"]) == ("+49 151/1", "acme", "m1")
    assert (task["status"], task["assigned_to_type"], task["assigned_to_id"]) == ("pending", "team", "orders")
    assert task["metadata"]["entities"] == {"a": "2", "z": "1"}
    assert task["created_at"] == task["updated_at"] == "2026-11-02T08:00:02.000014Z"


@pytest.mark.parametrize(
    ("move", "status", "still_open"),
    [
        (ev.TaskStarted, "in_progress", 1),
        (ev.TaskCompleted, "completed", 0),
        (ev.TaskCancelled, "cancelled", 0),
    ],
)
def test_a_person_moves_a_task_and_the_lead_counts_what_is_open(
    story: Story, lead: LeadStory, move: Any, status: str, still_open: int
) -> None:
    lead.add(lead.received("m1"), lead.executed("m1"))
    lead.add(move(lead.task_id("m1"), "c1", "ann", ""))
    with views_of(story) as views:
        assert [task["status"] for task in views.tasks()] == [status]
        assert views.tasks()[0]["updated_at"] > views.tasks()[0]["created_at"]
        assert [row["open_tasks"] for row in views.leads()] == [still_open]


def test_a_task_that_is_closed_twice_is_closed_once(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.executed("m1", n=0), lead.executed("m1", n=1))
    lead.add(ev.TaskCompleted(lead.task_id("m1"), "c1", "ann", ""), lead.compensated("m1"))
    with views_of(story) as views:
        assert [row["open_tasks"] for row in views.leads()] == [1]


def test_compensation_cancels_the_task_and_reassigning_moves_it(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.executed("m1", n=0), lead.executed("m1", n=1), lead.compensated("m1"))
    lead.add(ev.TaskReassigned(lead.task_id("m1", 1), "user", "bob", "c1", "ann", ""))
    with views_of(story) as views:
        assert [task["task_id"] for task in views.tasks(status="cancelled")] == [lead.task_id("m1")]
        assert [task["task_id"] for task in views.tasks(assigned_to="bob")] == [lead.task_id("m1", 1)]


def test_a_message_is_in_progress_until_it_completes(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"))
    assert processed(story) == [("retrying", "in_progress")]
    lead.add(lead.completed("m1"))
    assert processed(story) == [("success", "completed")]


def test_a_message_expires_eight_days_after_its_recorded_receipt(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1", received_at=story.now.replace(year=2099)))
    with views_of(story) as views:
        (row,) = views.processed()
    assert row["expires_at"] == "2026-11-10T08:00:01.000007Z"
    assert row["processed_at"] is None


def test_a_second_life_of_an_id_takes_over_its_row(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.completed("m1"))
    lead.add(lead.received("m1"))
    with views_of(story) as views:
        (row,) = views.processed()
    assert (row["disposition"], row["created_at"]) == ("in_progress", "2026-11-02T08:00:03.000021Z")


def test_the_same_message_id_of_two_leads_is_two_rows(story: Story, lead: LeadStory) -> None:
    other = LeadStory(story, "globex")
    lead.add(lead.received("m1"))
    other.add(other.received("m1"), other.completed("m1"))
    assert sorted(processed(story)) == [("retrying", "in_progress"), ("success", "completed")]


def test_a_duplicate_has_no_row_and_is_counted(story: Story, lead: LeadStory) -> None:
    lead.whole("m1")
    lead.add(ev.DuplicateDetected("m1"))
    assert processed(story) == [("success", "completed")]
    assert metric(story, "message_duplicate_total") == {(): 1}


def test_a_dead_letter_keeps_one_row_over_its_runs(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.dead_lettered("m1"))
    assert (letters(story), processed(story)) == (
        [("failed", "action_failed")],
        [("failed", "dead_lettered")],
    )
    lead.add(lead.retried("m1"))
    assert letters(story) == [("retrying", "action_failed")]
    assert processed(story) == [("retrying", "in_progress")]
    assert waiting(story) == {"m1": "its turn"}
    lead.add(lead.dead_lettered("m1", "compensation_failed", run=2))
    with views_of(story) as views:
        (row,) = views.dead_letters()
    assert (row["status"], row["category"], row["attempt_count"]) == ("failed", "compensation_failed", 8)
    assert row["created_at"] == "2026-11-02T08:00:02.000014Z"
    assert row["updated_at"] == "2026-11-02T08:00:04.000028Z"


def test_a_retry_that_succeeds_resolves_the_dead_letter(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.dead_lettered("m1"))
    lead.add(lead.retried("m1"))
    lead.add(lead.completed("m1", run=2))
    assert (letters(story), processed(story)) == ([("resolved", "action_failed")], [("success", "completed")])
    assert waiting(story) == {}


@pytest.mark.parametrize(
    ("outcome", "requeued", "ends"),
    [
        ("done", False, ("success", "completed")),
        ("done", True, ("retrying", "in_progress")),
        ("undone", False, ("failed", "dead_lettered")),
        ("undone", True, ("failed", "dead_lettered")),
    ],
)
def test_a_settled_dead_letter_is_resolved_and_its_message_is_what_was_said(
    story: Story, lead: LeadStory, *, outcome: str, requeued: bool, ends: tuple[str, str]
) -> None:
    lead.add(lead.received("m1"), lead.dead_lettered("m1", "outcome_unknown"))
    lead.add(lead.resolved("m1", outcome, requeued=requeued))
    assert (letters(story), processed(story)) == ([("resolved", "outcome_unknown")], [ends])
    assert waiting(story) == ({"m1": "its turn"} if requeued else {})
    if requeued:  # compensated after a person's word: the row stays resolved
        lead.add(lead.dead_lettered("m1", settled=True))
        assert letters(story) == [("resolved", "action_failed")]


def test_a_dead_letter_whose_step_is_called_again_is_retrying_until_its_message_ends(
    story: Story, lead: LeadStory
) -> None:
    lead.add(lead.received("m1"), lead.dead_lettered("m1", "outcome_unknown"))
    lead.add(lead.resolved("m1", "retried", requeued=True))
    assert (letters(story), processed(story)) == (
        [("retrying", "outcome_unknown")],
        [("retrying", "in_progress")],
    )
    assert waiting(story) == {"m1": "its turn"}
    lead.add(
        msgspec.structs.replace(lead.completed("m1"), dead_letter_id=lead.dead_letter_id("m1"), attempts=2)
    )
    assert (letters(story), processed(story)) == (
        [("resolved", "outcome_unknown")],
        [("success", "completed")],
    )


@pytest.mark.parametrize(
    ("requeued", "ends"), [(True, ("retrying", "in_progress")), (False, ("failed", "dead_lettered"))]
)
def test_a_dead_letter_whose_step_is_left_out_is_resolved_and_its_message_goes_on_or_is_over(
    story: Story, lead: LeadStory, *, requeued: bool, ends: tuple[str, str]
) -> None:
    lead.add(lead.received("m1"), lead.dead_lettered("m1", "compensation_failed"))
    lead.add(lead.resolved("m1", "skipped", requeued=requeued))
    assert (letters(story), processed(story)) == ([("resolved", "compensation_failed")], [ends])


def parks(lead: LeadStory, message: str) -> ev.Event:
    return msgspec.structs.replace(lead.dead_lettered(message), parks=True)


def behind(lead: LeadStory, event: ev.Event) -> ev.Event:
    return msgspec.structs.replace(event, behind=lead.dead_letter_id("m1"))


def test_what_waits_behind_a_dead_letter_says_so_until_that_is_settled(story: Story, lead: LeadStory) -> None:
    held = f"dead letter {lead.dead_letter_id('m1')}"
    lead.add(lead.received("m1"), lead.received("m2"))
    lead.add(parks(lead, "m1"), behind(lead, lead.received("m3")))
    assert waiting(story) == {"m2": held, "m3": held}
    lead.add(lead.retried("m1"))
    assert waiting(story) == {"m1": "its turn", "m2": held, "m3": held}
    lead.add(msgspec.structs.replace(lead.completed("m1", run=2), dead_letter_id=lead.dead_letter_id("m1")))
    assert waiting(story) == {"m2": "its turn", "m3": "its turn"}


@pytest.mark.parametrize("how", ["resolved", "discarded", "dead_lettered"])
def test_a_dead_letter_that_is_settled_lets_go_whoever_waits_behind_it(
    story: Story, lead: LeadStory, how: str
) -> None:
    lead.add(lead.received("m1"), parks(lead, "m1"))
    lead.add(behind(lead, lead.received("m2")))
    other = LeadStory(story, "globex", lead.lead)
    other.add(other.received("m2"))
    ends = {"resolved": lead.resolved("m1", "undone"), "discarded": lead.discarded("m1")}
    lead.add(ends.get(how) or lead.dead_lettered("m1", settled=True))
    assert waiting(story) == {"m2": "its turn"}


def test_a_stop_and_a_resume_do_not_hide_what_waits_behind_a_dead_letter(
    story: Story, lead: LeadStory
) -> None:
    lead.add(lead.received("m1"), parks(lead, "m1"), behind(lead, lead.received("m2")))
    story.add("rejects:3", ev.LeadStopped(lead.stream, "x", "", 3))
    story.add("rejects:3", ev.LeadResumed(lead.stream, (), "c", "ann", ""))
    assert waiting(story) == {"m2": f"dead letter {lead.dead_letter_id('m1')}"}


def test_a_discarded_dead_letter_leaves_its_message_dead_lettered(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.dead_lettered("m1"), lead.discarded("m1"))
    assert (letters(story), processed(story)) == (
        [("discarded", "action_failed")],
        [("failed", "dead_lettered")],
    )


def test_a_reject_has_a_row_of_its_message_only_where_its_ids_can_be_read(story: Story) -> None:
    story.add(
        "rejects:3", rejected("d1"), rejected("d2", message=None), rejected("d3", message="m9", lead=None)
    )
    assert letters(story) == [("failed", "rejected")] * 3
    assert processed(story) == [("failed", "rejected")]
    assert metric(story, "message_dlq_total") == {("rejected",): 3}


def test_a_reject_never_takes_the_row_of_a_message_that_was_received(story: Story, lead: LeadStory) -> None:
    lead.whole("m-bad")
    story.add("rejects:3", rejected("d1"))
    assert processed(story) == [("success", "completed")]


@pytest.mark.parametrize("category", ["rejected", "lead_stopped"])
def test_a_redriven_reject_is_resolved_when_it_is_received(
    story: Story, lead: LeadStory, category: str
) -> None:
    story.add("rejects:3", rejected("d1", category=category))
    story.add("rejects:3", ev.DeadLetterRetried("d1", "m-bad", 2, "c1", "ann", ""))
    assert (letters(story), processed(story)) == ([("retrying", category)], [("failed", "rejected")])
    lead.add(lead.received("m-bad", redrive_of="d1"))
    assert (letters(story), processed(story)) == ([("resolved", category)], [("retrying", "in_progress")])


def test_a_kept_reply_is_resolved_when_its_lead_has_it_and_ends_no_message(
    story: Story, lead: LeadStory
) -> None:
    lead.add(lead.received("m1"))
    subject = "leads.cmd.acme.=2B49=20151=2F1"
    story.add("rejects:3", rejected("d1", message=None, category="lead_stopped", subject=subject))
    story.add("rejects:3", ev.LeadResumed(lead.stream, ("d1",), "c1", "ann", ""))
    assert letters(story) == [("retrying", "lead_stopped")]
    lead.add(ev.DeadLetterResolved("d1", None, "done", "redrive/d1/9", "leadline", ""))
    assert letters(story) == [("resolved", "lead_stopped")]
    assert processed(story) == [("retrying", "in_progress")]
    assert waiting(story) == {"m1": "its turn"}


def test_a_redriven_duplicate_is_resolved_too(story: Story, lead: LeadStory) -> None:
    lead.whole("m-bad")
    story.add("rejects:3", rejected("d1"), ev.DeadLetterRetried("d1", "m-bad", 2, "c1", "ann", ""))
    lead.add(ev.DuplicateDetected("m-bad", redrive_of="d1"))
    assert letters(story) == [("resolved", "rejected")]


def test_a_reject_that_falls_back_keeps_its_row(story: Story) -> None:
    story.add("rejects:3", rejected("d1"), ev.DeadLetterRetried("d1", "m-bad", 2, "c1", "ann", ""))
    story.add("rejects:3", rejected("d1"))
    with views_of(story) as views:
        (row,) = views.dead_letters()
    assert (row["status"], row["created_at"]) == ("failed", "2026-11-02T08:00:01.000007Z")


def test_a_reject_resolved_as_done_completes_its_message(story: Story) -> None:
    story.add("rejects:3", rejected("d1"))
    story.add("rejects:3", ev.DeadLetterResolved("d1", None, "done", "c1", "ann", ""))
    assert (letters(story), processed(story)) == ([("resolved", "rejected")], [("success", "completed")])


def test_a_reject_that_is_resolved_ends_no_message_of_the_same_id(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m-bad"), lead.dead_lettered("m-bad"))
    story.add("rejects:3", rejected("d1"), ev.DeadLetterResolved("d1", "m-bad", "done", "c1", "ann", ""))
    assert processed(story) == [("failed", "dead_lettered")]


def test_commands_about_a_dead_letter_go_to_the_tokens_its_message_came_under(
    story: Story, lead: LeadStory
) -> None:
    lead.add(lead.received("m1"), lead.dead_lettered("m1"))
    story.add("rejects:3", rejected("d1", lead=None, subject="leads.in.ac=6De.not canonical="))
    with views_of(story) as views:
        assert views.subject_of_dead_letter(lead.dead_letter_id("m1")) == ("acme", "=2B49=20151=2F1")
        assert views.subject_of_dead_letter("d1") == ("ac=6De", "not canonical=")
        assert views.subject_of_dead_letter("nobody's") is None


def test_two_flags_and_one_taken_away_leave_the_lead_flagged(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), ev.LeadFlagged("m1", "k1"), ev.LeadFlagged("m2", "k2"))
    lead.add(ev.LeadUnflagged("m1", "k1"))
    with views_of(story) as views:
        assert [row["flagged"] for row in views.leads(flagged=True)] == [True]
    lead.add(ev.LeadUnflagged("m2", "k2"))
    with views_of(story) as views:
        assert [row["flagged"] for row in views.leads()] == [False]


def test_a_lead_belongs_to_the_tenant_that_its_business_belongs_to_now(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.received("m2", tenant_id="another"))
    with views_of(story) as views:
        assert [row["tenant_id"] for row in views.leads()] == ["another"]


def test_a_lead_counts_its_messages_and_knows_its_last_intent(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.completed("m1"))
    lead.add(lead.received("m2", "COMPLAINT"))
    with views_of(story) as views:
        (row,) = views.leads()
    assert (row["messages"], row["last_intent"], row["tenant_id"]) == (2, "COMPLAINT", "tenant-of-acme")
    assert (row["first_seen_at"], row["last_seen_at"]) == (
        "2026-11-02T08:00:01.000007Z",
        "2026-11-02T08:00:03.000021Z",
    )


def test_an_unfinished_message_says_in_words_what_it_waits_for(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"), lead.received("m2"))
    lead.add(lead.started("m1"))
    assert waiting(story) == {"m1": "outcome of create_order", "m2": "its turn"}
    lead.add(lead.deferred("m1", "retry"))
    assert waiting(story)["m1"] == "retry"
    lead.add(lead.deferred("m1", "breaker", "create_order@acme"))
    assert waiting(story)["m1"] == "breaker create_order@acme"
    lead.add(lead.deferred("m1", "busy", "create_order@acme"))
    assert waiting(story)["m1"] == "a turn at create_order@acme"
    lead.add(lead.deferred("m1", "target_configuration"))
    assert waiting(story)["m1"] == "target configuration"
    lead.add(lead.started("m1", undo=True))
    assert waiting(story)["m1"] == "outcome of undoing create_order"
    lead.add(lead.completed("m1"), lead.dead_lettered("m2"))
    assert waiting(story) == {}


def test_the_messages_of_a_stopped_lead_wait_for_a_person(story: Story, lead: LeadStory) -> None:
    other = LeadStory(story, "globex")
    lead.add(lead.received("m1"), lead.received("m2"))
    other.add(other.received("m3"))
    story.add("rejects:3", ev.LeadStopped(lead.stream, "boom", "stack", 3))
    assert waiting(story) == {"m1": "lead resume", "m2": "lead resume", "m3": "its turn"}
    story.add("rejects:3", ev.LeadResumed(lead.stream, (), "c1", "ann", ""))
    assert waiting(story) == {"m1": "its turn", "m2": "its turn", "m3": "its turn"}


def test_an_unfinished_message_shows_its_partition(story: Story, lead: LeadStory) -> None:
    lead.add(lead.received("m1"))
    with views_of(story) as views:
        assert [row["partition"] for row in views.unfinished("acme", lead.lead)] == [3]


def test_a_breaker_goes_through_its_three_states(story: Story) -> None:
    seen = []
    for event in (
        ev.BreakerOpened("orders", 10, 7, story.now, 30_000_000, "refused"),
        ev.BreakerHalfOpened("orders"),
        ev.BreakerClosed("orders"),
    ):
        story.add("breaker:orders", event)
        with views_of(story) as views:
            (row,) = views.breakers()
        gauge = metric(story, "circuit_breaker_state")
        seen.append((row["state"], row["failures"], row["opened_at"] is not None, gauge["orders",]))
    assert seen == [("open", 7, True, 2), ("half_open", 7, True, 1), ("closed", 0, False, 0)]


def test_a_breaker_that_waits_for_a_start_is_open_without_a_time(story: Story) -> None:
    event = ev.BreakerOpened("orders", 1, 1, None, 0, "410", configuration=True, switched_off=True)
    story.add("breaker:orders", event)
    with views_of(story) as views:
        (row,) = views.breakers()
    assert (row["state"], row["retry_at"]) == ("open", None)
    assert metric(story, "circuit_breaker_state") == {("orders",): 2}


def test_steps_are_no_actions_of_their_own(story: Story, lead: LeadStory) -> None:
    """A task, a lead's open tasks and the metrics count the action that the steps make up."""
    key = lead.key("m1")
    first = ev.StepExecuted(
        "m1", 0, "notify_sales", f"{key}/0.notify_sales", "notify_sales.crm", 1, {"id": "7"}
    )
    undone = ev.StepCompensated("m1", 1, "notify_sales", f"{key}/1.notify_sales/undo", "notify_sales.erp", 1)
    lead.add(lead.received("m1"), lead.started("m1", "notify_sales"), first)
    with views_of(story) as views:
        assert views.tasks() == []
    assert waiting(story) == {"m1": "outcome of notify_sales"}
    assert processed(story) == [("retrying", "in_progress")]
    lead.add(lead.executed("m1", n=1), undone)
    with views_of(story) as views:
        assert [task["status"] for task in views.tasks()] == ["pending"]
    assert metric(story, "whatsapp_action_executed_total") == {("notify_sales", "done"): 1}
    assert metric(story, "whatsapp_action_compensated_total") == {}
    lead.add(lead.compensated("m1", n=1))
    with views_of(story) as views:
        assert [task["status"] for task in views.tasks()] == ["cancelled"]
        assert [row["open_tasks"] for row in views.leads()] == [0]
    assert metric(story, "whatsapp_action_compensated_total") == {("notify_sales",): 1}


def test_metrics_are_counted_once_by_the_event_that_holds_them(story: Story, lead: LeadStory) -> None:
    lead.whole("m1")
    lead.add(lead.received("m2"), lead.failed("m2", "outcome_unknown"), lead.dead_lettered("m2"))
    lead.add(lead.received("m3"), lead.executed("m3"), lead.failed("m3"), lead.compensated("m3"))
    story.add("intake:3", ev.MessagesLost(3, "life.0", 5, 9), ev.StreamRewound(3, "life.0", 9, 5, "life.1"))
    story.add(
        "intake:4",
        ev.MessagesLost(4, "life.0", 3, 9, untold=2),
        ev.StreamRewound(4, "life.0", 9, 5, "life.1", told=True),
    )
    assert metric(story, "whatsapp_messages_received_total") == {("acme",): 3}
    assert metric(story, "ai_intent_detected_total") == {("PRICING_INQUIRY",): 1}
    assert metric(story, "whatsapp_action_executed_total") == {
        ("notify_sales", "done"): 2,
        ("create_order", "unknown"): 1,
        ("create_order", "failed"): 1,
    }
    assert metric(story, "whatsapp_action_compensated_total") == {("notify_sales",): 1}
    assert metric(story, "message_dlq_total") == {("action_failed",): 1}
    assert metric(story, "messages_lost_total") == {(): 7}
    assert metric(story, "stream_rewound_total") == {(): 1}


def test_a_histogram_is_cumulative_and_its_sum_is_whole_millionths(story: Story, lead: LeadStory) -> None:
    for n, milliseconds in enumerate((0.1, 0.2, 4.0, 1500.0, None)):
        lead.add(lead.received(f"m{n}", ai_latency_ms=milliseconds))
    buckets = metric(story, "ai_processing_seconds_bucket")
    assert (buckets["0.001",], buckets["0.005",], buckets["1.0",], buckets["2.5",], buckets["+Inf",]) == (
        2,
        3,
        3,
        4,
        4,
    )
    assert metric(story, "ai_processing_seconds_count") == {(): 4}
    assert metric(story, "ai_processing_seconds_sum") == {(): 100 + 200 + 4_000 + 1_500_000}


def test_intents_that_publishers_invent_share_one_label_after_so_many(story: Story, lead: LeadStory) -> None:
    for n in range(MAX_INTENTS + 3):
        lead.add(lead.intent(f"m{n}", f"INVENTED_{n}"))
    lead.add(lead.intent("again", "INVENTED_0"))
    counted = metric(story, "ai_intent_detected_total")
    assert len(counted) == MAX_INTENTS + 1
    assert (counted[OTHER_INTENTS,], counted["INVENTED_0",]) == (3, 2)


def test_a_key_has_the_order_of_its_tables_columns() -> None:
    assert key_columns(schema.unfinished) == ("lead_id", "business_id", "message_id")
    assert key_columns(schema.processed_messages) == ("message_id", "lead_id", "business_id")
