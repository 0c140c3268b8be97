"""A business that keeps the order over dead letters: its lead waits, visibly and over a restart, alone."""

from __future__ import annotations

from tests.support.system_leadline import SHORT_WAITS, Leadline
from tests.support.system_sql import events, view
from tests.support.system_targets import LEDGER, ledger, target
from tests.support.system_wire import message

SETTINGS = (
    """
[tenants.acme]
businesses = ["strict", "loose"]
[businesses.strict]
after_dead_letter = "park"
"""
    + SHORT_WAITS
    + target("notify_sales", "fail_for_good", "done", business="strict", ledger=LEDGER)
    + target("notify_sales", "fail_for_good", "done", business="loose", ledger=LEDGER)
)


def test_later_messages_wait_behind_a_dead_letter_over_a_restart_and_follow_it_in_order(
    house: Leadline,
) -> None:
    house.set(SETTINGS)
    runner = house.run()
    for business in ("strict", "loose"):
        house.publish([message(f"m-{n}", "+1", business) for n in (1, 2)])
    house.wait_idle()  # the first call is to fail, and it is to be this lead's
    house.publish([message("m-1", "+2", "strict")])
    house.wait_idle()
    [letter] = [row for row in view(house.data, "dead_letter_queue") if row["business_id"] == "strict"]
    assert ended(house, "loose") == {"m-1": "dead_lettered", "m-2": "completed"}
    assert waiting(house) == {"m-2": f"dead letter {letter['id']}"}
    assert runner.terminate() == 0
    house.run()
    house.publish([message("m-3", "+1", "strict")])
    house.wait_idle()
    status = house.ask("status")
    assert status["idle"]
    assert {row["waiting_for"] for row in status["waiting_for_person"]} == {f"dead letter {letter['id']}"}
    assert set(waiting(house)) == {"m-2", "m-3"}
    assert len([call for call in ledger(house, "strict") if call["lead_id"] == "+1"]) == 1
    assert house.cli("dlq", "retry", letter["id"]).code == 1, "the script begins anew: it fails again"
    house.wait_idle()
    assert set(waiting(house)) == {"m-2", "m-3"}
    assert house.cli("dlq", "retry", letter["id"]).code == 0
    house.wait_idle()
    completed = events(house.data, "message_completed.v1", "lead:strict:=2B1")
    assert [event["message_id"] for event in completed] == ["m-1", "m-2", "m-3"]
    assert waiting(house) == {}
    assert house.cli("rebuild", "--verify").code == 0


def waiting(house: Leadline) -> dict[str, str]:
    return {row["message_id"]: row["waiting_for"] for row in view(house.data, "unfinished")}


def ended(house: Leadline, business: str) -> dict[str, str]:
    rows = view(house.data, "processed_messages")
    return {row["message_id"]: row["disposition"] for row in rows if row["business_id"] == business}
