"""Traffic for the stream LEADS, and an intake that reads it into fakes."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from nats.aio.client import Client

from actors import stream
from actors.connection import connect
from actors.intake import Intake, IntakePorts, IntakeSettings
from actors.positions import Positions
from actors.publisher import PublishReport, publish
from actors.pull import PullSettings
from domain import tokens
from domain.tenants import Tenants
from tests.support.intake_fakes import FakeInlet, FakeJournal

T = TypeVar("T")

TENANTS = Tenants.of({"acme": ["acme-foods", "acme-deli"], "globex": ["globex-bank"]})
#: Signs of death are noticed in a second, not in seven.
IMPATIENT = PullSettings(expires=2.0, heartbeat=0.25)


def body(message_id: str, lead_id: str = "lead-1", business_id: str = "acme-foods", **fields: Any) -> bytes:
    """A valid message."""
    message = {
        "message_id": message_id,
        "lead_id": lead_id,
        "business_id": business_id,
        "intent": "PRICING_INQUIRY",
        "confidence": 0.9,
        **fields,
    }
    return json.dumps(message).encode()


def subject_of(lead_id: str = "lead-1", business_id: str = "acme-foods", kind: str = "in") -> bytes:
    return f"leads.{kind}.{business_id}.{tokens.encode(lead_id)}".encode()


def traffic(count: int, leads: int = 40) -> list[bytes]:
    """Messages m0, m1, … of so many leads, in turn."""
    return [body(f"m{n}", f"lead-{n % leads}", text="x" * 200) for n in range(count)]


def published(url: str, lines: Iterable[bytes]) -> PublishReport:
    report = publish(lines, url)
    assert not report.lines
    return report


def with_client(url: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """The result of `work` over a connection of its own."""

    async def run() -> T:
        client = await connect(url, name="a test", reconnect=False)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def ensured(url: str) -> stream.StreamState:
    return with_client(url, stream.ensure)


class Reading:
    """An intake at work. Give the journal of an earlier one to start where that one ended."""

    def __init__(
        self,
        url: str,
        *,
        journal: FakeJournal | None = None,
        records: bool = True,
        settings: IntakeSettings | None = None,
        pull: PullSettings = IMPATIENT,
    ) -> None:
        self.journal = journal or FakeJournal()
        self.positions = Positions()
        self.inlet = FakeInlet(self.positions, records=records)
        self.deaths: list[BaseException] = []
        settings = settings or IntakeSettings(url=url, pull=pull, checkpoint_every=0.02)
        ports = IntakePorts(
            TENANTS,
            self.inlet,
            self.journal,
            self.positions,
            self.journal.read_position,
            self.journal.read_stream,
        )
        self.intake = Intake(settings, ports, on_death=self.deaths.append)

    def handed_on(self, count: int) -> bool:
        return len(self.inlet.places) >= count

    def message_ids(self) -> list[str]:
        """Of every message delivered, in order."""
        return [mail.command.message.message_id for mail in self.inlet.mail]  # type: ignore[union-attr]

    def assert_each_once_in_order(self, count: int) -> None:
        """m0 … were all delivered, none twice, each lead's in the order published."""
        assert not self.deaths
        ids = self.message_ids()
        assert len(ids) == len(set(ids)), "something was handed over twice"
        assert set(ids) == {f"m{n}" for n in range(count)}, "something was lost"
        by_lead: dict[str, list[int]] = defaultdict(list)
        for mail, message_id in zip(self.inlet.mail, ids, strict=True):
            by_lead[mail.stream].append(int(message_id[1:]))
        assert all(numbers == sorted(numbers) for numbers in by_lead.values()), "out of order"
        by_partition: dict[int, list[int]] = defaultdict(list)
        for place in self.inlet.places:
            by_partition[place.partition].append(place.sequence)
        assert all(sequences == sorted(sequences) for sequences in by_partition.values())


@contextmanager
def reading(url: str, **options: Any) -> Iterator[Reading]:
    """A started one, stopped at the end without draining, like one that was killed."""
    one = Reading(url, **options)
    one.intake.start()
    try:
        yield one
    finally:
        one.intake.stop()
