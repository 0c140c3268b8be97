"""What an amendment changed: read from its event, which keeps the original."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from rich.text import Text

import runner
from actors.event_store import EventStore
from cli.output import console, printable, say
from cli.queries import views_of
from domain.errors import LeadlineError
from domain.events import DeadLetterAmended, MessageRejected, Recorded
from domain.rejects import is_reject_id
from domain.tokens import lead_stream, partition_of, rejects_stream
from settings import Settings

Change = dict[str, Any]


def difference(settings: Settings, dead_letter_id: str, command_id: str) -> list[Change]:
    """Field, before and after of each field that the command changed. Raises `LeadlineError` where it is not there."""
    tokens = views_of(settings).subject_of_dead_letter(dead_letter_id)
    if tokens is None:
        raise LeadlineError(f"there is no dead letter {dead_letter_id}; `leadline dlq` lists them")
    of_reject = is_reject_id(dead_letter_id)
    stream = rejects_stream(partition_of(*tokens)) if of_reject else lead_stream(*tokens)
    with closing(runner.open_event_log(settings)) as log:
        for recorded in log.stream(stream):
            event = recorded.event
            if isinstance(event, DeadLetterAmended) and event.command_id == command_id:
                before = _body_before(log, recorded, event) if of_reject else event.before
                return [
                    {"field": name, "before": before.get(name), "after": after}
                    for name, after in event.changes.items()
                ]
    raise LeadlineError(f"command {command_id} has left no amendment of {dead_letter_id}")


def tell(dead_letter_id: str, changes: list[Change]) -> None:
    """Each field as it was and as it is."""
    say(f"{dead_letter_id}: amended; `leadline dlq retry {dead_letter_id}` handles it so", "green")
    for change in changes:
        field = f"  {change['field']}"
        console().print(
            Text.assemble((f"{field} - ", "dim"), (_shown(change["before"]), "red")), soft_wrap=True
        )
        console().print(
            Text.assemble((f"{field} + ", "dim"), (_shown(change["after"]), "green")), soft_wrap=True
        )


def _body_before(log: EventStore, amended: Recorded, event: DeadLetterAmended) -> dict[str, Any]:
    """A reject's body before an amendment: that of the latest event before it which holds one."""
    body: object = None
    for recorded in log.stream(amended.stream):
        earlier = recorded.event
        if recorded.version >= amended.version:
            break
        if getattr(earlier, "dead_letter_id", None) != event.dead_letter_id:
            continue
        if isinstance(earlier, MessageRejected):
            body = earlier.payload
        elif isinstance(earlier, DeadLetterAmended):
            body = earlier.changes.get("payload")
    return {"payload": body}


def _shown(value: object) -> str:
    return printable("(none)" if value is None else str(value))
