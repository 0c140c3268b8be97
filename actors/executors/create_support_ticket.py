"""create_support_ticket: a ticket for support; closed where the message fails later."""

from __future__ import annotations

from datetime import timedelta

from actors.executors.executor import Executor, lead_fields, task_fields
from domain.actions import ActionSpec

SPEC = ActionSpec(
    name="create_support_ticket",
    task_type="support_ticket",
    title="Handle the complaint",
    assigned_to_type="team",
    assigned_to_id="support",
    due=timedelta(hours=2),
    priority="high",
)

EXECUTOR = Executor(SPEC, "ticket.create", "ticket.close", lead_fields, task_fields)
