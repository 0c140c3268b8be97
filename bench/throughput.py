"""Throughput beside the floor: the same messages, the same run, medians of several rounds."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from actors.nats_server import NatsServer
from bench import floor, load, whole
from domain.tenants import Tenants

MESSAGES, LEADS, ROUNDS = 20_000, 2_000, 3


def run(rounds: int = ROUNDS, messages: int = MESSAGES) -> None:
    """Print messages a second of floor and whole way, their ratio round by round, and CPU by stage."""
    tenants = Tenants.of({"bench": [load.BUSINESS]})
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as name:
        folder = Path(name)
        server = NatsServer(folder / "jetstream")
        server.start()
        try:
            print(f"filling the stream with {messages:,} messages of {LEADS:,} leads …", flush=True)
            load.fill(server.url, messages, LEADS)
            _rounds(server, folder, tenants, rounds, messages)
        finally:
            server.stop()


def _rounds(server: NatsServer, folder: Path, tenants: Tenants, rounds: int, messages: int) -> None:
    floors: list[float] = []
    runs: dict[bool, list[whole.Run]] = {False: [], True: []}
    for n in range(rounds):
        (folder / str(n)).mkdir()
        floors.append(floor.measure(server.url, folder / str(n), messages, tenants))
        for targets in (False, True):
            data = folder / f"{n}-{targets}"
            runs[targets].append(
                whole.measure(server.url, data, messages, targets=targets, server_pid=server.pid)
            )
            ratio = runs[targets][-1].per_second / floors[-1]
            what = "two targets" if targets else "no targets "
            print(
                f"round {n + 1}: floor {floors[-1]:8,.0f}/s   {what} {runs[targets][-1].per_second:8,.0f}/s"
                f"   {ratio:.2f} of the floor",
                flush=True,
            )
    print(f"\nfloor, median: {statistics.median(floors):,.0f} messages/s")
    for targets, wanted in ((False, 0.5), (True, 0.35)):
        _summary(runs[targets], floors, wanted, targets=targets)


def _summary(runs: list[whole.Run], floors: list[float], wanted: float, *, targets: bool) -> None:
    what = "a local target on each of two actions" if targets else "without targets"
    ratios = [run.per_second / floor for run, floor in zip(runs, floors, strict=True)]
    print(
        f"\n{what}: median {statistics.median(r.per_second for r in runs):,.0f} messages/s,"
        f" {statistics.median(ratios):.2f} of the floor (wanted {wanted}),"
        f" {runs[0].events / MESSAGES:.1f} events a message;"
        f" {statistics.median(r.told_per_second for r in runs):,.0f} messages/s until all results and replies are out"
    )
    for stage in sorted(runs[0].cpu, key=lambda s: -runs[0].cpu[s]):
        used = statistics.median(run.cpu.get(stage, 0.0) for run in runs)
        if used >= 0.5:
            print(f"  {used:7.1f} µs CPU a message   {stage}")
