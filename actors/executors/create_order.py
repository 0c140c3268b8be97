"""create_order: an order in the business's system; cancelled where the message fails later."""

from __future__ import annotations

from datetime import timedelta

from actors.executors.executor import Executor, lead_fields, task_fields
from domain.actions import ActionSpec

SPEC = ActionSpec(
    name="create_order",
    task_type="order_processing",
    title="Process the order",
    assigned_to_type="team",
    assigned_to_id="orders",
    due=timedelta(hours=4),
    priority="high",
    never_repeat_once=True,
)

EXECUTOR = Executor(SPEC, "order.create", "order.cancel", lead_fields, task_fields)
