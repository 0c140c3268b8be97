"""A backup taken under load, a lost store, and what targets are asked again after the restore."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.support.system_leadline import SHORT_WAITS, TENANTS, Leadline
from tests.support.system_sql import count_events, view
from tests.support.system_targets import LEDGER, ledger, target
from tests.support.system_wire import message, order

SETTINGS = (
    TENANTS
    + SHORT_WAITS
    + target("create_order", idempotency="keyed", ledger=LEDGER)
    + target("notify_sales", business="acme-deli", idempotency="once", ledger=LEDGER)
)


def test_after_a_restore_what_was_confirmed_since_is_handled_again_under_the_same_keys(
    house: Leadline,
) -> None:
    house.set(SETTINGS)
    runner = house.run()
    house.publish([order(f"before-{n}", f"+{n}") for n in range(20)])
    house.wait_idle()
    house.publish([order(f"during-{n}", f"+{n % 20}") for n in range(200)])
    made = house.ask("backup", str(house.folder / "copy"))["backup"]
    assert 0 < made["events"] <= count_events(house.data)
    house.publish([order(f"since-{n}", f"+{n}") for n in range(20)])
    house.publish([message(f"told-{n}", f"+{n}", "acme-deli") for n in range(5)])
    house.wait_idle()
    first, views = keys_of(house), dispositions(house)
    assert len(first) == len(set(first)) == 245
    refused = house.cli("restore", str(house.folder / "copy"), "--force")
    assert refused.code == 1, "a runner works on the folder"
    assert runner.terminate() == 0
    assert house.cli("restore", str(house.folder / "copy")).code == 1, "a store stands there"
    said = house.cli("restore", str(house.folder / "copy"), "--force")
    assert said.code == 0, said
    assert "same keys" in said.out
    assert count_events(house.data) == made["events"]
    house.run()
    house.wait_idle()
    assert dispositions(house) == views
    again = keys_of(house)[len(first) :]
    assert set(again) < set(first), "what is asked again has the key that it had"
    assert max(Counter(again).values()) == 1
    assert not any("before-" in key for key in again), "what the backup knows is not asked again"
    assert sum("since-" in key for key in again) == 20
    assert sum("told-" in key for key in again) == 5, "a once target is asked again too: docs/operating.md"
    assert house.cli("rebuild", "--verify").code == 0


def keys_of(house: Leadline) -> list[str]:
    return [call["key"] for call in ledger(house)]


def dispositions(house: Leadline) -> dict[str, Any]:
    rows = view(house.data, "processed_messages")
    return {row["message_id"]: row["disposition"] for row in rows}
