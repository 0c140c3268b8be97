"""The floor: a bare loop that pulls, decodes, and writes five rows a message in group commits.

No actors, no views, no decisions, one thread. The same connection, decoder and recorder as Leadline's, so
that what is compared is what Leadline adds. The rows' bodies cost nothing to make: the first is the body
as it came, the others are constant and as long as real ones.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from actors import jetstream
from actors.connection import RawClient, connect
from actors.journal import EventRecorder, Row, open_recorder
from actors.pull import Pull, PullSettings
from actors.stream import PARTITIONS
from domain.messages import decode_message
from domain.tenants import Tenants

COMMIT_MESSAGES = 1000
_ROW = b'{"id":"0123456789ab-1f","at":"2026-11-02T08:00:47.333339Z","event":{%s}}' % (b"x" * 360)


class Floor:
    """Reads `count` messages and writes their rows; `seconds` is from the first request to the last commit."""

    def __init__(self, url: str, store: Path, count: int, tenants: Tenants) -> None:
        self._url = url
        self._recorder: EventRecorder = open_recorder(store)
        self._count = count
        self._tenants = tenants
        self._rows: list[Row] = []
        self._versions: dict[str, int] = {}
        self._seen = 0
        self._done = asyncio.Event()
        self._pulls = [Pull(p, PullSettings()) for p in range(PARTITIONS)]
        self._client = RawClient()
        self._inbox = ""

    async def run(self) -> float:
        await connect(self._url, name="bench floor", client=self._client, reconnect=False)
        self._inbox = self._client.new_inbox()
        await self._client.subscribe_raw(f"{self._inbox}.>", self._on_raw)
        for pull in self._pulls:
            answer = await jetstream.call(self._client, "CONSUMER.CREATE.LEADS", pull.configuration())
            pull.made(answer["name"], time.monotonic())
        began = time.perf_counter()
        for pull in self._pulls:
            self._ask(pull)
            self._ask(pull)
        await self._done.wait()
        seconds = time.perf_counter() - began
        await self._client.close()
        self._recorder.datastore.close()
        return seconds

    def _ask(self, pull: Pull) -> None:
        request = json.dumps({"batch": 500, "expires": 30_000_000_000}).encode()
        self._client.publish_now(pull.next_subject, f"{self._inbox}.{pull.partition}", request)
        pull.outstanding += 500

    def _on_raw(self, subject: bytes, _reply: bytes, _headers: bytes, body: bytes) -> None:
        if not subject.startswith(b"partition."):
            return
        tokens = subject.decode().split(".")
        pull = self._pulls[int(tokens[1])]
        pull.outstanding -= 1
        if pull.outstanding <= 500:
            self._ask(pull)
        decode_message(body, tokens[3], tokens[4], self._tenants)
        stream = f"lead:{tokens[3]}:{tokens[4]}"
        version = self._versions.get(stream, 0)
        self._versions[stream] = version + 5
        self._rows.append((stream, version + 1, "message_received.v1", body))
        for n in range(2, 6):
            self._rows.append((stream, version + n, "action_executed.v1", _ROW))
        self._seen += 1
        if self._seen % COMMIT_MESSAGES == 0 or self._seen == self._count:
            self._recorder.insert_rows(self._rows)
            self._rows = []
        if self._seen == self._count:
            self._done.set()


def measure(url: str, folder: Path, count: int, tenants: Tenants) -> float:
    """Messages a second."""

    async def run() -> float:
        return await Floor(url, folder / "floor.db", count, tenants).run()

    return count / asyncio.run(run())
