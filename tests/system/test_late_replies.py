"""Replies that came too late while their lead was stopped: real processes, a real server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from actors.ownership import DataFolderLock
from tests.support.eventually import eventually
from tests.support.outbox import out
from tests.support.system_leadline import PATIENCE, TENANTS, Leadline
from tests.support.system_sql import events, view
from tests.support.system_wire import message

LEAD = "+49 151/1"
CODE = '''
from pathlib import Path

from domain.intents.handler import IntentHandler, Plan


class Broken(BaseException):
    """No fault of the message: its lead is tried again, and stopped."""


def plan(message, band):
    if not Path("mended").exists():
        raise Broken
    return Plan(("notify_sales",), "Soon.")


HANDLERS = [IntentHandler("BROKEN", plan)]
'''
SETTINGS = 'modules = ["broken"]\n[leads]\nrestart_delays_seconds = [0.05, 0.05]\n' + TENANTS


def stopped_with_a_late_reply(house: Leadline) -> dict[str, Any]:
    """The outbox waits, as for that of an earlier runner: when it goes on, the window is over and the lead stopped.
    The dead letter of the reply."""
    (house.folder / "broken.py").write_text(CODE)
    house.set(SETTINGS)
    earlier = DataFolderLock(house.data, "outbox.lock")
    assert earlier.acquire()
    house.run()
    ends = datetime.now(UTC) + timedelta(seconds=6)
    written = (ends - timedelta(hours=24)).isoformat()
    house.publish([message("late", received_at=written, text="Rye?")])
    eventually(lambda: bool(events(house.data, "message_completed.v1", "lead:%")), within=PATIENCE)
    house.publish([message("breaks", received_at=written, intent="BROKEN")])
    eventually(lambda: bool(events(house.data, "lead_stopped.v1")), within=PATIENCE)
    house.publish([message("behind", received_at=written)])
    eventually(lambda: datetime.now(UTC) > ends, within=PATIENCE)
    earlier.release()
    eventually(lambda: len(view(house.data, "dead_letter_queue")) == 3, within=PATIENCE)
    [letter] = [row for row in view(house.data, "dead_letter_queue") if row["message_id"] is None]
    return letter


def test_a_reply_too_late_for_a_stopped_lead_is_kept_and_a_task_once_the_lead_is_resumed(
    house: Leadline,
) -> None:
    letter = stopped_with_a_late_reply(house)
    assert (letter["category"], letter["lead_id"]) == ("lead_stopped", LEAD)
    assert "the reply to 'late' came too late" in letter["error_message"]
    refused = house.cli("dlq", "retry", letter["id"])
    assert refused.code == 1
    assert "lead resume" in refused.out + refused.err
    (house.folder / "mended").touch()
    assert house.cli("lead", "resume", "acme-foods", LEAD, "--timeout", "60").code == 0
    house.wait_idle()
    [expired] = [e for e in events(house.data, "reply_expired.v1") if e["message_id"] == "late"]
    [task] = [row for row in view(house.data, "tasks") if row["task_id"] == expired["task"]["task_id"]]
    assert (task["description"], task["status"], task["message_id"]) == ("Rye?", "pending", "late")
    letters = view(house.data, "dead_letter_queue")
    assert {row["status"] for row in letters} == {"resolved"}, letters
    told = {one.message_id: one.body["disposition"] for one in out(house.url, "results")}
    assert told == {"late": "completed", "breaks": "completed", "behind": "completed"}
    assert [one.message_id for one in out(house.url, "replies")] == []
    assert house.cli("rebuild", "--verify").code == 0
