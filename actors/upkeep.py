"""What keeps the log short and its positions honest: checkpoints, raising idle partitions, purging.

Everything runs on the intake's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from actors import jetstream, stream
from actors.connection import Connection
from actors.incarnations import LogLife
from actors.jetstream import JetStreamError
from actors.positions import Positions
from actors.protocol import Journal
from actors.stream import STREAM


class Checkpoints:
    """Hands positions that have moved to the journal, one batch under way at a time."""

    def __init__(self, positions: Positions, journal: Journal) -> None:
        self._positions = positions
        self._journal = journal
        self._under_way: asyncio.Future[None] | None = None

    async def write(self) -> None:
        """Begin to write what has moved; while the journal is busy with the last, leave it for the next turn."""
        if self._under_way is not None and not self._under_way.done():
            return
        moved = self._positions.unwritten()
        if not moved:
            return
        loop = asyncio.get_running_loop()
        under_way = self._under_way = loop.create_future()

        def done() -> None:
            with contextlib.suppress(RuntimeError):  # the intake has stopped; nobody waits for it any more
                loop.call_soon_threadsafe(_settle, under_way)

        self._journal.checkpoint(moved, done)

    async def write_durably(self) -> None:
        """What has moved until now is durable on return."""
        if self._under_way is not None:
            await asyncio.shield(self._under_way)
        await self.write()
        if self._under_way is not None:
            await asyncio.shield(self._under_way)


class Upkeep:
    """Raises the positions of partitions without traffic, and purges what all have passed."""

    def __init__(
        self,
        client: Connection,
        positions: Positions,
        checkpoints: Checkpoints,
        life: LogLife,
        read: Callable[[], list[int]],
    ) -> None:
        self._client = client
        self._positions = positions
        self._checkpoints = checkpoints
        self._life = life
        self._read = read

    async def raise_idle(self) -> None:
        """Partitions with nothing between their position and the stream's end are moved to that end, so that
        a later purge does not look like a loss [H7]. Proved by each partition's last message, read after the end."""
        state = await stream.read_state(self._client)
        incarnation = self._life.incarnation
        if self._life.differs(state, self._read()):
            return
        behind = [p for p, at in enumerate(self._positions.all()) if at < state.last_sequence]
        last = await asyncio.gather(*(stream.last_sequence_of(self._client, p) for p in behind))
        if incarnation != self._life.incarnation:
            return
        for partition, sequence in zip(behind, last, strict=True):
            if sequence <= self._positions.position(partition):
                self._positions.raise_to(partition, state.last_sequence)

    async def purge(self, keep: timedelta) -> None:
        """Remove what lies below every durable position and is older than `keep`."""
        await self.raise_idle()
        incarnation, positions = self._life.incarnation, self._positions.all()
        await self._checkpoints.write_durably()
        state = await stream.read_state(self._client)
        if incarnation != self._life.incarnation or self._life.differs(state, [0]):
            return
        first_kept = min(min(positions) + 1, await self._first_since(datetime.now(UTC) - keep))
        if first_kept > state.first_sequence:
            await jetstream.call(self._client, f"STREAM.PURGE.{STREAM}", {"seq": first_kept})

    async def _first_since(self, instant: datetime) -> int:
        """The first sequence stored at or after an instant: where a consumer by start time would begin."""
        answer = await jetstream.call(
            self._client,
            f"CONSUMER.CREATE.{STREAM}",
            {
                "stream_name": STREAM,
                "config": {
                    "deliver_policy": "by_start_time",
                    "opt_start_time": instant.isoformat().replace("+00:00", "Z"),
                    "ack_policy": "none",
                    "mem_storage": True,
                    "inactive_threshold": 5_000_000_000,
                },
            },
        )
        with contextlib.suppress(JetStreamError):  # gone already; it goes by itself otherwise
            await jetstream.call(self._client, f"CONSUMER.DELETE.{STREAM}.{answer['name']}")
        return int(answer["delivered"]["stream_seq"]) + 1


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
