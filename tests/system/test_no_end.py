"""Code of the user's own that never comes back: seen, contained, and no hindrance to an orderly end."""

from __future__ import annotations

import time

import pytest

from actors.ownership import owner_of
from tests.support.eventually import eventually
from tests.support.system_leadline import PATIENCE, SHORT_WAITS, TENANTS, Leadline
from tests.support.system_sql import events, view
from tests.support.system_wire import message

CODE = '''
import ctypes
from pathlib import Path

from domain.intents.handler import IntentHandler, Plan
from domain.outcomes import Done

MENDED = Path("mended")


def loops(message, band):
    while not MENDED.exists():
        pass
    return Plan(("notify_sales",), "Soon.")


def blocks(message, band):
    """Outside of Python, with the interpreter given away: no exception reaches it."""
    while not MENDED.exists():
        ctypes.CDLL(None).sleep(600)
    return Plan(("notify_sales",), "Soon.")


class Target:
    idempotency = "keyed"

    def __init__(self, given):
        pass

    def call(self, request):
        while request.lead_id == "+9" and not MENDED.exists():
            pass
        return Done()


HANDLERS = [IntentHandler("LOOPS", loops), IntentHandler("BLOCKS", blocks)]
'''

SETTINGS = (
    'modules = ["endless"]\ndrain_seconds = 2\n'
    "[pool]\nbusy_warning_seconds = 0.5\n[leads]\ngive_up_seconds = 1\n"
    "[breaker]\nminimum_calls = 1000\n"
    + TENANTS
    + SHORT_WAITS
    + '[targets.notify_sales]\nkind = "module"\nclass = "endless:Target"\ntimeout_seconds = 0.2\nworkers = 2\n'
)


@pytest.fixture
def endless(house: Leadline) -> Leadline:
    (house.folder / "endless.py").write_text(CODE)
    house.set(SETTINGS)
    return house


def mend(house: Leadline) -> None:
    (house.folder / "mended").touch()


def hangs(house: Leadline) -> bool:
    owner = owner_of(house.data)
    return owner is not None and bool(owner.hanging)


def completed(house: Leadline) -> list[str]:
    return sorted(event["message_id"] for event in events(house.data, "message_completed.v1", "lead:%"))


def test_leads_whose_handler_never_comes_back_are_stopped_and_go_on_in_order_once_resumed(
    endless: Leadline,
) -> None:
    house = endless
    house.run()
    intents = {"+1": "LOOPS", "+2": "LOOPS", "+3": "LOOPS", "+4": "BLOCKS", "+5": "BLOCKS"}
    for lead, intent in intents.items():
        house.publish([message(f"m-{lead}a", lead, intent=intent), message(f"m-{lead}b", lead)])
    house.publish([message("m-6", "+6")])
    eventually(lambda: len(events(house.data, "lead_stopped.v1")) == len(intents), within=PATIENCE)
    eventually(lambda: completed(house) == ["m-6"], within=PATIENCE)
    assert {event["failures"] for event in events(house.data, "lead_stopped.v1")} == {1}, (
        "it is not tried again"
    )
    hanging = ("lead:acme-foods:=2B4", "lead:acme-foods:=2B5")
    eventually(lambda: house.ask("status")["runner"]["hanging"] == list(hanging), within=PATIENCE)
    assert "code that does not come back: lead:acme-foods:=2B4; lead" in house.cli("status").out
    assert "code that does not come back: lead:acme-foods:=2B4" in house.cli("doctor").out
    assert "did not come back within" in house.cli("lead", "acme-foods", "+1").out
    mend(house)
    for lead in intents:
        assert house.cli("lead", "resume", "acme-foods", lead, "--timeout", "60").code == 0
    house.wait_idle()
    assert len(completed(house)) == 11
    assert {row["disposition"] for row in view(house.data, "processed_messages")} == {"completed"}
    order = [e["message_id"] for e in events(house.data, "message_received.v1", "lead:acme-foods:=2B4")]
    assert order == ["m-+4a", "m-+4b"]
    assert house.cli("rebuild", "--verify").code == 0


def test_a_runner_with_such_threads_drains_in_bounded_time_and_loses_nothing(endless: Leadline) -> None:
    house = endless
    runner = house.run()
    house.publish([message("m-1", "+1", intent="LOOPS"), message("m-2", "+2", intent="BLOCKS")])
    eventually(lambda: len(events(house.data, "lead_stopped.v1")) == 2, within=PATIENCE)
    house.publish([message("m-3", "+3", intent="LOOPS"), message("m-4", "+4", intent="BLOCKS")])
    eventually(lambda: hangs(house), within=PATIENCE)
    began = time.monotonic()
    assert runner.terminate() == 0
    assert time.monotonic() - began < 25, "drain_seconds, and some for each thread that is left to its fate"
    mend(house)
    house.run()
    for lead in ("+1", "+2", "+3", "+4"):
        house.cli("lead", "resume", "acme-foods", lead, "--timeout", "60")
    house.wait_idle()
    assert completed(house) == ["m-1", "m-2", "m-3", "m-4"]


def test_a_target_that_never_comes_back_for_one_lead_is_no_hindrance_to_others(endless: Leadline) -> None:
    house = endless
    house.run()
    house.publish([message(f"m-{n}", f"+{n}") for n in range(20)])
    house.wait_idle()
    assert len(completed(house)) == 19
    [letter] = view(house.data, "dead_letter_queue")
    assert (letter["message_id"], letter["category"], letter["attempt_count"]) == ("m-9", "action_failed", 4)
    assert house.ask("status")["runner"]["hanging"] == [], "a loop gives its thread back"
    mend(house)
    assert house.cli("dlq", "retry", letter["id"]).code == 0
    house.wait_idle()
    assert len(completed(house)) == 20
