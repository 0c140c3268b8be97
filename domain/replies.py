"""Replies to the lead: WhatsApp lets a business write freely for 24 hours after the lead's last message.

After that the response is a task for sales, who know how to reach the lead otherwise.
Source: https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-messages (customer service windows).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import msgspec

from domain import events as ev
from domain.commands import ExpireReply, RedriveReply, encode_command
from domain.events import DeadLetterResolved, Event, Place, Task
from domain.messages import clean
from domain.operate import refuse
from domain.playbook import Playbook
from domain.tokens import derived_id

WINDOW = timedelta(hours=24)
#: What of a text goes into a task; WhatsApp's own limit for a message.
MAX_TEXT = 4096
#: The action whose task it is; its targets are not called: nothing was promised to them.
ACTION = "notify_sales"


def wrote_at(received_at: datetime | None, recorded_at: datetime) -> datetime:
    """When the lead wrote: as the message says, but never later than it was recorded."""
    return received_at if received_at is not None and received_at < recorded_at else recorded_at


def expire(
    base_key: str, command: ExpireReply, playbook: Playbook, *, known: Collection[str], now: datetime
) -> Sequence[Event]:
    """The events of a reply that came too late: its task, once for a command. `known` are the lead's messages."""
    if command.message_id not in known:
        return refuse(command, "this lead has no such message")
    spec = playbook.spec_of(ACTION)
    message_id, intent = command.message_id, clean(command.intent)
    business_id = base_key.partition("/")[0]
    business = playbook.tenants.find(business_id)
    task = Task(
        task_id=derived_id(f"{base_key}/{command.command_id}"),
        task_type=spec.task_type,
        title=f"Answer the lead another way, the 24 hours are over: {intent}",
        description=clean(command.text[:MAX_TEXT]),
        priority=spec.priority_for.get(intent, spec.priority),
        assigned_to_type=spec.assigned_to_type,
        assigned_to_id=spec.assigned_to_id,
        due_date=now + spec.due,
        tenant_id=business.tenant_id if business else "",
        metadata={"intent": intent, "response": clean(command.response[:MAX_TEXT])},
    )
    told = (command.command_id, command.by, command.why)
    return (ev.ReplyExpired(message_id, task, command.window_ended_at, *told),)


def taken(command: RedriveReply, place: Place | None) -> DeadLetterResolved:
    """The event that closes the dead letter of a reply which its lead has now, or had before: one for each resume that
    delivers it, whose place it is."""
    return DeadLetterResolved(
        command.redrive_of,
        None,
        "done",
        f"redrive/{command.redrive_of}/{place.sequence if place else 0}",
        "leadline",
        "its lead was stopped, and has it now",
    )


def kept(command: ExpireReply) -> bytes:
    """The body that is kept of a reply while its lead is stopped: no more of it than its task will hold."""
    cut = {name: getattr(command, name)[:MAX_TEXT] for name in ("response", "intent", "text")}
    return encode_command(msgspec.structs.replace(command, **cut))
