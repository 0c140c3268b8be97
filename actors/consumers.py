"""The partitions' consumers: made, watched, doubted and made anew; and the hot path from wire to reader.

What lives here: when a consumer can no longer be believed, back-pressure, and that the log is still the same
when reading goes on. What may not: what one partition's consumer says (`actors/pull.py`), what a publisher
wrote (`actors/entry.py`), and threads (`actors/intake.py`). Everything runs on the intake's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from msgspec import Struct

from actors import jetstream, stream
from actors.connection import RawClient
from actors.entry import EntryReader
from actors.incarnations import LogLife
from actors.jetstream import JetStreamError, JetStreamSilentError
from actors.pull import Pull, PullSettings
from actors.stream import PARTITIONS, STREAM


class ReadSettings(Struct, frozen=True):
    """How the log is read."""

    #: Size the stream is made with and must have; None takes any limit.
    max_bytes: int | None = None
    #: No more is asked for while this many entries, or bytes of them, are not recorded. What was asked for
    #: before still comes: at most two requests a partition.
    max_in_hand: int = 8_000
    max_bytes_in_hand: int = 64 * 1024 * 1024
    pull: PullSettings = PullSettings()


class Consumers:
    """Reads all partitions until it is closed. `fail` is told what must end the intake."""

    def __init__(
        self,
        client: RawClient,
        life: LogLife,
        reader: EntryReader,
        *,
        settings: ReadSettings,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._client = client
        self._life = life
        self._reader = reader
        self._positions = reader.positions
        self._settings = settings
        self._fail = fail
        self._pulls = [Pull(partition, settings.pull) for partition in range(PARTITIONS)]
        self._loop = asyncio.get_running_loop()
        self._doubted = asyncio.Event()
        self._inbox = client.new_inbox()
        self._inbox_bytes = self._inbox.encode()
        self._watched_at = time.monotonic()
        self._held = False
        self._closed = False
        self.pulled = 0
        self.remade = 0
        #: Why the log cannot be read just now; empty while it can.
        self.trouble = ""

    async def open(self, positions: list[int]) -> None:
        """Everything up to the first pull requests; what fails on the way is `mend`'s to try again."""
        self._go_on_from(positions)
        await self._client.subscribe_raw(f"{self._inbox}.>", self._on_raw)
        try:
            await self._renew()
        except JetStreamSilentError as error:
            self.trouble = str(error)
            self._doubted.set()

    def close(self) -> None:
        """Take nothing more, at once; what still comes is dropped, and read again at the next start."""
        self._closed = True

    def doubt_all(self) -> None:
        """The connection is a new one: nothing that was asked for over the old one will come [H1]."""
        for pull in self._pulls:
            pull.failures = 0
            self._doubt(pull)

    def pending(self) -> int:
        """What the server last said was still to come; a gauge, never a proof."""
        return sum(int(pull.pending) for pull in self._pulls)

    def read(self) -> list[int]:
        """How far each partition was read, or is known to hold nothing."""
        return [max(pull.last_seen, at) for pull, at in zip(self._pulls, self._positions.all(), strict=True)]

    def _go_on_from(self, positions: list[int]) -> None:
        self._positions.begin(self._life.incarnation, positions)
        self._reader.incarnation = self._life.incarnation
        for pull, position in zip(self._pulls, positions, strict=True):
            pull.last_seen = position

    def _doubt(self, pull: Pull) -> None:
        """Whatever it was: the consumer is made anew from the last seen message on [H1, H2]."""
        if pull.consumer:
            self.remade += 1
            pull.failures += 1
            name = pull.consumer.decode()
            # Politeness only: without it the server removes the old one by itself.
            self._client.publish_now(f"$JS.API.CONSUMER.DELETE.{STREAM}.{name}", f"{self._inbox}.gone", b"")
            pull.forget()
        self._doubted.set()

    async def mend(self) -> None:
        """Makes consumers anew for as long as the intake lives; waits longer where they do not live long."""
        while True:
            await self._doubted.wait()
            self._doubted.clear()
            if self._closed or not self._client.is_connected:
                continue  # the reconnect doubts all anew
            failures = max((pull.failures for pull in self._pulls if not pull.consumer), default=0)
            if failures > 1:
                await asyncio.sleep(min(0.05 * 2**failures, 2.0))
            try:
                await self._renew()
                self.trouble = ""
            except (JetStreamSilentError, JetStreamError) as error:
                self.trouble = str(error)
                await asyncio.sleep(0.25)
                self._doubted.set()

    async def _renew(self) -> None:
        """A consumer for every partition without one, once it is clear that the log is still the same."""
        read = self.read()  # before the server is asked: what comes in between must not look rewound
        state = await stream.ensure(self._client, self._settings.max_bytes, pause=stream.REMOVAL)
        if self._life.differs(state, read):
            for pull in self._pulls:
                self._doubt(pull)
            self._go_on_from(await self._life.rewound(state, read, self._positions.all()))
        for partition, sequence in enumerate(await self._life.lost(state, self.read())):
            pull = self._pulls[partition]
            pull.last_seen = max(pull.last_seen, sequence)
            if state.first_sequence == sequence + 1:
                self._positions.raise_to(partition, sequence)
        making = (self._make(pull) for pull in self._pulls if not pull.consumer)
        for made in await asyncio.gather(*making, return_exceptions=True):
            if made is not None:
                raise made

    async def _make(self, pull: Pull) -> None:
        answer = await jetstream.call(self._client, f"CONSUMER.CREATE.{STREAM}", pull.configuration())
        if not self._closed:
            pull.made(answer["name"], time.monotonic())
            self._ask(pull)

    def _ask(self, pull: Pull) -> None:
        """As many requests as should be under way, unless enough is in hand."""
        while pull.wants():
            if self._held or self._full():
                return
            inbox = f"{self._inbox}.{pull.partition}.{pull.generation}"
            self._client.publish_now(pull.next_subject, inbox, pull.asked())

    def _full(self) -> bool:
        settings, positions = self._settings, self._positions
        if (
            positions.in_hand() < settings.max_in_hand
            and positions.bytes_in_hand() < settings.max_bytes_in_hand
        ):
            return False
        self._held = True
        positions.when_below(settings.max_in_hand, settings.max_bytes_in_hand, self._room)
        return True

    def _room(self) -> None:
        """On the journal's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended; nobody waits for room any more
            self._loop.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        self._held = False
        now = time.monotonic()
        for pull in self._pulls:
            if not pull.outstanding:
                pull.heard_at = now
            self._ask(pull)

    async def watch(self) -> None:
        """To be called twice a heartbeat: tells an idle partition from a dead one.

        While this process was held up (SIGSTOP, a long collection, a busy machine) nobody listened: that is
        not the server's silence, and what it said may lie in the socket unread.
        """
        now = time.monotonic()
        held_up = now - self._watched_at - self._settings.pull.heartbeat
        self._watched_at = now
        for pull in self._pulls:
            pull.heard_at += max(0.0, held_up)
            if pull.silent(now):
                self._doubt(pull)

    # The hot path.

    def _on_raw(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        try:
            if subject.startswith(b"partition."):
                self._on_message(subject, reply, headers, body)
            elif subject.startswith(self._inbox_bytes):
                self._on_status(subject, headers)
        except BaseException as error:
            # It must not end in nats-py's read loop, which would say nothing.
            self._closed = True
            self._fail(error)

    def _on_message(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        tokens = subject.split(b".")
        pull = self._pulls[int(tokens[1])]
        if self._closed:
            return
        sequence = pull.accept(reply)
        if sequence <= 0:
            if sequence < 0:
                self._doubt(pull)
            return
        self.pulled += 1
        pull.heard_at = time.monotonic()
        self._reader.read(pull.partition, sequence, tokens, headers, body)
        if not self._held and pull.wants():
            self._ask(pull)

    def _on_status(self, subject: bytes, headers: bytes) -> None:
        tail = subject[len(self._inbox_bytes) + 1 :].split(b".")
        if len(tail) != 2 or not tail[0].isdigit() or int(tail[0]) >= PARTITIONS:
            return  # the answer to a consumer's removal
        pull = self._pulls[int(tail[0])]
        if not pull.consumer or tail[1] != b"%d" % pull.generation:
            return
        pull.heard_at = time.monotonic()
        verdict = pull.judge(headers)
        if verdict == "doubt":
            self._doubt(pull)
        elif verdict == "ended":
            self._ask(pull)
