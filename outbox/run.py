"""The outbox at work: its connection to NATS, the relay over it, and the service beside it, on one event loop.

The body of a thread or of a process (`projections/host.py`), which shares nothing with the actors but files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog
from msgspec import Struct

from actors import connection, stream
from actors.connection import RawClient
from actors.ownership import DataFolderLock
from actors.stream import OutLimits
from domain.ports import EventLog
from outbox.lookup import Lookup
from outbox.position import PositionFile, settle
from outbox.relay import Relay, RelaySettings
from outbox.replies import Replies, last_on
from outbox.sending import NotConfirmedError, Publication, Sender
from outbox.service import Asking
from projections.aside import Stopping

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 1.0
_LOCK_SECONDS = 0.125


class OutboxParts(Struct, frozen=True):
    """What the outbox works with; picklable, since a process opens its own."""

    open_log: Callable[[], EventLog]
    position: Path
    views: Path
    url: str
    limits: OutLimits
    relay: RelaySettings
    service: bool


def run_outbox(parts: OutboxParts, stop: Stopping) -> None:
    """Until told to stop. One at a time over a folder: the one of a runner that was killed may take a moment to end,
    and what both sent at once would not be recognised as sent."""
    lock = DataFolderLock(parts.position.parent, "outbox.lock")
    waited = 0.0
    while not lock.acquire():
        if stop.is_set():
            return
        if waited == _RETRY_SECONDS:
            log.warning("results and replies wait until the outbox of an earlier runner has ended")
        time.sleep(_LOCK_SECONDS)
        waited += _LOCK_SECONDS
    try:
        asyncio.run(_Outbox(parts).run(stop))
    finally:
        lock.release()


class _Outbox:
    """One run. Implements `relay.Outlet`."""

    def __init__(self, parts: OutboxParts) -> None:
        self._parts = parts
        self._client: RawClient | None = None
        self._sender: Sender | None = None
        self._asking: Asking | None = None
        self._closed = asyncio.Event()
        self._tried = asyncio.Event()
        self._ensured = False
        self._trouble = "not connected yet"

    async def run(self, stop: Stopping) -> None:
        parts = self._parts
        events = parts.open_log()
        positions = PositionFile(parts.position)
        connecting = asyncio.create_task(self._stay_connected(events))
        try:
            standing = positions.read() or settle(parts.position, events, log.warning)
            replies = Replies(
                events,
                self._last_on,
                lambda: datetime.now(UTC),
                life=standing.life,
                doubtful_to=events.last_position(),
            )
            await self._tried.wait()  # who is only just connecting is not held up
            await Relay(events, positions, self, replies, parts.relay, say=log.warning).run(stop)
        finally:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting
            await self._disconnect()
            positions.close()
            events.close()

    async def send(self, publications: dict[int, Publication]) -> None:
        sender = await self._ready()
        try:
            await sender.send(publications)
        except NotConfirmedError:
            self._ensured = False  # somebody may have deleted the stream: it is looked at before the next go
            raise

    async def _last_on(self, subject: str) -> tuple[str, int] | None:
        await self._ready()
        assert self._client is not None  # _ready has seen it
        return await last_on(self._client, subject)

    async def _ready(self) -> Sender:
        """Connected, with a stream to publish to. Raises `LeadlineError` with what is in the way."""
        client, sender = self._client, self._sender
        if client is None or sender is None or not client.is_connected:
            raise NotConfirmedError(f"NATS at {connection.shown(self._parts.url)}: {self._trouble}")
        if not self._ensured:
            sender.batches = await stream.ensure_out(client, self._parts.limits)
            self._ensured = True
        return sender

    async def _stay_connected(self, events: EventLog) -> None:
        """nats-py comes back by itself, but for what closes it for good."""
        while True:
            self._closed.clear()
            try:
                await self._connect(events)
                self._tried.set()
                await self._closed.wait()
            except Exception as error:  # whatever the client raises, this connection is not to be had
                self._trouble = str(error)
                self._tried.set()
            await self._disconnect()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _connect(self, events: EventLog) -> None:
        client = RawClient()
        await connection.connect(
            self._parts.url,
            name="leadline outbox",
            client=client,
            disconnected_cb=self._on_disconnected,
            closed_cb=self._on_closed,
        )
        self._client = client
        sender = Sender(client)
        await sender.open()
        self._sender = sender
        if self._parts.service:
            self._asking = Asking(client, Lookup(events, self._parts.views))
            await self._asking.start()

    async def _on_disconnected(self) -> None:
        self._ensured = False
        self._trouble = "the connection was cut"
        if self._sender is not None:
            self._sender.cut("the connection to NATS was cut")

    async def _on_closed(self) -> None:
        await self._on_disconnected()
        self._closed.set()

    async def _disconnect(self) -> None:
        asking, client = self._asking, self._client
        self._asking = self._sender = self._client = None
        if asking is not None:
            await asking.stop()
        if client is not None and not client.is_closed:
            await client.close()
