"""notify_sales: sales hears of the lead; a correction follows where it was for nothing."""

from __future__ import annotations

from datetime import timedelta

from actors.executors.executor import Executor, lead_fields, task_fields
from domain.actions import ActionSpec

SPEC = ActionSpec(
    name="notify_sales",
    task_type="sales_notification",
    title="Contact the lead",
    assigned_to_type="team",
    assigned_to_id="sales",
    due=timedelta(hours=24),
    priority="normal",
    priority_for={"COMPLAINT": "high"},
)

EXECUTOR = Executor(SPEC, "sales.notify", "sales.correct", lead_fields, task_fields)
