"""The wire contract read a second time, from the design's table alone: the standard library's JSON and plain ifs.

It shares no line with `domain/messages.py`, so that a slip in one of the two readings shows.
"""

from __future__ import annotations

import json
import re
from typing import Any

BUSINESSES = {"acme-foods": "acme", "acme-deli": "acme", "globex-bank": "globex"}

_SPELLINGS = {
    "message_id": "messageId",
    "lead_id": "leadId",
    "business_id": "businessId",
    "tenant_id": "tenantId",
    "suggested_response": "suggestedResponse",
    "received_at": "receivedAt",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_GOOD_INSTANT = re.compile(r"20\d\d-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ")


class Unsaid(Exception):
    """The contract leaves this open: either answer is right."""


class _Broken(Exception):
    """Against the contract."""


def is_valid(subject: str, body: bytes) -> bool | None:
    """Whether a body published to this subject is a message; None where the contract does not say."""
    try:
        _check(subject, body)
    except _Broken:
        return False
    except Unsaid:
        return None
    return True


def token_of(value: str) -> str:
    """An id as its token, byte by byte."""
    safe = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    return "".join(chr(byte) if byte in safe else f"={byte:02X}" for byte in value.encode())


def _check(subject: str, body: bytes) -> None:
    _need(len(body) <= 256 * 1024)
    fields = _object(body)
    for snake, camel in _SPELLINGS.items():
        _need(not (snake in fields and camel in fields))
        if camel in fields:
            fields[snake] = fields.pop(camel)
    message_id, lead_id = _id(fields, "message_id", 256), _id(fields, "lead_id", 128)
    business_id = _id(fields, "business_id", 128)
    _id(fields, "intent", 64)
    del message_id
    _confidence(fields.get("confidence"))
    _need(business_id in BUSINESSES)
    token = token_of(lead_id)
    _need(len(token) <= 384)
    _need(subject == f"leads.in.{business_id}.{token}")
    tenant = _maybe_text(fields, "tenant_id")
    _need(tenant is None or tenant == BUSINESSES[business_id])
    _optional(fields)


def _object(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
        document = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
    except (ValueError, RecursionError):
        raise _Broken from None
    if text.startswith("\ufeff") or _SURROGATE.search(repr(document)) or "\\ud" in text.lower():
        raise Unsaid
    _need(isinstance(document, dict))
    known: dict[str, Any] = document
    return known


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise Unsaid  # which of two values counts, JSON itself leaves open
    return dict(pairs)


def _constant(_name: str) -> Any:
    raise ValueError("NaN and Infinity are no JSON")


def _id(fields: dict[str, Any], name: str, limit: int) -> str:
    value = fields.get(name)
    _need(isinstance(value, str) and 1 <= len(value) <= limit and not _CONTROL.search(value))
    return str(value)


def _maybe_text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    _need(value is None or isinstance(value, str))
    return value


def _confidence(value: Any) -> None:
    _need(_is_number(value) and 0 <= value <= 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _optional(fields: dict[str, Any]) -> None:
    for name in ("text", "suggested_response"):
        _maybe_text(fields, name)
    received = _maybe_text(fields, "received_at")
    if received is not None and not _GOOD_INSTANT.fullmatch(received):
        raise Unsaid  # RFC 3339 has many forms; tests/domain/test_wire.py has the ones that matter
    entities = fields.get("entities")
    _need(entities is None or isinstance(entities, dict))
    _need(all(isinstance(value, str) for value in (entities or {}).values()))
    ai = fields.get("ai")
    _need(ai is None or isinstance(ai, dict))
    if ai:
        _ai(ai)


def _ai(ai: dict[str, Any]) -> None:
    _need(not ("latency_ms" in ai and "latencyMs" in ai))
    _maybe_text(ai, "model")
    latency = ai.get("latency_ms", ai.get("latencyMs"))
    _need(latency is None or (_is_number(latency) and 0 <= latency <= 2**53))


def _need(holds: bool) -> None:  # noqa: FBT001  # reads as an assertion
    if not holds:
        raise _Broken
