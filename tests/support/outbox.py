"""What stands in LEADS_OUT, and a relay over a real server whose events, clock and end a test makes up."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from actors import jetstream, stream
from actors.connection import RawClient, connect
from actors.stream import OutLimits
from domain.ports import EventLog
from outbox.position import OutboxPosition, PositionFile, settle
from outbox.relay import Relay, RelaySettings
from outbox.replies import Replies, last_on
from outbox.sending import Sender
from tests.support.eventually import eventually
from tests.support.log import with_client


class Out(NamedTuple):
    """A message of LEADS_OUT (or a command in LEADS)."""

    subject: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.subject.rpartition(".")[2]

    @property
    def batch(self) -> str | None:
        """Which atomic batch it came in; None where it came singly."""
        return self.headers.get("Nats-Batch-Id")

    @property
    def message_id(self) -> str:
        return str(self.body["message_id"])


def out(url: str, kind: str = "") -> list[Out]:
    """Everything in LEADS_OUT, of one kind where that is given, in the order of the stream."""
    everything = with_client(url, lambda client: read_all(client, "LEADS_OUT"))
    ours = [one for one in everything if not one.subject.startswith("leads.out.probe.")]
    return [one for one in ours if kind in ("", one.kind)]


def commands(url: str) -> list[dict[str, Any]]:
    """The bodies of all commands in LEADS."""
    everything = with_client(url, lambda client: read_all(client, "LEADS"))
    return [one.body for one in everything if "command" in one.body]


async def read_all(client: Client, name: str) -> list[Out]:
    context = client.jetstream()
    try:
        info = await context.stream_info(name)
    except NotFoundError:
        return []
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
    reader = await context.subscribe(">", stream=name, ordered_consumer=True, config=config)
    try:
        found = [await reader.next_msg(10) for _ in range(info.state.messages)]
    finally:
        await reader.unsubscribe()
    return [Out(m.subject, dict(m.headers or {}), _parsed(m.data)) for m in found]


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


class ProcessIsGoneError(Exception):
    """Where a test lets the process die."""


class DyingFile(PositionFile):
    """The process dies before its position is written."""

    def write(self, position: OutboxPosition) -> None:
        raise ProcessIsGoneError


class FullFile(PositionFile):
    """The disk is full, so many times."""

    times = 0

    def write(self, position: OutboxPosition) -> None:
        if FullFile.times > 0:
            FullFile.times -= 1
            raise sqlite3.OperationalError("database or disk is full")
        super().write(position)


class Relaying:
    """Relays over one log and one folder; each `run` is a process of its own."""

    def __init__(self, url: str, folder: Path, log: EventLog, clock: Callable[[], datetime]) -> None:
        self.url = url
        self.path = folder / "outbox.db"
        self.log = log
        self.clock = clock
        self.said: list[str] = []
        self.settings = RelaySettings(linger=0.01, retry=0.05)
        #: Done once it is connected, before it has looked at anything.
        self.before: Callable[[], Awaitable[None]] | None = None

    def run(self, *, dies: bool = False, until: Callable[[], bool] | None = None) -> None:
        """A process from its start until all is out (or `until` holds); with `dies`, until its position would move."""
        try:
            asyncio.run(self._run(DyingFile if dies else FullFile, until or self.all_is_out))
        except ProcessIsGoneError:
            assert dies

    def position(self) -> OutboxPosition:
        return settle(self.path, self.log, self.said.append)

    def all_is_out(self) -> bool:
        return self.position().position == self.log.last_position()

    async def _run(self, file: type[PositionFile], until: Callable[[], bool]) -> None:
        standing = self.position()
        client = RawClient()
        positions = file(self.path)
        try:
            relay = await self._relay(client, positions, standing)
            if self.before is not None:
                await self.before()
            await _until(relay, until)
        finally:
            await client.close()
            positions.close()

    async def _relay(self, client: RawClient, positions: PositionFile, standing: OutboxPosition) -> Relay:
        sender = Sender(client)

        async def cut() -> None:
            sender.cut("the connection was cut")

        await connect(self.url, name="a relay", client=client, disconnected_cb=cut)
        await sender.open()
        sender.batches = await stream.ensure_out(client, OutLimits())

        async def last(subject: str) -> tuple[str, int] | None:
            return await last_on(client, subject)

        replies = Replies(
            self.log, last, self.clock, life=standing.life, doubtful_to=self.log.last_position()
        )
        return Relay(self.log, positions, sender, replies, self.settings, say=self.said.append)


async def _until(relay: Relay, until: Callable[[], bool]) -> None:
    stop = threading.Event()
    running: asyncio.Task[None] = asyncio.create_task(relay.run(stop))
    async with asyncio.timeout(30):
        while not until() and not running.done():  # noqa: ASYNC110  # files and clocks ring no bell
            await asyncio.sleep(0.01)
    stop.set()
    await running


def make_streams(url: str, *, duplicate_window: float = 120.0, batches: bool = True) -> None:
    """LEADS and LEADS_OUT; with a short window, JetStream forgets at once what it had."""

    async def make(client: Client) -> None:
        await stream.ensure(client)
        other = {"duplicate_window": int(duplicate_window * 1e9), "allow_atomic": batches}
        config = stream.out_configuration(OutLimits()) | other
        await jetstream.call(client, "STREAM.CREATE.LEADS_OUT", config)

    with_client(url, make)


def wait_for_a_duplicate_window(url: str) -> None:
    """JetStream remembers no longer what it had: a message that it knows is taken again."""

    async def taken_again(client: Client) -> bool:
        known = {"Nats-Msg-Id": "probe"}
        answer = await client.jetstream().publish("leads.out.probe.x.results", b"{}", headers=known)
        return not answer.duplicate

    eventually(lambda: with_client(url, taken_again))
    eventually(lambda: with_client(url, taken_again))
