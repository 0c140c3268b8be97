"""Stop 1 of 7: the intake reads each partition of the stream LEADS from its stored position, in order.

What lives here: the connection, the consumers' lives, back-pressure, and the step from bytes to mail.
What may not: what follows from a message. The border is here because this is the last place that sees the
log as a log; behind the `Inlet` there are leads.

It owns one thread with an event loop, and is crash-only: whatever raises in it is told to `on_death`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from msgspec import Struct

from actors import connection, jetstream, stream
from actors.connection import RawClient
from actors.entry import EntryReader
from actors.incarnations import Chronicle, History, LogLife, ReadPosition, ReadStream
from actors.jetstream import JetStreamError, JetStreamSilentError
from actors.positions import Positions
from actors.protocol import Inlet, Journal
from actors.pull import Pull, PullSettings
from actors.stream import PARTITIONS, STREAM
from actors.upkeep import Checkpoints, Upkeep
from domain.commands import check_reply_to
from domain.errors import LeadlineError, Rejected
from domain.tenants import Tenants

T = TypeVar("T")


class IntakeSettings(Struct, frozen=True):
    """How the intake reads. Times in seconds."""

    #: Where NATS is.
    url: str = "nats://127.0.0.1:4222"
    #: Size the stream is made with and must have; None takes any limit.
    max_bytes: int | None = None
    #: No more is asked for while this many entries, or bytes of them, are not recorded. What was asked for
    #: before still comes: at most two requests a partition.
    max_in_hand: int = 8_000
    max_bytes_in_hand: int = 64 * 1024 * 1024
    #: Positions are written this often when they have moved: what a crash reads again, and skips.
    checkpoint_every: float = 1.0
    #: Positions of partitions without traffic are raised this often, so that the stream can be purged.
    raise_every: float = 10.0
    #: What every position has passed and is older than this is purged; None keeps all.
    keep: timedelta | None = None
    purge_every: float = 300.0
    pull: PullSettings = PullSettings()


class IntakeDiedError(LeadlineError):
    """The connection was closed for good, which nobody here asks for."""


class IntakePorts(Struct, frozen=True):
    """Who the intake works with."""

    tenants: Tenants
    inlet: Inlet
    journal: Journal
    #: The same that the journal reports to.
    positions: Positions
    read_position: ReadPosition
    read_stream: ReadStream


class Intake:
    """Reads the log. Start it once; `on_death` is called at most once, on the intake's thread."""

    def __init__(
        self,
        settings: IntakeSettings,
        ports: IntakePorts,
        *,
        on_death: Callable[[BaseException], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._positions = ports.positions
        self._on_death = on_death
        self._clock = clock
        self._reader = EntryReader(ports.tenants, ports.inlet, ports.positions)
        self._pulls = [Pull(partition, settings.pull) for partition in range(PARTITIONS)]
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = RawClient()
        self._held = False
        self._draining = False
        self._stopping = False
        self.pulled = 0
        self.remade = 0
        #: Why the log cannot be read just now; empty while it can.
        self.trouble = ""

    # What others call; any thread.

    def start(self, timeout: float = 30.0) -> None:
        """Returns when every partition has its consumer. Raises what a person can mend: no server, no
        JetStream, a stream that differs."""
        self._thread.start()
        self._started.result(timeout)

    def drain(self, timeout: float) -> bool:
        """Take nothing more; wait until all in hand is recorded; write the positions. True if it was all."""
        if self._loop is None or not self._thread.is_alive():
            return False
        return self._ask_loop(self._drain(timeout)).result(timeout + 10.0)

    def stop(self, timeout: float = 10.0) -> None:
        """Close the connection and end the thread, at once; safe at any time."""
        self._stopping = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have ended by itself
                self._loop.call_soon_threadsafe(self._over.set)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def publish(self, subject: str, body: bytes) -> None:
        """Implements `Replies`: only to inboxes [H15], and dropped where it cannot be sent."""
        try:
            check_reply_to(subject)
        except Rejected:
            return
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # stopped: the asker reads the event instead
                self._loop.call_soon_threadsafe(self._reply, subject, body)

    def gauges(self) -> dict[str, float]:
        """What the process shows of its intake beside the metrics view."""
        in_hand = self._positions.in_hand()
        return {
            "pulled": self.pulled,
            "in_hand": in_hand,
            "bytes_in_hand": self._positions.bytes_in_hand(),
            "lag": in_hand + sum(int(pull.pending) for pull in self._pulls),
            "remade_consumers": self.remade,
            "connected": float(self._client.is_connected),
        }

    @property
    def incarnation(self) -> str:
        """The life of the stream that is being read."""
        return self._life.incarnation

    # The loop's own life.

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            if not self._started.done():
                self._started.set_exception(cause)
            elif not self._stopping:
                self._on_death(cause)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._doubted = asyncio.Event()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        history = History(self._ports.read_position, self._ports.read_stream)
        await connection.connect(
            self._settings.url,
            name="leadline intake",
            client=self._client,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
        )
        try:
            await self._open(history)
            self._started.set_result(None)
            await self._work()
        finally:
            self._stopping = True
            await self._client.close()

    async def _open(self, history: History) -> None:
        """Everything up to the first pull request."""
        state = await stream.ensure(self._client, self._settings.max_bytes)
        self._checkpoints = Checkpoints(self._positions, self._ports.journal)
        self._life = LogLife(history, Chronicle(history, self._ports.journal, self._clock))
        self._go_on_from(self._life.begin(state))
        self._upkeep = Upkeep(self._client, self._positions, self._checkpoints, self._life, self._read)
        self._inbox = self._client.new_inbox()
        self._inbox_bytes = self._inbox.encode()
        await self._client.subscribe_raw(f"{self._inbox}.>", self._on_raw)
        await self._renew()

    async def _work(self) -> None:
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._mend()),
                group.create_task(self._every(settings.pull.heartbeat / 2, self._watch)),
                group.create_task(self._every(settings.checkpoint_every, self._checkpoints.write)),
                group.create_task(self._every(settings.raise_every, self._guarded(self._upkeep.raise_idle))),
                group.create_task(self._fail_with()),
            ]
            if settings.keep is not None:
                purge = self._guarded(lambda: self._upkeep.purge(settings.keep or timedelta(0)))
                tasks.append(group.create_task(self._every(settings.purge_every, purge)))
            await self._over.wait()
            for task in tasks:
                task.cancel()

    async def _every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await work()

    def _guarded(
        self, work: Callable[[], Coroutine[Any, Any, object]]
    ) -> Callable[[], Coroutine[Any, Any, object]]:
        async def once() -> None:
            # Upkeep is tried again at its next turn; a server that is away is the mender's affair.
            with contextlib.suppress(JetStreamSilentError, JetStreamError):
                if not self._draining:
                    await work()

        return once

    async def _fail_with(self) -> None:
        await self._failed

    async def _on_reconnected(self) -> None:
        for pull in self._pulls:
            self._doubt(pull)

    async def _on_closed(self) -> None:
        if not self._stopping and not self._failed.done():
            self._failed.set_exception(
                IntakeDiedError(f"NATS closed the connection: {self._client.last_error}")
            )

    # Consumers.

    def _read(self) -> list[int]:
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

    async def _mend(self) -> None:
        while True:
            await self._doubted.wait()
            self._doubted.clear()
            if self._draining or not self._client.is_connected:
                continue  # the reconnect doubts all anew
            failures = max(pull.failures for pull in self._pulls if not pull.consumer)
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
        read = self._read()  # before the server is asked: what comes in between must not look rewound
        state = await stream.ensure(self._client, self._settings.max_bytes)
        if self._life.differs(state, read):
            for pull in self._pulls:
                self._doubt(pull)
            self._go_on_from(await self._life.rewound(state, read, self._positions.all()))
        for partition, sequence in enumerate(await self._life.lost(state, self._read())):
            self._pulls[partition].last_seen = sequence
            if state.first_sequence == sequence + 1:
                self._positions.raise_to(partition, sequence)
        await asyncio.gather(*(self._make(pull) for pull in self._pulls if not pull.consumer))

    async def _make(self, pull: Pull) -> None:
        answer = await jetstream.call(self._client, f"CONSUMER.CREATE.{STREAM}", pull.configuration())
        if not self._draining:
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
        positions.when_below(
            settings.max_in_hand, settings.max_bytes_in_hand, lambda: self._soon(self._resume)
        )
        return True

    def _resume(self) -> None:
        self._held = False
        now = time.monotonic()
        for pull in self._pulls:
            if not pull.outstanding:
                pull.heard_at = now
            self._ask(pull)

    async def _watch(self) -> None:
        now = time.monotonic()
        for pull in self._pulls:
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
            if not self._failed.done():
                self._failed.set_exception(error)

    def _on_message(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        tokens = subject.split(b".")
        pull = self._pulls[int(tokens[1])]
        if self._draining or self._failed.done():
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

    # Ending, and answering.

    async def _drain(self, timeout: float) -> bool:
        self._draining = True
        empty = asyncio.Event()
        self._positions.when_below(1, 1, lambda: self._soon(empty.set))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await empty.wait()
        with contextlib.suppress(JetStreamSilentError, JetStreamError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._upkeep.raise_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await self._checkpoints.write_durably()
        return self._positions.in_hand() == 0

    def _reply(self, subject: str, body: bytes) -> None:
        if len(body) <= self._client.max_payload:
            self._client.publish_now(subject, "", body)

    def _soon(self, call: Callable[[], object]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended; nobody waits any more
                self._loop.call_soon_threadsafe(call)

    def _ask_loop(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop)
