"""What an action is to the domain: the task it makes, whose that is, and by when.

Each action is declared in one file of `actors/executors/`, which holds its `ActionSpec` and its way of
reaching a target. The domain is handed the specs, so that a new action touches nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import Struct

from domain.events import MessageReceived, PlannedAction, Task
from domain.tokens import derived_id


class ActionSpec(Struct, frozen=True):
    """What an action's task looks like; `due` counts from its execution."""

    name: str
    task_type: str
    title: str
    assigned_to_type: str
    assigned_to_id: str
    due: timedelta
    priority: str
    #: Where one intent's task has another priority: intent → priority.
    priority_for: Mapping[str, str] = {}
    #: Never repeated towards a target that may be called once only, whatever is proved; a call that the target
    #: did not take at all (429, 401) is made later.
    never_repeat_once: bool = False
    #: Flags the lead for this message while the action stands.
    flags_lead: bool = False

    def title_of(self, message: MessageReceived) -> str:
        """The task's title, and what a target is told of it."""
        return f"{self.title}: {message.intent} from {message.lead_id}"


def build_task(
    spec: ActionSpec,
    planned: PlannedAction,
    message: MessageReceived,
    response: str,
    *,
    now: datetime,
    remote: Mapping[str, object],
) -> Task:
    """The task of an executed action; its id is UUIDv5 of the idempotency key of its last step.

    `remote` is what its targets gave: one target's ids, or of several a table of them by the target's name.
    """
    metadata: dict[str, object] = {
        "intent": message.intent,
        "confidence": message.confidence,
        "entities": message.entities,
        "response": response,
    }
    if remote:
        metadata["remote"] = dict(remote)
    return Task(
        task_id=derived_id(planned.key),
        task_type=spec.task_type,
        title=spec.title_of(message),
        description=message.text or "",
        priority=spec.priority_for.get(message.intent, spec.priority),
        assigned_to_type=spec.assigned_to_type,
        assigned_to_id=spec.assigned_to_id,
        due_date=now + spec.due,
        tenant_id=message.tenant_id,
        metadata=metadata,
    )
