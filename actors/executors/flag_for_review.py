"""flag_for_review: a reviewer reads the conversation; the message's flag goes where it fails later."""

from __future__ import annotations

from datetime import timedelta

from actors.executors.executor import Executor, lead_fields, task_fields
from domain.actions import ActionSpec

SPEC = ActionSpec(
    name="flag_for_review",
    task_type="lead_review",
    title="Review the conversation",
    assigned_to_type="role",
    assigned_to_id="reviewer",
    due=timedelta(hours=24),
    priority="low",
    flags_lead=True,
)

EXECUTOR = Executor(SPEC, "lead.flag", "lead.unflag", lead_fields, task_fields)
