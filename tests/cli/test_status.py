"""What `status` takes for work, and what for a person's."""

from __future__ import annotations

import msgspec
import pytest

from actors.log_status import LogStatus
from cli.status import OutboxStatus, Status, has_stopped
from projections.queries import Row
from projections.store import ViewsPosition


def row(message: str, waiting_for: str, lead: str = "l1") -> Row:
    return {"business_id": "acme", "lead_id": lead, "message_id": message, "waiting_for": waiting_for}


def seen(*rows: Row) -> Status:
    views = ViewsPosition(1, "store")
    return Status(NOTHING_BEHIND, views.position, views, list(rows), 0)


NOTHING_BEHIND = LogStatus("life.0", 9, 1, 9, (), rewound=False, lost=(), rewinds=())


def test_what_waits_for_a_targets_configuration_waits_for_a_person_and_so_does_what_stands_behind_it() -> (
    None
):
    status = seen(row("m1", "target configuration"), row("m2", "its turn"), row("m3", "its turn"))
    assert [waits["message_id"] for waits in status.waiting_for_person] == ["m1", "m2", "m3"]
    assert status.open == []


def test_another_leads_messages_are_at_work_all_the_same() -> None:
    status = seen(row("m1", "target configuration"), row("m2", "its turn", "l2"), row("m3", "retry", "l3"))
    assert [waits["message_id"] for waits in status.waiting_for_person] == ["m1"]
    assert status.open == ["2 messages are at work"]
    assert seen(row("m1", "retry")).open == ["1 message is at work"]


@pytest.mark.parametrize(
    ("outbox", "clause"),
    [
        (OutboxStatus(7, 2, None), "results and replies are 2 events behind"),
        (OutboxStatus(9, 0, "event 10"), "results and replies have stopped: event 10"),
        (OutboxStatus(9, 0, None), None),
    ],
)
def test_results_that_are_not_out_are_work_too(outbox: OutboxStatus, clause: str | None) -> None:
    status = msgspec.structs.replace(seen(), outbox=outbox)
    assert status.open == ([clause] if clause else [])
    assert (has_stopped(status) is None) == (outbox.stopped is None)
