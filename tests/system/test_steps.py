"""Actions with several targets, and targets whose configuration is wrong, as their users see them."""

from __future__ import annotations

import json
from typing import Any

from tests.support.eventually import eventually
from tests.support.system_leadline import PATIENCE, SHORT_WAITS, TENANTS, Leadline
from tests.support.system_sql import metric, view
from tests.support.system_targets import LEDGER, ledger, target
from tests.support.system_wire import message, order

BREAKER = """
[breaker]
open_seconds = 0.2
"""


def remote_of(task: dict[str, Any]) -> Any:
    return json.loads(task["metadata"]).get("remote")


def breakers(house: Leadline) -> dict[str, tuple[str, bool]]:
    return {row["name"]: (row["state"], row["retry_at"] is not None) for row in view(house.data, "breakers")}


def test_an_order_goes_to_each_of_its_targets_and_comes_back_from_each(house: Leadline) -> None:
    shop = target("create_order", name="shop", ledger=LEDGER)
    warehouse = target("create_order", "fail", "done", name="warehouse", idempotency="none", ledger=LEDGER)
    sales = target("notify_sales", "done", "fail_for_good", ledger=LEDGER)
    house.set(TENANTS + SHORT_WAITS + shop + warehouse + sales)
    house.run()
    house.publish([order("m1", lead="+1")])
    house.wait_idle()
    house.publish([order("m2", lead="+2")])
    house.wait_idle()
    calls = [(call["kind"], call["outcome"]) for call in ledger(house)]
    well = [
        ("order.create", "Done"),
        ("order.create", "Failed"),
        ("order.create", "Done"),
        ("sales.notify", "Done"),
    ]
    undone = (
        [("order.create", "Done")] * 2 + [("sales.notify", "FailedForGood")] + [("order.cancel", "Done")] * 2
    )
    assert calls == well + undone
    tasks = {(task["message_id"], task["task_type"]): task for task in view(house.data, "tasks")}
    assert set(remote_of(tasks["m1", "order_processing"])) == {"shop", "warehouse"}
    assert set(remote_of(tasks["m1", "sales_notification"])) == {"id"}
    assert tasks["m1", "order_processing"]["status"] == "pending"
    assert tasks["m2", "order_processing"]["status"] == "cancelled"
    assert metric(house.data, "whatsapp_action_executed_total", action="create_order", outcome="done") == 2
    told = house.cli("lead", "acme-foods", "+2").out
    assert "create_order at 2 targets, then notify_sales" in told
    assert "create_order is done at create_order.shop" in told
    assert "create_order is undone at create_order.warehouse" in told


def test_what_a_wrong_configuration_holds_up_waits_for_a_person_and_goes_on_by_itself(
    house: Leadline,
) -> None:
    wrong = target("notify_sales", *["misconfigured"] * 3, "done", idempotency="once", ledger=LEDGER)
    house.set(TENANTS + BREAKER + wrong)
    house.run()
    house.publish([message(f"m{n}", lead=f"+{n}") for n in range(5)])
    house.wait_idle()  # whatever waits for its target's configuration is a person's, and goes on all the same
    eventually(
        lambda: [row["disposition"] for row in view(house.data, "processed_messages")] == ["completed"] * 5,
        within=PATIENCE,
    )
    assert breakers(house) == {"notify_sales": ("closed", False)}
    assert [call["outcome"] for call in ledger(house)].count("Done") == 5
    assert view(house.data, "dead_letter_queue") == []


def test_a_target_that_is_switched_off_is_printed_as_a_persons_and_tried_again_at_the_next_start(
    house: Leadline,
) -> None:
    house.set(TENANTS + BREAKER + target("notify_sales", "switched_off", idempotency="once"))
    running = house.run()
    house.publish([message("m1", lead="+1"), message("m2", lead="+1"), message("m3", lead="+3")])
    answer = house.cli("status", "--wait-idle", "--timeout", "60")
    assert answer.code == 0, answer
    for waits in ("m1: target configuration", "m2: its turn", "m3: target configuration"):
        assert waits in answer.out
    assert breakers(house) == {"notify_sales": ("open", False)}
    assert running.terminate() == 0
    house.set(TENANTS + BREAKER + target("notify_sales", idempotency="once", calls_per_second=50))
    house.run()
    eventually(
        lambda: [row["disposition"] for row in view(house.data, "processed_messages")] == ["completed"] * 3,
        within=PATIENCE,
    )
    house.wait_idle()
    assert breakers(house) == {"notify_sales": ("closed", False)}


def test_a_target_that_is_throttled_and_has_a_rate_gets_every_message_once(house: Leadline) -> None:
    slow = target("notify_sales", "throttle", "done", idempotency="once", calls_per_second=20, ledger=LEDGER)
    house.set(TENANTS + slow)
    house.run()
    house.publish([message(f"m{n}", lead=f"+{n}") for n in range(30)])
    house.wait_idle()
    done = [call["key"] for call in ledger(house) if call["outcome"] == "Done"]
    assert len(done) == len(set(done)) == 30
    assert view(house.data, "dead_letter_queue") == []
