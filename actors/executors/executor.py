"""What an executor is: an action's task, and its words towards a target."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from domain.actions import ActionSpec
from domain.ports import ActionCall


class Executor(Struct, frozen=True):
    """One action. `fields` are what a target is told when the action is done, `undo_fields` when it is undone.

    Both are pure: the call in, plain JSON values out. What was done is in `call.task` for an undo.
    """

    spec: ActionSpec
    #: What the target is asked for, and for the compensation.
    kind: str
    undo_kind: str
    fields: Callable[[ActionCall], dict[str, object]]
    undo_fields: Callable[[ActionCall], dict[str, object]]


def lead_fields(call: ActionCall) -> dict[str, object]:
    """What every target wants to know: who wrote what, and what we answer."""
    message = call.message
    return {
        "lead_id": message.lead_id,
        "message_id": message.message_id,
        "intent": message.intent,
        "text": message.text or "",
        "entities": message.entities,
        "response": call.response,
    }


def task_fields(call: ActionCall) -> dict[str, object]:
    """What a compensation says: what was done for whom, and which task is void."""
    return lead_fields(call) | {"task_id": call.task.task_id if call.task else ""}
