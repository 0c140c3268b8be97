"""What people do: dead letters, tasks and leads by command, over NATS, against targets that fail by script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.nats import running_server
from tests.support.system_leadline import SHORT_WAITS, Leadline, leadline
from tests.support.system_sql import Row, by_stream, events, metric, query, view
from tests.support.system_targets import LEDGER, ledger, target
from tests.support.system_wire import message, order

#: A user's own handlers: one with three actions, and one that raises where it is told to.
HANDLERS = """
from domain.intents.handler import IntentHandler, Plan


def three(message, band):
    return Plan(("create_order", "create_support_ticket", "notify_sales"), "We are on it.")


def touchy(message, band):
    if message.text == "poison":
        raise ValueError("cannot read this")
    return Plan(("notify_sales",), "Thank you.")


HANDLERS = [IntentHandler("THREE", three), IntentHandler("TOUCHY", touchy)]
"""

SETTINGS = (
    """
modules = ["own_handlers"]
[tenants.acme]
businesses = ["plain", "retries", "undone", "breaker", "unsure", "stuck", "again", "undoable"]
[breaker]
minimum_calls = 3
open_seconds = 0.2
probes = 1
"""
    + SHORT_WAITS
    + target("notify_sales", "fail", "unknown", "done", business="retries", ledger=LEDGER)
    + target("create_order", business="undone", ledger=LEDGER)
    + target("create_support_ticket", business="undone", ledger=LEDGER)
    + target("notify_sales", "fail_for_good", "done", business="undone", ledger=LEDGER)
    + target("notify_sales", "fail", "fail", "fail", "fail", "done", business="breaker", ledger=LEDGER)
    + target("create_order", "unknown", business="unsure", idempotency="once", ledger=LEDGER)
    + target("create_order", "done", "fail_for_good", business="stuck", ledger=LEDGER)
    + target("create_order", "unknown", "done", business="again", idempotency="once", ledger=LEDGER)
    + target("notify_sales", "fail_for_good", business="stuck", ledger=LEDGER)
    + target("create_order", "done", "fail_for_good", "done", business="undoable", ledger=LEDGER)
    + target("notify_sales", "fail_for_good", business="undoable")
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leadline]:
    """One runner for all: each test has a business of its own."""
    folder = tmp_path_factory.mktemp("commands")
    with (
        running_server(folder / "nats") as server,
        leadline(folder / "house", url=server.url, settings=SETTINGS) as made,
    ):
        (made.folder / "own_handlers.py").write_text(HANDLERS)
        made.run()
        yield made


def test_a_failing_call_is_tried_again_under_its_key_until_it_succeeds(house: Leadline) -> None:
    tell(house, message("m-1", business="retries"))
    calls = ledger(house, "retries")
    assert [(call["attempt"], call["said"], call["repeated"]) for call in calls] == [
        (1, "fail", False),
        (2, "unknown", False),
        (3, "done", True),
    ]
    assert len({call["key"] for call in calls}) == 1
    assert disposition(house, "retries") == ["completed"]
    assert not dead_letters(house, "retries")


def test_what_was_done_is_undone_in_reverse_and_done_anew_when_it_is_retried(house: Leadline) -> None:
    tell(house, message("m-1", business="undone", intent="THREE"))
    [letter] = dead_letters(house, "undone")
    assert (letter["category"], letter["status"], letter["attempt_count"]) == ("action_failed", "failed", 5)
    assert [call["kind"] for call in ledger(house, "undone")] == [
        "order.create", "ticket.create", "sales.notify", "ticket.close", "order.cancel",
    ]  # fmt: skip
    assert {row["status"] for row in tasks(house, "undone")} == {"cancelled"}
    assert house.cli("dlq", "retry", letter["id"], "--why", "sales are back").code == 0
    house.wait_idle()
    again = ledger(house, "undone")[5:]
    assert [call["kind"] for call in again] == ["order.create", "ticket.create", "sales.notify"]
    keys = [call["key"] for call in ledger(house, "undone")]
    assert len(keys) == len(set(keys)), "a new run after compensation has new keys"
    [letter] = dead_letters(house, "undone")
    assert letter["status"] == "resolved"
    assert disposition(house, "undone") == ["completed"]
    assert sorted(row["status"] for row in tasks(house, "undone")) == ["cancelled"] * 2 + ["pending"] * 3
    assert house.cli("dlq", "retry", letter["id"]).code == 1


def test_a_breaker_goes_through_all_its_states_and_costs_no_attempts(house: Leadline) -> None:
    tell(house, message("m-1", "+1", business="breaker"), message("m-2", "+2", business="breaker"))
    name = "breaker:notify_sales@breaker"
    order_of_events = [
        row["topic"]
        for row in query(
            house.data / "events.db",
            "SELECT topic FROM stored_events WHERE originator_id = ? ORDER BY originator_version",
            [name],
        )
    ]
    assert order_of_events[0] == "breaker_opened.v1"
    assert order_of_events[-2:] == ["breaker_half_opened.v1", "breaker_closed.v1"]
    assert disposition(house, "breaker") == ["completed", "completed"]
    [row] = [row for row in view(house.data, "breakers") if row["name"] == name.partition(":")[2]]
    assert row["state"] == "closed"
    assert metric(house.data, "circuit_breaker_state", breaker=row["name"]) == 0
    assert any(
        event["reason"] == "breaker" for event in events(house.data, "action_deferred.v1", "lead:breaker:%")
    )


@pytest.mark.parametrize(
    ("lead", "said", "ends"), [("+1", "done", "completed"), ("+2", "undone", "dead_lettered")]
)
def test_an_unknown_outcome_waits_for_a_person_who_says_what_happened(
    house: Leadline, lead: str, said: str, ends: str
) -> None:
    tell(house, order("m-1", lead, "unsure"))
    [letter] = [row for row in dead_letters(house, "unsure") if row["lead_id"] == lead]
    assert letter["category"] == "outcome_unknown"
    calls = len(ledger(house, "unsure"))
    assert house.cli("dlq", "resolve", letter["id"]).code == 1, "it must be said what happened"
    assert house.cli("dlq", "resolve", letter["id"], "--as", said).code == 0
    house.wait_idle()
    assert len(ledger(house, "unsure")) == calls
    assert disposition(house, "unsure", lead) == [ends]
    made = [row["task_type"] for row in tasks(house, "unsure") if row["lead_id"] == lead]
    assert sorted(made) == (["order_processing", "sales_notification"] if said == "done" else [])


def test_a_step_of_unknown_outcome_is_called_again_where_a_person_says_so(house: Leadline) -> None:
    tell(house, order("m-1", business="again"))
    [letter] = dead_letters(house, "again")
    said = ("--as", "retry", "--by", "ann", "--why", "not there")
    assert house.cli("dlq", "resolve", letter["id"], *said).code == 0
    house.wait_idle()
    calls = ledger(house, "again")
    assert (len(calls), len({call["key"] for call in calls})) == (2, 1)
    assert disposition(house, "again") == ["completed"]
    [resolved] = events(house.data, "dead_letter_resolved.v1", "lead:again:%")
    assert (resolved["outcome"], resolved["by"], resolved["why"]) == ("retried", "ann", "not there")
    assert [row["status"] for row in dead_letters(house, "again")] == ["resolved"]


def test_a_compensation_that_failed_is_called_again_where_a_person_says_so(house: Leadline) -> None:
    tell(house, order("m-1", business="undoable"))
    [letter] = dead_letters(house, "undoable")
    assert letter["category"] == "compensation_failed"
    assert house.cli("dlq", "resolve", letter["id"], "--as", "retry").code == 0
    house.wait_idle()
    kinds = [call["kind"] for call in ledger(house, "undoable")]
    assert kinds == ["order.create", "order.cancel", "order.cancel"]
    [letter] = dead_letters(house, "undoable")
    assert (letter["status"], letter["category"]) == ("failed", "action_failed")
    assert [row["status"] for row in tasks(house, "undoable")] == ["cancelled"]


def test_a_compensation_that_failed_is_for_a_person_and_its_retry_is_refused_till_then(
    house: Leadline,
) -> None:
    tell(house, order("m-1", business="stuck"), message("m-2", business="plain"))
    [letter] = dead_letters(house, "stuck")
    assert letter["category"] == "compensation_failed"
    refused = house.cli("dlq", "retry", letter["id"])
    assert refused.code == 1
    assert "settle" in refused.err
    assert house.cli("dlq", "resolve", letter["id"], "--as", "undone").code == 0
    house.wait_idle()
    assert [row["status"] for row in dead_letters(house, "stuck")] == ["resolved"]
    assert [row["status"] for row in tasks(house, "stuck")] == ["cancelled"]


def test_a_message_that_a_handler_cannot_take_is_amended_retried_and_discarded(house: Leadline) -> None:
    poison = [message(f"m-{n}", "+7", "plain", intent="TOUCHY", text="poison") for n in (1, 2)]
    tell(house, *poison)
    first, second = (row["id"] for row in dead_letters(house, "plain"))
    assert {row["category"] for row in dead_letters(house, "plain")} == {"handler_failed"}
    why = ("--why", "a slip", "--json")
    assert house.cli("dlq", "amend", first, "--set", "confidence=7", *why).code == 1
    amended = house.cli("dlq", "amend", first, "--set", "text=hello", *why).json
    assert amended[0]["difference"] == [{"field": "text", "before": "poison", "after": "hello"}]
    assert house.cli("dlq", "retry", first).code == 0
    assert house.cli("dlq", "discard", second, "--why", "spam").code == 0
    house.wait_idle()
    assert [row["status"] for row in dead_letters(house, "plain")] == ["resolved", "discarded"]
    assert disposition(house, "plain", "+7") == ["completed", "dead_lettered"]
    assert house.cli("dlq", "retry", second).code == 1
    assert house.cli("dlq", "show", second, "--json").json["status"] == "discarded"


def test_tasks_are_started_reassigned_completed_and_cancelled(house: Leadline) -> None:
    tell(house, message("m-1", "+8", "plain"), message("m-2", "+8", "plain"))
    one, other = (row["task_id"] for row in tasks(house, "plain") if row["lead_id"] == "+8")
    assert house.cli("task", "start", one).code == 0
    assert house.cli("task", "start", one).code == 1, "it is in progress already"
    assert house.cli("task", "reassign", one, "--to", "user:ann").code == 0
    assert house.cli("task", "reassign", one, "--to", "ann").code == 2
    assert house.cli("task", "complete", one).code == 0
    assert house.cli("task", "complete", one).code == 1, "it is not open any more"
    assert house.cli("task", "cancel", other).code == 0
    assert house.cli("task", "start", "no-such-task").code == 1
    house.wait_idle()
    rows = {row["task_id"]: row for row in tasks(house, "plain")}
    assert (rows[one]["status"], rows[one]["assigned_to_id"]) == ("completed", "ann")
    assert rows[other]["status"] == "cancelled"
    [lead] = [row for row in view(house.data, "leads") if row["lead_id"] == "+8"]
    assert lead["open_tasks"] == 0


def test_a_command_given_twice_is_carried_out_once_and_answered_alike(house: Leadline) -> None:
    tell(house, message("m-1", "+9", "plain"))
    [task] = [row["task_id"] for row in tasks(house, "plain") if row["lead_id"] == "+9"]
    again = [house.cli("task", "start", task, "--command-id", "c-once", "--json") for _ in range(2)]
    assert [answer.code for answer in again] == [0, 0]
    refused = [house.cli("task", "start", task, "--command-id", "c-late", "--json") for _ in range(2)]
    assert [answer.code for answer in refused] == [1, 1]
    assert refused[0].json[0]["reason"] == refused[1].json[0]["reason"]
    started = by_stream(events(house.data, "task_started.v1", "lead:plain:%"), "command_id")
    assert [ids.count("c-once") for ids in started.values() if "c-once" in ids] == [1]


def test_after_all_this_a_rebuild_finds_the_same_views(house: Leadline) -> None:
    house.wait_idle()
    answer = house.cli("rebuild", "--verify")
    assert answer.code == 0, answer


def tell(house: Leadline, *messages: bytes) -> None:
    """Publish, and wait until all is done that can be."""
    house.publish(messages)
    house.wait_idle()


def of(house: Leadline, name: str, business: str) -> list[Row]:
    rows = [row for row in view(house.data, name) if row["business_id"] == business]
    return sorted(rows, key=lambda row: (row["created_at"], row["message_id"]))


def tasks(house: Leadline, business: str) -> list[Row]:
    return of(house, "tasks", business)


def dead_letters(house: Leadline, business: str) -> list[Row]:
    return of(house, "dead_letter_queue", business)


def disposition(house: Leadline, business: str, lead: str = "") -> list[str]:
    rows = of(house, "processed_messages", business)
    return [row["disposition"] for row in rows if lead in ("", row["lead_id"])]
