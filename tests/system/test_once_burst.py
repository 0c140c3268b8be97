"""A burst at a target that may be called once, and its runner killed amid it: only what was at work is unknown."""

from __future__ import annotations

import random
import secrets
from collections import Counter

import pytest

from tests.support.eventually import eventually
from tests.support.system_leadline import PATIENCE, TENANTS, Leadline
from tests.support.system_sql import count_events, events, view
from tests.support.system_targets import LEDGER, ledger, target
from tests.support.system_wire import message

KILLS, WORKERS, BURST = 4, 2, 50
#: Events that a burst leads to before its first calls end: of each message at least its receipt, intent, plan and wait.
WITHIN_BURST = BURST * 4
SLOW = target("notify_sales", idempotency="once", delay_ms=80, workers=WORKERS, ledger=LEDGER)


@pytest.mark.timeout(300)
def test_kills_amid_a_burst_make_no_more_calls_unknown_than_there_are_workers(house: Leadline) -> None:
    """Messages of different leads come while nobody runs, so that the next runner reads them at once."""
    seed = secrets.randbelow(1_000_000)
    dice = random.Random(seed)
    house.set(TENANTS + SLOW)
    for burst in range(KILLS):
        house.publish([message(f"m-{burst}", f"lead-{burst}-{n}") for n in range(BURST)])
        before = count_events(house.data)
        runner = house.begin("run", "--http-port", "0")
        moment = before + dice.randrange(1, WITHIN_BURST)
        eventually(lambda at=moment: count_events(house.data) >= at, within=PATIENCE, every=0.001)  # type: ignore[misc]
        runner.kill()
    house.run()
    house.wait_idle()
    categories = {row["category"] for row in view(house.data, "dead_letter_queue")}
    dispositions = Counter(row["disposition"] for row in view(house.data, "processed_messages"))
    unknown = dispositions["dead_lettered"]
    assert categories <= {"outcome_unknown"}, seed
    assert unknown <= KILLS * WORKERS, seed
    assert dispositions == {"completed": KILLS * BURST - unknown, "dead_lettered": unknown}, seed
    done = [event["key"] for event in events(house.data, "action_executed.v1")]
    calls = Counter(call["key"] for call in ledger(house))
    assert len(done) == len(set(done)) == dispositions["completed"]
    assert {calls[key] for key in done} == {1}, seed
    assert len(set(calls) - set(done)) <= unknown, "called, and not recorded before the kill"
    assert set(calls.values()) == {1}, seed
