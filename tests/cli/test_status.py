"""What `status` takes for work, and what for a person's."""

from __future__ import annotations

from actors.log_status import LogStatus
from cli.status import Status
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
