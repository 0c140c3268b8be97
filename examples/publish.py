"""Publish one message to Leadline with nats-py: python examples/publish.py [nats://127.0.0.1:4222]

Everything a publisher needs: the token of an id, the subject, the message id in a header, and JetStream's
confirmation, after which the message is not lost.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

import nats


def token(value: str) -> str:
    """An id as a subject's token: what is outside A-Za-z0-9_- is written =XX per UTF-8 byte."""
    return re.sub(
        r"[^A-Za-z0-9_-]", lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), value
    )


MESSAGE: dict[str, Any] = {
    "message_id": "wamid.HBgLNDkxNTExMjM0NTY3FQIAEhg=",
    "business_id": "acme-foods",
    "lead_id": "+4915112345678",
    "intent": "ORDER_REQUEST",
    "confidence": 0.93,
    "entities": {"product": "flour", "quantity": "3"},
    "text": "Three bags of flour, please",
}


async def main(url: str) -> None:
    """Publish, and print what JetStream says."""
    client = await nats.connect(url)
    business, lead = token(MESSAGE["business_id"]), token(MESSAGE["lead_id"])
    confirmed = await client.jetstream().publish(
        f"leads.in.{business}.{lead}",
        json.dumps(MESSAGE).encode(),
        headers={"Nats-Msg-Id": f"{business}/{lead}/{MESSAGE['message_id']}"},
    )
    what = "a duplicate" if confirmed.duplicate else f"sequence {confirmed.seq}"
    print(f"confirmed: {what}")
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "nats://127.0.0.1:4222"))
