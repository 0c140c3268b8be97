"""One business's slow target beside another's messages: p99 with a target of 5 s, and with one that answers at once."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import runner
from actors.nats_server import NatsServer
from bench import latency, load, whole
from domain.messages import message_subject

SLOW_BUSINESS, SLOW_MS, ROUNDS = "slow-shop", 5_000.0, 3
#: One message of so many is the slow business's.
ONE_OF = 5


def run() -> None:
    """Print the other business's p99, round by round in turn, and the ratio of the medians."""
    p99: dict[float, list[float]] = {0.0: [], SLOW_MS: []}
    for _ in range(ROUNDS):
        for delay, found in p99.items():
            found.append(_round(delay))
            print(
                f"  the slow business's target answers in {delay:5.0f} ms: p99 of the other {found[-1]:.1f} ms"
            )
    quick, slow = (statistics.median(found) for found in p99.values())
    print(
        f"p99 {quick:.1f} ms beside a quick target, {slow:.1f} ms beside a slow one: {slow / quick:.2f} (wanted: 1.2)"
    )


def _round(delay_ms: float) -> float:
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as name:
        server = NatsServer(Path(name) / "jetstream")
        server.start()
        try:
            target = {"kind": "scripted", "idempotency": "keyed", "delay_ms": delay_ms}
            more = {
                "tenants": {**load.TENANTS, "other": {"businesses": [SLOW_BUSINESS]}},
                "businesses": {SLOW_BUSINESS: {"targets": {"notify_sales": target}}},
                "drain_seconds": 0.1,
            }
            settings = whole.settings_for(server.url, Path(name) / "data", targets=False, more=more)
            samples = latency.measure(runner.build(settings), _mixed())
        finally:
            server.stop()
    return statistics.quantiles(samples, n=100)[98]


def _mixed() -> Iterator[tuple[str, bytes]]:
    for number, (subject, body) in enumerate(load.messages(latency.RATE * latency.SECONDS, 500)):
        if number % ONE_OF:
            yield subject, body
            continue
        message = {**json.loads(body), "business_id": SLOW_BUSINESS}
        yield message_subject(SLOW_BUSINESS, message["lead_id"]), json.dumps(message).encode()
