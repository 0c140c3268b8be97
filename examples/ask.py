"""Have a message handled and wait for its result: python examples/ask.py [nats://127.0.0.1:4222] [MESSAGE_ID]

The message is in the log before the answer comes: whoever is told "accepted", or is told nothing because the
connection broke, asks again with the same message id, and gets the result that it had. Nothing is done twice.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from typing import Any

import nats
import nats.errors

TIMEOUT_MS = 5_000


async def main(url: str, message_id: str) -> None:
    """Ask, and print what came of it."""
    message: dict[str, Any] = {
        "message_id": message_id,
        "business_id": "acme-foods",
        "lead_id": "+4915112345678",
        "intent": "AVAILABILITY_INQUIRY",
        "confidence": 0.91,
        "text": "Do you have rye flour?",
    }
    client = await nats.connect(url)
    try:
        answer = await client.request(
            "leads.process",
            json.dumps(message).encode(),
            timeout=TIMEOUT_MS / 1000 + 5,
            headers={"Timeout-Ms": str(TIMEOUT_MS)},
        )
    except nats.errors.NoRespondersError:
        sys.exit("nobody answers at leads.process: Leadline is not up, or only just starting; ask again")
    finally:
        await client.close()
    refused = (answer.headers or {}).get("Nats-Service-Error")
    if refused is not None:
        sys.exit(f"refused: {refused}")
    result = json.loads(answer.data)
    if result["disposition"] == "in_progress":
        print(f"accepted, still at work; the result comes on {result['results']}")
    else:
        print(
            f"{result['disposition']}: {result['executed_actions']}; the lead is told: {result['response']}"
        )


if __name__ == "__main__":
    asyncio.run(
        main(
            sys.argv[1] if len(sys.argv) > 1 else "nats://127.0.0.1:4222",
            sys.argv[2] if len(sys.argv) > 2 else str(uuid.uuid4()),
        )
    )
