"""Follow how messages end, for days and through restarts: python examples/results.py [nats://127.0.0.1:4222]

A durable consumer of LEADS_OUT: it goes on where it was. Each result comes at least once; `Nats-Msg-Id` tells a
repeat. For what the leads are told, follow `leads.out.*.*.replies` in the same way: each of those comes into the
stream once, so that acknowledging one after it is sent is all that is left to do.
"""

from __future__ import annotations

import asyncio
import json
import sys

import nats
from nats.aio.msg import Msg


async def main(url: str, count: int | None) -> None:
    """Print each result, for ever or so many of them."""
    client = await nats.connect(url)
    results = await client.jetstream().pull_subscribe(
        "leads.out.*.*.results", durable="examples-results", stream="LEADS_OUT"
    )
    done = 0
    while count is None or done < count:
        try:
            messages = await results.fetch(100, timeout=5)
        except nats.errors.TimeoutError:
            continue  # nothing new
        for message in messages:
            show(message)
            await message.ack()
            done += 1
    await client.close()


def show(message: Msg) -> None:
    """One line a result."""
    result = json.loads(message.data)
    outcome = ", ".join(result["executed_actions"]) or result["error"] or "nothing was to be done"
    print(
        f"{result['business_id']}/{result['lead_id']} {result['message_id']}: {result['disposition']}: {outcome}"
    )


if __name__ == "__main__":
    asyncio.run(
        main(
            sys.argv[1] if len(sys.argv) > 1 else "nats://127.0.0.1:4222",
            int(sys.argv[2]) if len(sys.argv) > 2 else None,
        )
    )
