"""What a round leaves behind, read once: the log, the events, the views, the positions, the targets' ledgers.

The invariants read this and nothing else, so that each can be handed evidence that was falsified.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import nats
from nats.aio.client import Client

from actors.stream import OUT_STREAM, PARTITIONS, STREAM
from domain import codec
from domain import events as ev
from domain.events import Event, Recorded
from domain.skips import SKIPS_STREAM, Skips
from outbox.position import OutboxPosition, read_position
from outbox.wire import EVENT_HEADER
from tests.support.system_sql import VIEWS, Row, query
from tests.verify.ledgers import Line, read_ledgers, read_servers

#: Requests under way at once while the log is read.
AT_ONCE = 500


class Entry(NamedTuple):
    """One entry of the log. `subject` as the stream keeps it: `partition.<p>.<in|cmd>.<business>.<lead>`."""

    sequence: int
    subject: str
    body: bytes

    @property
    def partition(self) -> int:
        return int(self.subject.split(".")[1])

    @property
    def kind(self) -> str:
        return self.subject.split(".")[2]

    @property
    def lead(self) -> tuple[str, str]:
        """Business token and lead token, canonical or not."""
        _, _, _, business, lead = self.subject.split(".", 4)
        return business, lead


class Confirmed(NamedTuple):
    """A publish that JetStream has confirmed: where, and what."""

    sequence: int
    subject: str
    body: bytes


class Kept(NamedTuple):
    """A snapshot: a stream's state at a version, as it stands in the store."""

    stream: str
    version: int
    shape: str
    state: bytes


class Out(NamedTuple):
    """A message of LEADS_OUT."""

    sequence: int
    subject: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.subject.rpartition(".")[2]

    @property
    def event(self) -> tuple[str, int]:
        """The life of positions and the event that it was made from."""
        life, _, position = self.headers.get(EVENT_HEADER, "/0").partition("/")
        return life, int(position)


@dataclass
class Evidence:
    """Everything that the invariants look at."""

    data: Path
    #: Business → its tenant.
    businesses: dict[str, str]
    confirmed: list[Confirmed] = field(default_factory=list)
    log: list[Entry] = field(default_factory=list)
    events: list[Recorded] = field(default_factory=list)
    #: Partition → its recorded position.
    positions: dict[int, int] = field(default_factory=dict)
    views: dict[str, list[Row]] = field(default_factory=dict)
    ledger: list[Line] = field(default_factory=list)
    snapshots: list[Kept] = field(default_factory=list)
    #: LEADS_OUT, and how far it is complete by what the outbox says; None before it has begun.
    out: list[Out] = field(default_factory=list)
    outbox: OutboxPosition | None = None

    @cached_property
    def streams(self) -> dict[str, list[Recorded]]:
        """Stream id → its events, in order."""
        found: dict[str, list[Recorded]] = defaultdict(list)
        for recorded in self.events:
            found[recorded.stream].append(recorded)
        return dict(found)

    @cached_property
    def leads(self) -> dict[str, list[Event]]:
        """A lead's stream id → its history without envelopes."""
        return {
            stream: [recorded.event for recorded in history]
            for stream, history in self.streams.items()
            if stream.startswith("lead:")
        }


def gather(
    data: Path,
    url: str,
    businesses: dict[str, str],
    confirmed: Iterable[Confirmed] = (),
    ledgers: Path | None = None,
) -> Evidence:
    """All of it, at one moment after which nothing is at work. `url` is NATS's own, not a proxy's."""
    evidence = gather_events(data, businesses, ledgers)
    evidence.confirmed = list(confirmed)
    evidence.log = read_log(url)
    evidence.out = read_out(url)
    evidence.views = {name: query(data / "views.db", f"SELECT * FROM {name}") for name in VIEWS}
    return evidence


def gather_events(data: Path, businesses: dict[str, str], ledgers: Path | None = None) -> Evidence:
    """What can be read beside a dead runner, or a living one: positions first, then the events, then the ledgers."""
    evidence = Evidence(data, businesses)
    store = data / "events.db"
    if store.exists():
        evidence.positions = read_positions(store)
        evidence.snapshots = read_snapshots(store)
        evidence.outbox = read_position(data / "outbox.db")
        evidence.events = read_events(store)
    if ledgers is not None:
        keys = (event.key for _, event in of_type(evidence.events, ev.ActionStarted))
        evidence.ledger = read_ledgers(ledgers) + read_servers(ledgers, keys)
    return evidence


def read_positions(store: Path) -> dict[int, int]:
    """Partition → position. Of several incarnations of the stream, the highest of each."""
    rows = query(
        store, "SELECT application_name AS name, MAX(notification_id) AS at FROM tracking GROUP BY 1"
    )
    prefix = f"intake:{PARTITIONS}:"
    found: dict[int, int] = {}
    for row in rows:
        if row["name"].startswith(prefix):
            partition = int(row["name"].split(":")[2])
            found[partition] = max(found.get(partition, 0), row["at"])
    return found


def read_snapshots(store: Path) -> list[Kept]:
    rows = query(store, "SELECT originator_id, originator_version, shape, state FROM snapshots")
    return [Kept(*row.values()) for row in rows]


def read_events(store: Path) -> list[Recorded]:
    """The whole store in the order of its commits, but for what a person has skipped."""
    sql = "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events ORDER BY rowid"
    with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        rows = list(connection.execute(sql))
    skips = Skips()
    for position, stream, version, topic, state in rows:
        if stream == SKIPS_STREAM:
            skips.learn(codec.decode(topic, state, stream, version, position))
    return [
        codec.decode(topic, state, stream, version, position)
        for position, stream, version, topic, state in rows
        if not skips.cover(position, stream, topic, state)
    ]


def read_log(url: str, after: int = 0) -> list[Entry]:
    """The stream's entries behind a sequence, by single requests: no consumer that could miss one."""
    return [Entry(one["seq"], one["subject"], _bytes(one, "data")) for one in _read(url, STREAM, after)]


def read_out(url: str, after: int = 0) -> list[Out]:
    """The same of LEADS_OUT."""
    found = []
    for one in _read(url, OUT_STREAM, after):
        parsed = BytesHeaderParser().parsebytes(_bytes(one, "hdrs").partition(b"\r\n")[2])
        headers = {name: str(value) for name, value in parsed.items()}
        found.append(Out(one["seq"], one["subject"], headers, json.loads(_bytes(one, "data"))))
    return found


def _bytes(message: dict[str, Any], name: str) -> bytes:
    return base64.b64decode(message.get(name, ""))


def _read(url: str, stream: str, after: int) -> list[dict[str, Any]]:
    return asyncio.run(_read_all(url, stream, after))


async def _read_all(url: str, stream: str, after: int) -> list[dict[str, Any]]:
    client = await nats.connect(url, max_reconnect_attempts=0)
    try:
        info = await _ask(client, f"STREAM.INFO.{stream}", {})
        sequences = range(after + 1, info["state"]["last_seq"] + 1)
        found: list[dict[str, Any]] = []
        for start in range(0, len(sequences), AT_ONCE):
            some = sequences[start : start + AT_ONCE]
            asked = (_ask(client, f"STREAM.MSG.GET.{stream}", {"seq": sequence}) for sequence in some)
            found += [answer["message"] for answer in await asyncio.gather(*asked)]
        return found
    finally:
        await client.close()


async def _ask(client: Client, subject: str, document: dict[str, Any]) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.{subject}", json.dumps(document).encode(), timeout=30)
    decoded: dict[str, Any] = json.loads(answer.data)
    assert "error" not in decoded, decoded
    return decoded


def of_type(events: Sequence[Recorded], *kinds: type[Event]) -> list[tuple[Recorded, Any]]:
    """Those events with their envelopes; Any, since each caller knows the fields it asked for."""
    return [(recorded, recorded.event) for recorded in events if isinstance(recorded.event, kinds)]
