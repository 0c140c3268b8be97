"""The relay: events in batches become results and replies, and the position moves once all are confirmed.

Here lives the loop and its watch over what it stands on: the position, an event that cannot be read, a NATS that is
away. What a result is stands in `domain/results.py`, which reply still goes out in `outbox/replies.py`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from domain.errors import LeadlineError, UnknownEventError
from domain.events import Recorded
from domain.ports import EventLog
from domain.results import FOLLOWED, Ended, Results
from outbox.position import OutboxPosition, PositionFile, advanced
from outbox.replies import Replies
from outbox.sending import NotConfirmedError, Publication
from outbox.wire import result_publication
from projections.aside import Stopping


class RelaySettings(Struct, frozen=True):
    """What goes out, and at which pace. Times in seconds."""

    results: bool = True
    replies: bool = True
    #: Events read at once: of 500 messages, whose results and replies are the most that JetStream takes at once.
    batch: int = 3000
    #: Between two looks for new events.
    linger: float = 0.025
    #: The same in a flood, of so many events a second: 1,000 messages. JetStream takes a publication of 700 together at
    #: half the price of one of 100; where few come, nobody waits for more.
    gather: float = 0.1
    flood: float = 6000.0
    #: Between two tries where something holds it up.
    retry: float = 1.0

    def pause(self, moved: int, seconds: float) -> float:
        """Until the next look, after one that moved on by so many events, `seconds` after the one before it."""
        if moved >= self.batch:
            return 0.0
        return max(self.linger, self.gather) if moved > self.flood * seconds else self.linger


class Outlet(Protocol):
    """Where publications go; the loop's own thread."""

    async def send(self, publications: dict[int, Publication]) -> None:
        """As `Sender.send`; raises `LeadlineError` where they cannot go out just now."""
        ...


class _StoppedError(Exception):
    """It was told to stop while something held it up: what is not confirmed is sent by the next."""


class Relay:
    """Publishes what the events say, in their order, each at least once. One event loop's thread.

    `say` gets one line where an operator should know: what holds it up is said once until it goes on.
    """

    def __init__(
        self,
        log: EventLog,
        positions: PositionFile,
        outlet: Outlet,
        replies: Replies,
        settings: RelaySettings,
        *,
        say: Callable[[str], None],
    ) -> None:
        self._log = log
        self._positions = positions
        self._outlet = outlet
        self._replies = replies
        self._settings = settings
        self._say = say
        self._fold = Results(log)
        self._standing = _standing(positions)
        #: The position has moved, and could not be written yet: what it has passed is out, and not sent again.
        self._unwritten = False
        self._holding: set[str] = set()
        #: When it looked for new events last, by the loop's clock.
        self._looked = 0.0

    async def run(self, stop: Stopping) -> None:
        """Relay until told to stop, then once more what is there. An exception that leaves it is a defect."""
        while not stop.is_set():
            delay = await self.step(stop)
            if delay:
                await asyncio.sleep(delay)
        await self.step(stop)

    async def step(self, stop: Stopping) -> float:
        """One look for new events. The seconds to wait before the next."""
        try:
            return await self._go_on(stop)
        except (sqlite3.OperationalError, OSError) as error:
            self._held_up(str(error))
            return self._settings.retry
        except _StoppedError:
            return self._settings.linger

    async def _go_on(self, stop: Stopping) -> float:
        if self._unwritten or self._positions.gone():
            self._write()
        standing, settings = self._standing, self._settings
        since, self._looked = self._looked, asyncio.get_running_loop().time()
        try:
            batch = self._log.read(standing.position, settings.batch, FOLLOWED)
        except UnknownEventError as error:
            return self._stopped(str(error))
        if not batch:
            return settings.linger
        done, ended, trouble = self._folded(batch)
        if done is not None:
            await self._deliver(ended, stop)
            self._move(advanced(standing, done))
            self._holding.clear()
        if trouble is not None:
            return self._stopped(trouble)
        return settings.pause(batch[-1].position - standing.position, self._looked - since)

    def _folded(self, batch: Sequence[Recorded]) -> tuple[Recorded | None, list[Ended], str | None]:
        """How far the batch can be folded, what it ended, and what stops it there."""
        done: Recorded | None = None
        found: list[Ended] = []
        for recorded in batch:
            try:
                ended = self._fold.apply(recorded)
            except Exception as error:  # whatever one event makes the fold raise stops it at that event
                why = f"event {recorded.position} of {recorded.stream} cannot be relayed: {error}"
                return done, found, why
            if ended is not None:
                found.append(ended)
            done = recorded
        return done, found, None

    async def _deliver(self, ended: Sequence[Ended], stop: Stopping) -> None:
        """Until each is confirmed; again while something holds it up. Raises `_StoppedError` when told to stop."""
        life = self._standing.life
        results: dict[int, Publication] = {}
        if self._settings.results:
            results = {n: result_publication(one, life) for n, one in enumerate(ended)}
        replies: dict[int, Ended] = {}
        if self._settings.replies:  # numbered after the results
            replies = {n: one for n, one in enumerate(ended, len(ended)) if one.result.response}
        while results or replies:
            try:
                await self._send(results, replies)
            except LeadlineError as error:
                self._replies.doubt(replies.values())
                if isinstance(error, UnknownEventError):
                    self._stopped(str(error))
                else:
                    self._held_up(str(error))
                if stop.is_set():
                    raise _StoppedError from None
                await asyncio.sleep(self._settings.retry)

    async def _send(self, results: dict[int, Publication], replies: dict[int, Ended]) -> None:
        """One go at what is not confirmed; what is, or is not due, leaves the two. Results first: whoever waits is told
        soonest."""
        unsent = results | await self._replies.due(replies)
        try:
            await self._outlet.send(unsent)
        finally:
            for left in results, replies:
                for n in left.keys() - unsent.keys():
                    del left[n]

    def _move(self, standing: OutboxPosition) -> None:
        self._standing, self._unwritten = standing, True
        self._write()

    def _write(self) -> None:
        self._positions.write(self._standing)
        self._unwritten = False

    def _stopped(self, why: str) -> float:
        """At this event and no further, where everybody can see it; tried again, since a store can be mended."""
        if self._standing.stopped != why:
            self._say(f"results and replies stop after event {self._standing.position}: {why}")
            self._move(msgspec.structs.replace(self._standing, stopped=why))
        return self._settings.retry

    def _held_up(self, why: str) -> None:
        if why not in self._holding:
            self._holding.add(why)
            self._say(f"results and replies are held up, tried again until they go on: {why}")


def _standing(positions: PositionFile) -> OutboxPosition:
    standing = positions.read()
    if standing is None:
        raise NotConfirmedError("there is no position to go on from")
    return standing
