"""Latency: from a publisher's send to the durable `MessageCompleted`, at an open-loop rate.

The publisher is a process of its own and does not wait for answers; both processes read the same monotonic
clock. A message's end is when the journal reports its place, right after the commit.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import runner
from actors import connection
from actors.nats_server import NatsServer
from bench import load, whole
from domain.events import Place

RATE, SECONDS, WARM_UP = 100, 20, 2


def run() -> None:
    """Print p50, p90, p99 and the worst, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as name:
        server = NatsServer(Path(name) / "jetstream")
        server.start()
        try:
            system = runner.build(whole.settings_for(server.url, Path(name) / "data", targets=False))
            samples = measure(system, load.messages(RATE * SECONDS, 500))
        finally:
            server.stop()
    cuts = statistics.quantiles(samples, n=100)
    print(
        f"{len(samples)} messages at {RATE}/s: p50 {cuts[49]:.1f} ms, p90 {cuts[89]:.1f} ms,"
        f" p99 {cuts[98]:.1f} ms, worst {max(samples):.1f} ms (wanted: p50 under 5, p99 under 15)"
    )


def measure(system: runner.System, messages: Iterable[tuple[str, bytes]]) -> list[float]:
    """Milliseconds from send to the end, of each message of the benchmark's business; the first two seconds are
    left out. Starts and stops the system."""
    publishes = list(messages)
    ended: dict[int, float] = {}
    recorded = system.positions.recorded

    def noting(places: Iterable[Place]) -> None:
        now = time.monotonic()
        told = list(places)
        ended.update((place.sequence, now) for place in told)
        recorded(told)

    system.positions.recorded = noting  # type: ignore[method-assign]  # what the bench adds
    system.start()
    context = multiprocessing.get_context("spawn")
    answers: Queue[Any] = context.Queue()
    publisher = context.Process(
        target=_publish, args=(system.settings.nats.url, publishes, answers), daemon=True
    )
    publisher.start()
    sent: dict[int, float] = answers.get(timeout=SECONDS * 5 + 60)
    publisher.join()
    whole.wait_until(lambda: sent.keys() <= ended.keys())
    system.stop()
    first = min(sent.values()) + WARM_UP
    return [(ended[n] - at) * 1000 for n, at in sent.items() if at >= first]


def _publish(url: str, publishes: Sequence[tuple[str, bytes]], answers: Queue[Any]) -> None:
    """Send at the rate, whatever comes back; the stream's sequences come with the confirmations."""
    answers.put(asyncio.run(_open_loop(url, publishes)))


async def _open_loop(url: str, publishes: Sequence[tuple[str, bytes]]) -> dict[int, float]:
    client = await connection.connect(url, name="bench latency", reconnect=False)
    inbox, at, sequences = client.new_inbox(), {}, {}
    all_in = asyncio.Event()
    total = len(publishes)

    async def confirmed(answer: Any) -> None:
        sequences[int(answer.subject.rpartition(".")[2])] = int(json.loads(answer.data)["seq"])
        if len(sequences) == total:
            all_in.set()

    await client.subscribe(f"{inbox}.*", cb=confirmed)
    began = time.monotonic()
    for number, (subject, body) in enumerate(publishes):
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        at[number] = time.monotonic()
        await client.publish(subject, body, reply=f"{inbox}.{number}")
        await client.flush()
    await all_in.wait()
    await client.close()
    counted = f".{load.BUSINESS}."
    return {sequences[n]: sent for n, sent in at.items() if counted in publishes[n][0]}
