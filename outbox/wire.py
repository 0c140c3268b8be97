"""What is published, where, and under which headers: the contract of docs/wire.md."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec
from msgspec import Struct

from domain.commands import ExpireReply, encode_command
from domain.messages import command_subject
from domain.results import Ended
from outbox.sending import Publication, header_block

#: Which event a message was made from: `<life>/<position>`, `life` naming one run of positions.
EVENT_HEADER = "Leadline-Event"


class Reply(Struct, frozen=True, gc=False):
    """The body of a reply."""

    message_id: str
    lead_id: str
    business_id: str
    tenant_id: str | None
    text: str
    at: datetime
    #: Not to be sent to the lead after this.
    window_ends_at: datetime
    trace_id: str | None = None


_encoder = msgspec.json.Encoder()


def results_subject(tokens: tuple[str, str]) -> str:
    return f"leads.out.{tokens[0]}.{tokens[1]}.results"


def replies_subject(tokens: tuple[str, str]) -> str:
    return f"leads.out.{tokens[0]}.{tokens[1]}.replies"


def result_publication(ended: Ended, life: str) -> Publication:
    return Publication(
        results_subject(ended.tokens), _headers(ended, "results", life), _encoder.encode(ended.result)
    )


def reply_publication(ended: Ended, life: str, window_ends: datetime) -> Publication:
    result = ended.result
    reply = Reply(
        result.message_id,
        result.lead_id,
        result.business_id,
        result.tenant_id,
        result.response or "",
        result.at,
        window_ends,
        result.trace_id,
    )
    return Publication(
        replies_subject(ended.tokens), _headers(ended, "replies", life), _encoder.encode(reply)
    )


def expiry_publication(ended: Ended, window_ended: datetime, wrote: tuple[str, str]) -> Publication:
    """The command for the lead of a reply that came too late; `wrote` is the lead's intent and text."""
    intent, text = wrote
    command = ExpireReply(
        command_id=f"reply/{ended.event_id}",
        by="leadline",
        why="WhatsApp's 24-hour window was over",
        message_id=ended.result.message_id,
        window_ended_at=window_ended,
        response=ended.result.response or "",
        intent=intent,
        text=text,
    )
    headers = [("Nats-Msg-Id", f"cmd/{command.command_id}")]
    if ended.trace:
        headers.append(("traceparent", ended.trace))
    return Publication(command_subject(*ended.tokens), header_block(headers), encode_command(command))


def event_of(headers: Mapping[str, str]) -> tuple[str, int] | None:
    """(life, position) of a message of ours, None for another's."""
    life, _, position = headers.get(EVENT_HEADER, "").partition("/")
    return (life, int(position)) if position.isdecimal() else None


def _headers(ended: Ended, kind: str, life: str) -> str:
    trace = f"traceparent: {ended.trace}\r\n" if ended.trace else ""
    return (
        f"NATS/1.0\r\nNats-Msg-Id: {ended.event_id}/{kind}\r\n"
        f"{EVENT_HEADER}: {life}/{ended.position}\r\n{trace}"
    )
