"""The messages of a round, drawn from its seed: leads that interleave, ids that collide across businesses."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import NamedTuple

from domain.tokens import encode
from tests.support.system_wire import Entry, to_own_subject

#: Business → its tenant.
BUSINESSES = {"acme-foods": "acme", "acme-deli": "acme", "globex-bank": "globex"}
#: Those whose leads' later messages wait behind a dead letter.
PARKS = ("acme-deli",)

INTENTS = (
    "ORDER_REQUEST",
    "PRICING_INQUIRY",
    "AVAILABILITY_INQUIRY",
    "COMPLAINT",
    "SCHEDULE_CALL",
    "UNKNOWN",
    "NEVER_HEARD_OF",
)

#: One message in so many is sent again at once, with its id for JetStream or without.
NEAR_DUPLICATE = 12
#: One in so many goes to the one lead that writes all the time.
CHATTERBOX = 8


class Sent(NamedTuple):
    """A publish, and what it counts as."""

    entry: Entry
    counts_as: str


class Workload:
    """An endless supply. The same seed gives the same messages."""

    def __init__(self, seed: int, messages: int, intents: tuple[str, ...] = ()) -> None:
        self._dice = random.Random(f"{seed}/workload")
        leads = max(4, messages // 6)
        #: The same ids at every business, so that whatever mixes them up mixes two businesses.
        self._leads = [_lead_id(number) for number in range(leads)]
        self._intents = (*INTENTS, *intents)
        self._number = 0
        #: Every good message so far.
        self.bodies: list[bytes] = []

    def some(self, count: int) -> Iterator[Sent]:
        """So many new messages, with the duplicates that come with them."""
        for _ in range(count):
            body = self.message()
            yield Sent(to_own_subject(body, _headers(body)), "messages")
            if self._dice.randrange(NEAR_DUPLICATE) == 0:
                headers = _headers(body) if self._dice.random() < 0.3 else None
                yield Sent(to_own_subject(body, headers), "near duplicates")

    def of_intent(self, intent: str, count: int) -> Iterator[Sent]:
        """So many new messages with this intent, and sure of it."""
        for _ in range(count):
            body = self.message(intent=intent, confidence=0.95)
            yield Sent(to_own_subject(body, _headers(body)), "messages")

    def message(self, **fields: object) -> bytes:
        """A good one; `fields` instead of what would be drawn."""
        dice = self._dice
        business = dice.choice(list(BUSINESSES))
        lead = self._leads[0] if dice.randrange(CHATTERBOX) == 0 else dice.choice(self._leads)
        # Few enough that the same message id comes at several businesses and leads.
        self._number += 1
        message_id = f"wamid.{self._number // 2}/{dice.randrange(3)}=="
        document = {
            "message_id": message_id,
            "lead_id": lead,
            "business_id": business,
            "intent": dice.choice(self._intents),
            "confidence": dice.choice((0.2, 0.6, 0.9, round(dice.random(), 3))),
            "text": f"{business}|{lead}|{message_id}|{dice.randrange(10**6)}",
            "entities": {"product": "flour"} if dice.random() < 0.7 else {},
        }
        if dice.random() < 0.3:
            document["ai"] = {"model": "m", "latency_ms": round(dice.random() * 900, 2)}
        if dice.random() < 0.3:
            document["tenant_id"] = BUSINESSES[business]
        body = json.dumps(document | fields).encode()
        self.bodies.append(body)
        return body


def _lead_id(number: int) -> str:
    return (f"+4915{number:07}", f"DE.user:{number}", f"lead {number}/é")[number % 3]


def _headers(body: bytes) -> dict[str, str]:
    ids = json.loads(body)
    return {"Nats-Msg-Id": f"{encode(ids['business_id'])}/{encode(ids['lead_id'])}/{ids['message_id']}"}
