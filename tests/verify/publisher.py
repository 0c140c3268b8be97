"""Publishes from a thread of its own until each entry is confirmed, whatever happens to NATS meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterable
from queue import SimpleQueue

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError

from tests.verify.evidence import Confirmed
from tests.verify.workload import Sent
from tests.verify.world import World

AT_ONCE = 200
#: How long one publish waits to be confirmed before it is sent again, as any publisher would.
CONFIRM_SECONDS = 3.0


class Publisher:
    """Takes publishes from any thread; those of one `put` go out together, in order of the puts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: SimpleQueue[list[Sent] | None] = SimpleQueue()
        self._open = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def put(self, sent: Iterable[Sent]) -> None:
        some = list(sent)
        with self._changed:
            self._open += len(some)
        self._waiting.put(some)

    def wait(self, within: float) -> bool:
        """Until all that was put is confirmed."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._open == 0 or not self._thread.is_alive(), within
            ) and (self._open == 0)

    def stop(self) -> None:
        self._waiting.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        try:
            asyncio.run(self._publish())
        except Exception as error:  # the round must say so, not hang
            self._world.violates(f"the publisher failed: {error!r}")

    async def _publish(self) -> None:
        client = await nats.connect(
            self._world.server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_quiet
        )
        try:
            while (some := await asyncio.to_thread(self._waiting.get)) is not None:
                for start in range(0, len(some), AT_ONCE):
                    await asyncio.gather(*(self._one(client, sent) for sent in some[start : start + AT_ONCE]))
        finally:
            with contextlib.suppress(NatsError, OSError):
                await client.close()

    async def _one(self, client: Client, sent: Sent) -> None:
        entry = sent.entry
        while True:
            with contextlib.suppress(NatsError, OSError, asyncio.TimeoutError):
                answer = await client.request(
                    entry.subject, entry.body, timeout=CONFIRM_SECONDS, headers=entry.headers
                )
                confirmed = json.loads(answer.data) if answer.data else {}
                if "seq" in confirmed:
                    break
            self._world.tally["publishes sent again"] += 1
            await asyncio.sleep(0.1)
        if confirmed.get("duplicate"):
            self._world.tally["duplicates that JetStream took out"] += 1
        else:
            self._world.tally[sent.counts_as] += 1
            self._world.confirmed.append(Confirmed(confirmed["seq"], entry.subject, entry.body))
        with self._changed:
            self._open -= 1
            self._changed.notify_all()


async def _quiet(_: Exception) -> None:
    """A server that is away is the round's own doing."""
