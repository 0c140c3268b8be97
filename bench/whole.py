"""The whole way: from messages in the stream until the live views have caught up, with CPU by stage."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

import runner
import settings
import wiring
from bench.load import TENANTS
from projections.queries import Views

_TICKS = os.sysconf("SC_CLK_TCK")


class Run(Struct, frozen=True):
    """One run: messages a second, and microseconds of CPU a message by stage, until all of it is done."""

    #: Until the live views have caught up.
    per_second: float
    #: Until each result and reply is confirmed too.
    told_per_second: float
    cpu: dict[str, float]
    events: int


def measure(
    url: str, folder: Path, count: int, *, targets: bool, server_pid: int, more: Mapping[str, Any] = {}
) -> Run:
    """Start Leadline on a stream that holds `count` messages, and wait for its views."""
    chosen = settings_for(url, folder, targets=targets, more=more)
    system = runner.build(chosen)
    system.prepare()
    views = Views(wiring.views_path(chosen))
    wait_until(lambda: _position(views) is not None)
    before = _cpu(server_pid)
    began = time.perf_counter()
    system.open()
    wait_until(
        lambda: _completed(views) == count, every=0.05
    )  # each look takes some of the CPU that is measured
    seconds = time.perf_counter() - began
    wait_until(lambda: not system.gauges().get("outbox_lag_events"), every=0.05)
    told_seconds = time.perf_counter() - began
    after = _cpu(server_pid)
    events = system.store.last_position()
    system.stop()
    cpu = {stage: (after[stage] - before.get(stage, 0.0)) / count * 1e6 for stage in after}
    return Run(count / seconds, count / told_seconds, cpu, events)


def settings_for(url: str, folder: Path, *, targets: bool, more: Mapping[str, Any] = {}) -> settings.Settings:
    """Leadline's defaults, for the benchmark's one business; with `targets`, a local one on each action."""
    overrides: dict[str, Any] = {"data": str(folder), "nats.url": url, "http_port": 0, "tenants": TENANTS}
    if targets:
        local = {"kind": "scripted", "idempotency": "keyed"}
        overrides["targets"] = {"create_order": local, "notify_sales": local}
    return settings.load(Path("/dev/null"), env={}, overrides={**overrides, **more})


def _position(views: Views) -> int | None:
    try:
        return views.position().position
    except Exception:  # the projector is still making them
        return None


def _completed(views: Views) -> int:
    counted = views.metrics("message_processing_seconds_count")
    return int(counted[0]["value"]) if counted else 0


def wait_until(condition: Callable[[], bool], timeout: float = 300.0, every: float = 0.01) -> None:
    """Until the condition holds. Raises TimeoutError."""
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the benchmark hangs")
        time.sleep(every)


def _cpu(server_pid: int) -> dict[str, float]:
    """CPU seconds so far, by stage: threads of this process by their name, and the processes beside it."""
    by_stage: dict[str, float] = {}
    for thread in threading.enumerate():
        stage = _stage(thread.name)
        if thread.native_id is not None:
            stat = Path(f"/proc/self/task/{thread.native_id}/stat")
            by_stage[stage] = by_stage.get(stage, 0.0) + _seconds(stat)
    for stage, pid in _children():
        by_stage[stage] = by_stage.get(stage, 0.0) + _seconds(Path(f"/proc/{pid}/stat"))
    by_stage["nats-server"] = _seconds(Path(f"/proc/{server_pid}/stat"))
    by_stage.pop("the bench itself", None)
    return by_stage


def _stage(name: str) -> str:
    for prefix, stage in (
        ("pool", "leads (pool)"),
        ("intake", "intake"),
        ("Journal", "journal"),
        ("Worker", "targets' workers"),
        ("projector", "projector"),
        ("outbox", "outbox"),
        ("scheduler", "scheduler"),
    ):
        if name.startswith(prefix):
            return stage
    return "the bench itself"


def _children() -> list[tuple[str, int]]:
    """Followers in processes of their own: their stage, and their id."""
    children = multiprocessing.active_children()
    return [(p.name.removeprefix("leadline-"), p.pid) for p in children if p.pid is not None]


def _seconds(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
