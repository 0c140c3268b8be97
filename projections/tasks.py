"""The view `tasks`: what a person has to do, from the actions executed and from what people did since."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from domain import events as ev
from domain.events import Recorded
from projections import schema
from projections.leads import Leads
from projections.rows import Folds, Needs, Owner, Rows
from projections.schema import instant, no_nul

OPEN = ("pending", "in_progress")

_metadata = msgspec.json.Encoder(order="sorted")


class TaskRow(Struct, gc=False):
    task_id: str
    lead_id: str
    business_id: str
    tenant_id: str
    task_type: str
    title: str
    description: str
    status: str
    priority: str
    assigned_to_type: str
    assigned_to_id: str
    due_date: str
    metadata: str
    created_at: str
    updated_at: str
    message_id: str


class Tasks:
    """Folds the view; tells the leads which tasks were opened and closed."""

    def __init__(self, leads: Leads) -> None:
        self._leads = leads
        self._rows = Rows(schema.tasks, TaskRow)
        self.tables = (self._rows,)
        self.needs: Needs = {
            ev.ActionExecuted: self._leads.will_need,
            ev.ReplyExpired: self._leads.will_need,
            ev.ActionCompensated: self._will_need,
            ev.TaskStarted: self._will_need,
            ev.TaskCompleted: self._will_need,
            ev.TaskCancelled: self._will_need,
            ev.TaskReassigned: self._will_need,
        }
        self.folds: Folds = {
            ev.ActionExecuted: self._made,
            ev.ReplyExpired: self._made,
            ev.ActionCompensated: self._cancelled,
            ev.TaskStarted: self._started,
            ev.TaskCompleted: self._completed,
            ev.TaskCancelled: self._cancelled,
            ev.TaskReassigned: self._reassigned,
        }

    def _will_need(self, event: ev.TaskStarted, owner: Owner) -> None:
        self._rows.will_need((event.task_id, *owner))
        self._leads.rows.will_need(owner)

    def _made(
        self, recorded: Recorded, event: ev.ActionExecuted | ev.ReplyExpired, owner: Owner, at: str
    ) -> None:
        task = event.task
        key = (task.task_id, *owner)
        self._rows.put(
            key,
            TaskRow(
                *key,
                task.tenant_id,
                task.task_type,
                no_nul(task.title),
                no_nul(task.description),
                "pending",
                task.priority,
                task.assigned_to_type,
                task.assigned_to_id,
                instant(task.due_date),
                _metadata.encode(task.metadata).decode(),
                at,
                at,
                event.message_id,
            ),
        )
        self._leads.task_opened(owner)

    def _started(self, recorded: Recorded, event: ev.TaskStarted, owner: Owner, at: str) -> None:
        self._moved(event.task_id, "in_progress", owner, at)

    def _completed(self, recorded: Recorded, event: ev.TaskCompleted, owner: Owner, at: str) -> None:
        self._moved(event.task_id, "completed", owner, at)

    def _cancelled(
        self, recorded: Recorded, event: ev.TaskCancelled | ev.ActionCompensated, owner: Owner, at: str
    ) -> None:
        self._moved(event.task_id, "cancelled", owner, at)

    def _reassigned(self, recorded: Recorded, event: ev.TaskReassigned, owner: Owner, at: str) -> None:
        key = (event.task_id, *owner)
        row = self._rows.get(key)
        if row is None:
            return
        row.assigned_to_type = event.assigned_to_type
        row.assigned_to_id = no_nul(event.assigned_to_id)
        row.updated_at = at
        self._rows.touch(key, row)

    def _moved(self, task_id: str, status: str, owner: Owner, at: str) -> None:
        key = (task_id, *owner)
        row = self._rows.get(key)
        if row is None:
            return
        if row.status in OPEN and status not in OPEN:
            self._leads.task_closed(owner)
        row.status = status
        row.updated_at = at
        self._rows.touch(key, row)
