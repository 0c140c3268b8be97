"""The benchmark's messages, and a stream filled with them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from actors import connection, stream
from domain.messages import message_subject

BUSINESS = "bench-shop"
TENANTS = {"bench": {"businesses": [BUSINESS]}}
_IN_FLIGHT = 2000
#: Just now: what is older than a day would be answered with a task, not with a reply.
_RECEIVED_AT = datetime.now(UTC).isoformat()


def message(number: int, leads: int) -> tuple[str, bytes]:
    """Subject and body of the n-th message: an order whose two actions are beyond doubt."""
    lead_id = f"+49170{number % leads:07d}"
    body = {
        "message_id": f"wamid.{number:010d}/bench==",
        "lead_id": lead_id,
        "business_id": BUSINESS,
        "intent": "ORDER_REQUEST",
        "confidence": 0.93,
        "entities": {"product": "espresso beans", "quantity": "2 kg"},
        "text": "hello, I would like to order two kilos of your espresso beans please",
        "received_at": _RECEIVED_AT,
        "ai": {"model": "bench-1", "latency_ms": 129},
        "suggested_response": "Thanks! We are preparing your order.",
    }
    return message_subject(BUSINESS, lead_id), msgspec.json.encode(body)


def messages(count: int, leads: int) -> Iterator[tuple[str, bytes]]:
    return (message(number, leads) for number in range(count))


def fill(url: str, count: int, leads: int) -> None:
    """Publish the messages, each confirmed by JetStream."""
    asyncio.run(_fill(url, count, leads))


async def _fill(url: str, count: int, leads: int) -> None:
    client = await connection.connect(url, name="bench fill", reconnect=False)
    await stream.ensure(client)
    inbox = client.new_inbox()
    room = asyncio.Semaphore(_IN_FLIGHT)

    async def confirmed(_answer: object) -> None:
        room.release()

    await client.subscribe(f"{inbox}.*", cb=confirmed)
    for number, (subject, body) in enumerate(messages(count, leads)):
        await room.acquire()
        await client.publish(subject, body, reply=f"{inbox}.{number}")
    for _ in range(_IN_FLIGHT):
        await room.acquire()
    await client.close()
