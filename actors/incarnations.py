"""Which life of the stream its sequences belong to, and what of it was never read [H6, H7].

An incarnation is `<created>.<epoch>`: nanoseconds since 1970 at which the stream was made, and how often
it was found to end below a position since. What is found is an event in `intake:<partition>`, and what is
known is read back from there, so that a crash between the event and the positions loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from actors.positions import position_name
from actors.protocol import Append, AppendResult, Committed, Journal
from actors.stream import PARTITIONS, StreamState
from domain import codec
from domain.errors import LeadlineError
from domain.events import Event, MessagesLost, Recorded, StreamRewound
from domain.skips import Missing
from domain.tokens import derived_id

#: A stored position by its name, None where there is none.
ReadPosition = Callable[[str], int | None]
#: The events of a stream, in order; empty for a new one.
ReadStream = Callable[[str], Sequence[Recorded]]


def incarnation_name(created: int, epoch: int) -> str:
    return f"{created}.{epoch}"


def intake_stream(partition: int) -> str:
    return f"intake:{partition}"


class History:
    """What is recorded about the log itself, over all partitions."""

    def __init__(
        self, read_position: ReadPosition, read_stream: ReadStream, partitions: int = PARTITIONS
    ) -> None:
        self._read_position = read_position
        self.partitions = partitions
        self.versions = [0] * partitions
        self.rewinds: list[StreamRewound] = []
        self.losses: list[MessagesLost] = []
        #: Partitions with an event that cannot be read and that a person has skipped: it may have been a rewind.
        self.doubted: set[int] = set()
        #: How many such events there are: so many lives of the stream may be unknown.
        self.missing = 0
        for partition in range(partitions):
            for recorded in read_stream(intake_stream(partition)):
                self.versions[partition] = recorded.version
                if isinstance(recorded.event, Missing):
                    self.doubted.add(partition)
                    self.missing += 1
                self.learn(recorded.event)

    def learn(self, event: Event) -> None:
        if isinstance(event, StreamRewound):
            self.rewinds.append(event)
            self.doubted.discard(event.partition)
        elif isinstance(event, MessagesLost):
            self.losses.append(event)

    def untold(self, incarnation: str, gap: range) -> int:
        """How many sequences of a partition's gap no other's loss has told of: gaps of one purge end where the
        stream begins, so that the longest holds the others."""
        last = gap.stop - 1
        told = [loss for loss in self.losses if (loss.incarnation, loss.to_sequence) == (incarnation, last)]
        begun = min((loss.from_sequence for loss in told), default=gap.stop)
        return max(0, begun - gap.start)

    def epoch(self, created: int) -> int:
        """How often the stream made at that time has been found rewound; one life for all partitions."""
        lives = (rewind.new_incarnation.partition(".") for rewind in self.rewinds)
        return max((int(epoch) for made, _, epoch in lives if made == str(created)), default=0)

    def positions(self, created: int, epoch: int) -> list[int]:
        """Each partition's position in that life. One that was not written follows from the life before."""
        return [self._position(partition, created, epoch) for partition in range(self.partitions)]

    def _position(self, partition: int, created: int, epoch: int) -> int:
        incarnation = incarnation_name(created, epoch)
        position = self._read_position(position_name(partition, incarnation, self.partitions))
        if position is None and epoch > 0:
            ends = [rewind.last_sequence for rewind in self.rewinds if rewind.new_incarnation == incarnation]
            position = min([self._position(partition, created, epoch - 1), *ends])
        lost = [
            loss.to_sequence
            for loss in self.losses
            if loss.partition == partition and loss.incarnation == incarnation
        ]
        return max([position or 0, *lost])


class JournalRefusedError(LeadlineError):
    """The journal could not record what the intake found out about the log."""


class Chronicle:
    """Writes what is found out about the log, and waits until it is durable. The intake's loop only."""

    def __init__(self, history: History, journal: Journal, clock: Callable[[], datetime]) -> None:
        self._history = history
        self._journal = journal
        self._clock = clock

    async def record(self, partition: int, event: Event) -> None:
        """Durable on return. Raises `JournalRefusedError`: the intake is crash-only."""
        stream = intake_stream(partition)
        version = self._history.versions[partition]
        recorded = Recorded(
            stream, version + 1, event, event_id=derived_id(f"{stream}/{version + 1}"), at=self._clock()
        )
        loop = asyncio.get_running_loop()
        done: asyncio.Future[AppendResult] = loop.create_future()

        def reply(result: AppendResult) -> None:
            loop.call_soon_threadsafe(done.set_result, result)

        self._journal.append(Append(stream, version, (codec.encode(recorded),), reply))
        result = await done
        if not isinstance(result, Committed):
            raise JournalRefusedError(f"{stream} cannot take {type(event).__name__}: {result}")
        self._history.versions[partition] = version + 1
        self._history.learn(event)


class LogLife:
    """The current incarnation, compared with what the server says the stream is. The intake's loop only."""

    def __init__(self, history: History, chronicle: Chronicle) -> None:
        self._history = history
        self._chronicle = chronicle
        self.created = 0
        self.epoch = 0

    @property
    def incarnation(self) -> str:
        return incarnation_name(self.created, self.epoch)

    def begin(self, state: StreamState) -> list[int]:
        """At the first connect: the positions to read from, before they are compared with the stream."""
        self.created = state.created
        self.epoch = self._history.epoch(state.created)
        return self._history.positions(self.created, self.epoch)

    def differs(self, state: StreamState, read: Sequence[int]) -> bool:
        """The stream is not the one that was read: made anew, or it ends below what was read of it; also where
        nobody can tell."""
        if self._history.doubted:
            return True
        return state.created != self.created or max(read) > state.last_sequence

    async def rewound(self, state: StreamState, read: Sequence[int], positions: Sequence[int]) -> list[int]:
        """Begins a new incarnation, for a stream that `differs`: its positions, once that is recorded.

        `read` is how far each partition was read, at or above its position. Where nobody can tell how far the
        stream was rewound once, all that it holds is read again: the leads know what they have.
        """
        doubted = self._history.doubted
        end = state.first_sequence - 1 if doubted else state.last_sequence
        if state.created == self.created:
            created, epoch = self.created, self.epoch + 1 + (self._history.missing if doubted else 0)
            new = [min(position, end) for position in positions]
            ahead = {p for p, sequence in enumerate(read) if sequence > end}
        else:
            created, epoch = state.created, self._history.epoch(state.created)
            epoch += self._history.missing if doubted else 0
            new = [0] * len(read) if doubted else self._history.positions(created, epoch)
            ahead = {p for p, sequence in enumerate(read) if sequence > 0}
        name = incarnation_name(created, epoch)
        for n, p in enumerate(sorted(ahead | doubted)):
            event = StreamRewound(p, self.incarnation, read[p], end, name, told=n > 0)
            await self._chronicle.record(p, event)
        self.created, self.epoch = created, epoch
        return new

    async def lost(self, state: StreamState, read: Sequence[int]) -> list[int]:
        """`read`, raised to where the stream begins; what lies between was never read, and is recorded so."""
        raised = list(read)
        for partition, sequence in enumerate(read):
            if state.first_sequence > sequence + 1:
                raised[partition] = state.first_sequence - 1
                untold = self._history.untold(self.incarnation, range(sequence + 1, state.first_sequence))
                event = MessagesLost(partition, self.incarnation, sequence + 1, raised[partition], untold)
                await self._chronicle.record(partition, event)
        return raised
