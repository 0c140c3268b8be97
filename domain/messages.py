"""The wire contract: the bytes of a publisher, as an `IncomingMessage` or as a `Rejected` with its reason.

What may live here: decoding, validation, and the subject's form. What may not: what follows from a
message (`domain/lead.py`) and where it came from (`actors/intake.py`).
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from domain import tokens
from domain.errors import Rejected
from domain.tenants import Tenants

#: A message of more bytes is rejected (the server's `max_payload` is larger, so that it can be kept).
MAX_MESSAGE_BYTES = 256 * 1024
#: A lead's token of more bytes is rejected: subjects, keys and stream names are built of it.
MAX_TOKEN_BYTES = 384
MAX_INTEGER = 2**53

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: Lone surrogates too: JSON and UTF-8 know none, but an exception's text may hold them.
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

_Number = Annotated[float, Meta(ge=0, le=MAX_INTEGER)]
_Instant = Annotated[datetime, Meta(tz=True)]


class Ai(Struct, frozen=True, gc=False):
    """Who read the message, and how long it took, in milliseconds."""

    model: str | None = None
    latency_ms: float | None = None


class IncomingMessage(Struct, frozen=True, gc=False):
    """A valid message, in Leadline's own spelling; `payload` is the body exactly as it was published."""

    message_id: str
    lead_id: str
    business_id: str
    tenant_id: str
    intent: str
    confidence: float
    payload: str
    entities: dict[str, str] = {}
    text: str | None = None
    suggested_response: str | None = None
    received_at: datetime | None = None
    ai: Ai | None = None


class _WireAi(Struct):
    model: str | None = None
    latency_ms: _Number | None | UnsetType = UNSET
    latencyMs: _Number | None | UnsetType = UNSET


class _Wire(Struct):
    """Both spellings of every field; a field that came twice is refused by `_either`."""

    intent: str
    confidence: Annotated[float, Meta(ge=0, le=1)]
    entities: dict[str, str] | None = None
    text: str | None = None
    ai: _WireAi | None = None
    message_id: str | UnsetType = UNSET
    messageId: str | UnsetType = UNSET
    lead_id: str | UnsetType = UNSET
    leadId: str | UnsetType = UNSET
    business_id: str | UnsetType = UNSET
    businessId: str | UnsetType = UNSET
    tenant_id: str | None | UnsetType = UNSET
    tenantId: str | None | UnsetType = UNSET
    suggested_response: str | None | UnsetType = UNSET
    suggestedResponse: str | None | UnsetType = UNSET
    received_at: _Instant | None | UnsetType = UNSET
    receivedAt: _Instant | None | UnsetType = UNSET


_decoder = msgspec.json.Decoder(_Wire)


def decode_message(body: bytes, business_token: str, lead_token: str, tenants: Tenants) -> IncomingMessage:
    """The message in `body`, published under the subject's two tokens.

    Raises `Rejected`, whatever the bytes: this is the one place where any exception around decoding
    is a reject, since a million brackets raise RecursionError and bad UTF-8 UnicodeDecodeError.
    """
    tenant_id = _tenant(business_token, tenants)
    if len(body) > MAX_MESSAGE_BYTES:
        raise Rejected(f"larger than {MAX_MESSAGE_BYTES} bytes: {len(body)}", tenant_id=tenant_id)
    try:
        payload = body.decode()
    except UnicodeDecodeError as error:
        raise Rejected(f"not UTF-8 at byte {error.start}", tenant_id=tenant_id) from None
    try:
        wire = _decoder.decode(body)
        return _checked(wire, payload, business_token, lead_token, tenants)
    except Rejected as rejected:
        raise Rejected(rejected.reason, message_id=_readable_message_id(body), tenant_id=tenant_id) from None
    except Exception as error:  # any exception around decoding is a reject [H17]
        raise Rejected(_reason(error), message_id=_readable_message_id(body), tenant_id=tenant_id) from None


def message_subject(business_id: str, lead_id: str) -> str:
    """The one subject a lead's messages are published to."""
    return f"leads.in.{tokens.encode(business_id)}.{tokens.encode(lead_id)}"


def command_subject(business_token: str, lead_token: str) -> str:
    """The one subject a lead's commands are published to."""
    return f"leads.cmd.{business_token}.{lead_token}"


def message_dedup_id(business_id: str, lead_id: str, message_id: str) -> str:
    """`Nats-Msg-Id` of a message: JetStream's duplicate window is shared by the whole stream [H8]."""
    return f"{tokens.encode(business_id)}/{tokens.encode(lead_id)}/{message_id}"


def printable_payload(body: bytes) -> str:
    """A body as the views keep it: its text, or `base64:` and the bytes where it is not clean UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or text.startswith("base64:"):
        return "base64:" + base64.b64encode(body).decode()
    return text


def payload_bytes(payload: str) -> bytes:
    """The body that `printable_payload` kept. Raises `Rejected` for text that it would never give."""
    if "\0" in payload:
        raise Rejected("payload holds a NUL character")
    if not payload.startswith("base64:"):
        return payload.encode()
    try:
        return base64.b64decode(payload.removeprefix("base64:"), validate=True)
    except ValueError as error:
        raise Rejected(f"payload begins with base64: and cannot be read as that: {error}") from None


def check_id(name: str, value: object, limit: int) -> str:
    """An id of 1..limit characters without control characters, or `Rejected`."""
    if not isinstance(value, str):
        raise Rejected(f"{name} is missing")
    if not 1 <= len(value) <= limit:
        raise Rejected(f"{name} must have 1 to {limit} characters, has {len(value)}")
    if not value.isprintable() and _CONTROL.search(value):  # the first alone is fast, and mostly enough
        raise Rejected(f"{name} holds a control character")
    return value


def in_utc(name: str, at: datetime) -> datetime:
    """A time with an offset, in UTC; `Rejected` where its year there is none that a clock here knows."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise Rejected(f"{name} must be in the years 1 to 9999 in UTC, is {at.isoformat()}") from None


def clean(text: str) -> str:
    """Text with what no store takes (control characters but tab and line breaks) replaced by U+FFFD."""
    return text if text.isprintable() else _CONTROL_IN_TEXT.sub("\ufffd", text)


def _checked(
    wire: _Wire, payload: str, business_token: str, lead_token: str, tenants: Tenants
) -> IncomingMessage:
    message_id = check_id("message_id", _either("message_id", wire.message_id, wire.messageId), 256)
    lead_id = check_id("lead_id", _either("lead_id", wire.lead_id, wire.leadId), 128)
    business_id = check_id("business_id", _either("business_id", wire.business_id, wire.businessId), 128)
    token = tokens.encode(lead_id)
    if len(token) > MAX_TOKEN_BYTES:
        raise Rejected(f"lead_id is longer than {MAX_TOKEN_BYTES} bytes when written as a token")
    business = tenants.find(business_id)
    if business is None:
        raise Rejected(f"unknown business {business_id!r}: no tenant in the settings has it")
    if business_id != business_token or token != lead_token:
        raise Rejected(
            f"subject and body disagree: subject {business_token}.{lead_token},"
            f" body {tokens.encode(business_id)}.{token}"
        )
    tenant_id = _either("tenant_id", wire.tenant_id, wire.tenantId)
    if tenant_id is not None and tenant_id != business.tenant_id:
        raise Rejected(f"tenant_id {clean(tenant_id[:64])!r} is not the tenant of business {business_id!r}")
    suggested = _either("suggested_response", wire.suggested_response, wire.suggestedResponse)
    received_at = _either("received_at", wire.received_at, wire.receivedAt)
    return IncomingMessage(
        message_id=message_id,
        lead_id=lead_id,
        business_id=business_id,
        tenant_id=business.tenant_id,
        intent=check_id("intent", wire.intent, 64),
        confidence=wire.confidence,
        payload=payload,
        entities={clean(k): clean(v) for k, v in wire.entities.items() if v} if wire.entities else {},
        text=clean(wire.text) if wire.text else None,
        suggested_response=clean(suggested) if suggested else None,
        received_at=in_utc("received_at", received_at) if received_at else None,
        ai=_ai(wire.ai),
    )


def _ai(wire: _WireAi | None) -> Ai | None:
    if wire is None:
        return None
    latency = _either("ai.latency_ms", wire.latency_ms, wire.latencyMs)
    return Ai(clean(wire.model) if wire.model else None, latency)


def _either(name: str, snake: T | UnsetType, camel: T | UnsetType) -> T | None:
    """The value under whichever spelling it came; both at once are refused, neither is None."""
    if snake is UNSET:
        return None if camel is UNSET else camel
    if camel is not UNSET:
        raise Rejected(f"{name} is given in both spellings")
    return snake


def _readable_message_id(body: bytes) -> str | None:
    """The message id of a refused body, where one can be read."""
    try:
        fields: Any = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        raw = fields.get("message_id", fields.get("messageId"))
        return check_id("message_id", msgspec.json.decode(raw, type=str), 256) if raw else None
    except Exception:  # unreadable is the answer here: the reject itself is recorded either way
        return None


def _tenant(business_token: str, tenants: Tenants) -> str | None:
    business = tenants.find(business_token)
    return business.tenant_id if business else None


def _reason(error: Exception) -> str:
    """A decoder's complaint as a sentence for a person."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, msgspec.ValidationError):
        return f"wrong field: {clean(str(error))}"
    if isinstance(error, msgspec.DecodeError):
        return f"not JSON: {clean(str(error))}"
    return f"cannot be read: {type(error).__name__}: {clean(str(error))[:200]}"
