"""The whole way with a webhook target that answers in 5 ms: a signed request over HTTP for each message."""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

from actors.nats_server import NatsServer
from bench import load, receiver, whole

MESSAGES, LEADS, ROUNDS, WORKERS = 4_000, 400, 3, 32
_SECRET = "whsec_YmVuY2htYXJrcyBoYXZlIG5vIHNlY3JldHM="  # noqa: S105  # the benchmark's own


def run() -> None:
    """Print messages a second and CPU by stage."""
    os.environ["LEADLINE_BENCH_SECRET"] = _SECRET
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as name, receiver.receiving() as url:
        target = {
            "kind": "webhook",
            "url": url,
            "workers": WORKERS,
            "secrets": [{"env": "LEADLINE_BENCH_SECRET"}],
        }
        folder = Path(name)
        server = NatsServer(folder / "jetstream")
        server.start()
        try:
            load.fill(server.url, MESSAGES, LEADS)
            more = {"targets": {"notify_sales": target}}
            runs = [
                whole.measure(
                    server.url, folder / str(n), MESSAGES, targets=False, server_pid=server.pid, more=more
                )
                for n in range(ROUNDS)
            ]
        finally:
            server.stop()
    print(
        f"a webhook answering in {receiver.ANSWER_SECONDS * 1000:.0f} ms, {WORKERS} workers: median"
        f" {statistics.median(r.per_second for r in runs):,.0f} messages/s"
    )
    for stage in sorted(runs[0].cpu, key=lambda s: -runs[0].cpu[s]):
        used = statistics.median(run.cpu.get(stage, 0.0) for run in runs)
        if used >= 0.5:
            print(f"  {used:7.1f} µs CPU a message   {stage}")
