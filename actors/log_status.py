"""How far the log is read, asked from any process: the server's sequences beside the stored positions.

Never a consumer's `num_pending`: it is an estimate, and the consumer may be another's.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from actors import stream
from actors.connection import Connection, connect
from actors.incarnations import History, ReadPosition, ReadStream, incarnation_name
from actors.stream import PARTITIONS
from domain.events import MessagesLost, StreamRewound


class PartitionStatus(Struct, frozen=True):
    """One partition. `behind` counts sequences of the whole stream, so it is an upper bound; 0 is exact."""

    partition: int
    last_sequence: int
    position: int
    behind: int


class LogStatus(Struct, frozen=True):
    """All partitions at one moment."""

    incarnation: str
    last_sequence: int
    first_sequence: int
    messages: int
    partitions: tuple[PartitionStatus, ...]
    #: The stream ends below a position, and no runner has noticed yet.
    rewound: bool
    #: What has been found missing in all incarnations, for `status` to show in red.
    lost: tuple[MessagesLost, ...]
    rewinds: tuple[StreamRewound, ...]

    @property
    def caught_up(self) -> bool:
        """Every partition's last message is at or below its position."""
        return not self.rewound and not any(partition.behind for partition in self.partitions)


async def read_status(client: Connection, read_position: ReadPosition, read_stream: ReadStream) -> LogStatus:
    """Positions are read after the sequences, so that what is reported as caught up was so."""
    state = await stream.read_state(client)
    last = await asyncio.gather(*(stream.last_sequence_of(client, p) for p in range(PARTITIONS)))
    history = History(read_position, read_stream)
    epoch = history.epoch(state.created)
    positions = history.positions(state.created, epoch)
    return LogStatus(
        incarnation_name(state.created, epoch),
        state.last_sequence,
        state.first_sequence,
        state.messages,
        tuple(
            PartitionStatus(p, sequence, position, max(0, sequence - position))
            for p, (sequence, position) in enumerate(zip(last, positions, strict=True))
        ),
        max(positions) > max(state.last_sequence, *last),
        tuple(history.losses),
        tuple(history.rewinds),
    )


async def read_status_at(url: str, read_position: ReadPosition, read_stream: ReadStream) -> LogStatus:
    """The same over a connection of its own. Raises `NatsUnreachableError`, `JetStreamSilentError`."""
    client = await connect(url, name="leadline status", reconnect=False)
    try:
        return await read_status(client, read_position, read_stream)
    finally:
        await client.close()
