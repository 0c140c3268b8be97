"""Publishing past `leadline publish`: any subject, any bytes, any headers, each confirmed by JetStream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import nats
from nats.aio.client import Client

from domain.tokens import encode

AT_ONCE = 500


class Entry(NamedTuple):
    """One publish."""

    subject: str
    body: bytes
    headers: dict[str, str] | None = None


def message(message_id: str, lead: str = "+49 151/1", business: str = "acme-foods", **fields: Any) -> bytes:
    """A message's body; a pricing inquiry unless `fields` say otherwise."""
    document = {
        "message_id": message_id,
        "lead_id": lead,
        "business_id": business,
        "intent": "PRICING_INQUIRY",
        "confidence": 0.9,
    }
    return json.dumps(document | fields).encode()


def order(message_id: str, lead: str = "+49 151/1", business: str = "acme-foods") -> bytes:
    """An order that is sure: `create_order`, then `notify_sales`."""
    return message(message_id, lead, business, intent="ORDER_REQUEST", entities={"product": "flour"})


def to_own_subject(body: bytes, headers: dict[str, str] | None = None) -> Entry:
    """Where a message belongs, without an id for JetStream to find duplicates by."""
    ids = json.loads(body)
    return Entry(f"leads.in.{encode(ids['business_id'])}.{encode(ids['lead_id'])}", body, headers)


def publish_raw(url: str, entries: Sequence[Entry]) -> list[int]:
    """Publish in order; the sequence in the stream of each. AssertionError for one that is refused."""
    return asyncio.run(_publish(url, entries))


async def _publish(url: str, entries: Sequence[Entry]) -> list[int]:
    client = await nats.connect(url, max_reconnect_attempts=0)
    try:
        sequences = []
        for start in range(0, len(entries), AT_ONCE):
            some = entries[start : start + AT_ONCE]
            sequences += await asyncio.gather(*(_one(client, entry) for entry in some))
        return sequences
    finally:
        await client.close()


async def _one(client: Client, entry: Entry) -> int:
    answer = await client.request(entry.subject, entry.body, timeout=30, headers=entry.headers)
    confirmed = json.loads(answer.data)
    assert "error" not in confirmed, confirmed
    return int(confirmed["seq"])
