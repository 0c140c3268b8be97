"""The demo's sample traffic: what three businesses' leads write, what the AI made of it, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from domain.messages import message_dedup_id, message_subject
from domain.tokens import derived_id

#: acme-foods: its order system fails now and then, and is called again; its sales people get mail.
#: acme-deli: its sales system refuses a webhook, so that the order already placed in its shop is taken back.
#: globex-bank: its ticket system is down for a while, and a breaker opens; what became of an order, nobody knows.
#: The systems that are called for real are in `demo_servers.py`, with their settings.
SETTINGS: Mapping[str, Any] = {
    "tenants.acme.businesses": ["acme-foods", "acme-deli"],
    "tenants.globex.businesses": ["globex-bank"],
    "businesses.acme-foods.targets.create_order": {
        "kind": "scripted",
        "script": ["fail", "done", "unknown", "done", "done", "throttle", "done"],
        "repeat": "cycle",
        "delay_ms": 20,
    },
    "businesses.globex-bank.targets.create_order": {
        "kind": "scripted",
        "idempotency": "once",
        "script": ["unknown"],
    },
    "businesses.globex-bank.targets.create_support_ticket": {
        "kind": "scripted",
        "script": ["fail"] * 6 + ["done"],
        "delay_ms": 20,
    },
    # Shorter than the defaults, so that the story fits into a minute.
    "retry.delays_seconds": [0.5, 1.0, 2.0],
    "breaker.minimum_calls": 4,
    "breaker.open_seconds": 2.0,
    "projector.mode": "thread",
}

#: The lead whose story is told at the end: an order is placed, taken back, and placed again by a person's word.
STORY = ("acme-deli", "+4915112345678")
#: The breaker whose story is told beside it.
BREAKER = "create_support_ticket@globex-bank"


class Entry(Struct, frozen=True):
    """One publish: hostile ones are what no careful publisher would send."""

    subject: str
    body: bytes
    dedup_id: str | None
    hostile: bool = False


_ORDERS: tuple[tuple[str, dict[str, str], float], ...] = (
    ("Three bags of flour, please", {"product": "flour", "quantity": "3"}, 0.95),
    ("I take the large box of apples", {"product": "apples"}, 0.91),
    ("Can I have ten baguettes for Saturday?", {"product": "baguette", "quantity": "10"}, 0.88),
    ("I want to order", {}, 0.90),
    ("perhaps two of those", {"product": "croissant"}, 0.64),
)
_OTHERS = (
    ("PRICING_INQUIRY", "How much is delivery to the suburbs?", 0.93),
    ("AVAILABILITY_INQUIRY", "Do you have gluten-free bread today?", 0.89),
    ("SCHEDULE_CALL", "Please call me on Monday at nine", 0.97),
    ("SCHEDULE_CALL", "we could talk some time", 0.58),
    ("COMPLAINT", "The parcel came open and half of it was gone!", 0.92),
    ("COMPLAINT", "not so happy with the last one", 0.61),
    ("UNKNOWN", "ok thanks", 0.99),
    ("UNKNOWN", "🤷", 0.55),
    ("ORDER_REQUEST", "hm", 0.31),
    ("CANCEL_SUBSCRIPTION", "stop sending me this", 0.87),
)


def entries() -> Iterator[Entry]:
    """All of it, in the order of publishing."""
    sent = [message_entry(message) for message in messages()]
    yield from sent
    # WhatsApp delivers at least once: the same messages again, and past JetStream's own memory.
    yield from (msgspec.structs.replace(entry, dedup_id=None) for entry in sent[::5])
    yield from hostile()


def messages() -> Iterator[dict[str, Any]]:
    """What leads wrote, as the AI upstream publishes it."""
    for n, (text, entities, confidence) in enumerate(_ORDERS * 2):
        yield _message("acme-foods", f"+33612345{n % 4:03}", "ORDER_REQUEST", text, confidence, entities)
    for n, (intent, text, confidence) in enumerate(_OTHERS * 2):
        yield _message("acme-foods", f"+33612345{n % 7:03}", intent, text, confidence)
    business, lead = STORY
    yield _message(business, lead, "PRICING_INQUIRY", "What does the party platter cost?", 0.49)
    yield _message(
        business, lead, "ORDER_REQUEST", "Then one party platter, please", 0.96, {"product": "platter"}
    )
    yield _message(business, lead, "UNKNOWN", "thank you!", 0.98)
    for n in range(6):
        yield _message("globex-bank", f"US.{n}.abc", "COMPLAINT", f"My card was swallowed, machine {n}", 0.9)
    yield _message(
        "globex-bank", "US.7.abc", "ORDER_REQUEST", "A second card, please", 0.93, {"product": "card"}
    )


def hostile() -> Iterator[Entry]:
    """What must become a dead letter and disturb nobody."""
    good = message_entry(_message("acme-foods", "+33612345000", "UNKNOWN", "hello", 0.9))
    to = good.subject
    bodies = (
        b"this is not JSON",
        b'{"message_id": "wamid.cut", "lead_id"',
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        _altered(good, confidence=2),
        _altered(good, confidence="0.9"),
        _altered(good, message_id=""),
        _altered(good, tenant_id="globex"),
        _altered(good, lead_id="+33600000000"),
    )
    yield from (Entry(to, body, None, hostile=True) for body in bodies)
    nobody = _message("initech-air", "+33612345000", "UNKNOWN", "is anybody there?", 0.9)
    yield msgspec.structs.replace(message_entry(nobody), hostile=True)


def message_entry(message: dict[str, Any]) -> Entry:
    """A message as a careful publisher sends it."""
    ids = message["business_id"], message["lead_id"]
    body = msgspec.json.encode(message)
    return Entry(message_subject(*ids), body, message_dedup_id(*ids, message["message_id"]))


def _message(
    business: str,
    lead: str,
    intent: str,
    text: str,
    confidence: float,
    entities: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "message_id": f"wamid.{derived_id(f'{business}/{lead}/{text}')[:13]}",
        "business_id": business,
        "lead_id": lead,
        "intent": intent,
        "confidence": confidence,
        "entities": dict(entities or {}),
        "text": text,
        "ai": {"model": "demo", "latency_ms": 180},
    }


def _altered(entry: Entry, **fields: Any) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(entry.body) | fields)
