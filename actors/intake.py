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
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog
from msgspec import Struct

from actors import connection, stream
from actors.connection import RawClient
from actors.consumers import Consumers, ReadSettings
from actors.entry import EntryReader
from actors.incarnations import Chronicle, History, LogLife, ReadPosition, ReadStream
from actors.jetstream import JetStreamError, JetStreamSilentError
from actors.positions import Positions
from actors.protocol import Inlet, Journal
from actors.stream import OutLimits
from actors.upkeep import Checkpoints, Upkeep
from domain.commands import check_reply_to
from domain.errors import LeadlineError, Rejected
from domain.tenants import Tenants

log = structlog.get_logger(__name__)

T = TypeVar("T")


class IntakeSettings(ReadSettings, frozen=True):
    """How the intake lives. Times in seconds."""

    #: Where NATS is.
    url: str = "nats://127.0.0.1:4222"
    #: LEADS_OUT is ensured with these limits, so that it is there for whoever reads it; None where nothing goes out.
    out: OutLimits | None = None
    #: Positions are written this often when they have moved: what a crash reads again, and skips.
    checkpoint_every: float = 1.0
    #: Positions of partitions without traffic are raised this often, so that the stream can be purged.
    raise_every: float = 10.0
    #: What every position has passed and is older than this is purged; None keeps all.
    keep: timedelta | None = None
    purge_every: float = 300.0


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
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = RawClient()
        self._consumers: Consumers | None = None
        self._draining = False
        self._closing = False
        self._stop_asked = False

    # What others call; any thread.

    def start(self, timeout: float = 30.0) -> None:
        """Returns when every partition has its consumer. Raises what a person can mend: no server, no
        JetStream, a stream that differs."""
        self._thread.start()
        try:
            self._started.result(timeout)
        except TimeoutError:
            raise IntakeDiedError(
                f"the log could not be opened within {timeout:g} s: {self.trouble}"
            ) from None

    def drain(self, timeout: float) -> bool:
        """Take nothing more; wait until all in hand is recorded; write the positions. True if it was all."""
        if self._loop is None or not self._thread.is_alive():
            return False
        return self._ask_loop(self._drain(timeout)).result(timeout + 10.0)

    def stop(self, timeout: float = 10.0) -> None:
        """Close the connection and end the thread, at once; safe at any time."""
        self._stop_asked = True
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
        consumers, in_hand = self._consumers, self._positions.in_hand()
        return {
            "pulled": consumers.pulled if consumers else 0,
            "in_hand": in_hand,
            "bytes_in_hand": self._positions.bytes_in_hand(),
            "lag": in_hand + (consumers.pending() if consumers else 0),
            "remade_consumers": consumers.remade if consumers else 0,
            "connected": float(self._client.is_connected),
        }

    @property
    def incarnation(self) -> str:
        """The life of the stream that is being read."""
        return self._life.incarnation

    @property
    def trouble(self) -> str:
        """Why the log cannot be read just now; empty while it can."""
        return self._consumers.trouble if self._consumers else ""

    # The loop's own life.

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            if not self._started.done():
                self._started.set_exception(cause)
            elif not self._stop_asked:
                self._on_death(cause)

    async def _main(self) -> None:
        self._over = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
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
            self._closing = True
            await self._client.close()

    async def _open(self, history: History) -> None:
        """Everything up to the first pull request."""
        state = await stream.ensure(self._client, self._settings.max_bytes)
        if self._settings.out is not None:
            await stream.ensure_out(self._client, self._settings.out)
        self._checkpoints = Checkpoints(self._positions, self._ports.journal)
        self._life = LogLife(history, Chronicle(history, self._ports.journal, self._clock))
        consumers = self._consumers = Consumers(
            self._client,
            self._life,
            EntryReader(self._ports.tenants, self._ports.inlet, self._positions),
            settings=self._settings,
            fail=self._fail,
        )
        self._upkeep = Upkeep(self._client, self._positions, self._checkpoints, self._life, consumers.read)
        positions = self._life.begin(state)
        if self._settings.out is not None and not any(positions):
            await self._look_for_another()
        await consumers.open(positions)

    async def _look_for_another(self) -> None:
        """Whether somebody has handled this stream: a folder that has handled nothing does all of it a second time."""
        told = await stream.messages_out(self._client)
        if told:
            log.warning(
                "this data folder has handled nothing, and results are in LEADS_OUT already: if another folder handles"
                " this stream, stop here, for all of its messages are handled again, with calls and replies",
                results_and_replies=told,
            )

    async def _work(self) -> None:
        settings = self._settings
        consumers = self._consumers
        assert consumers is not None
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(consumers.mend()),
                group.create_task(self._every(settings.pull.heartbeat / 2, consumers.watch)),
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
        if self._consumers is not None:
            self._consumers.doubt_all()

    async def _on_closed(self) -> None:
        if not self._closing:
            self._fail(IntakeDiedError(f"NATS closed the connection: {self._client.last_error}"))

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    # Ending, and answering.

    async def _drain(self, timeout: float) -> bool:
        self._draining = True
        if self._consumers is not None:
            self._consumers.close()
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
        await self._purge_last()
        return self._positions.in_hand() == 0

    async def _purge_last(self) -> None:
        """Runs that are shorter than `purge_every` would never purge, and their stream would fill."""
        keep = self._settings.keep
        if keep is not None:
            with contextlib.suppress(JetStreamSilentError, JetStreamError, TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._upkeep.purge(keep)

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
