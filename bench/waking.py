"""Waking: one lead with 100,000 messages of its last eight days, put to sleep and woken, through its actor."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import msgspec

import runner
from actors.lead import LeadActor
from actors.protocol import Mail
from bench import load, whole
from domain.commands import ReceiveMessage
from domain.events import Place
from domain.messages import decode_message
from domain.tokens import lead_stream
from settings import PARTITIONS

MESSAGES, IN_HAND, ROUNDS = 100_000, 2_000, 5


def run() -> None:
    """Print how long the lead takes to wake, and from how much."""
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as name:
        more = {"projector.mode": "thread", "projector.linger_ms": 60_000}
        system = runner.build(whole.settings_for("nats://127.0.0.1:1", Path(name), targets=False, more=more))
        system.prepare()
        stream = _one_lead_gets_them_all(system)
        warm = statistics.median(_wake(system, stream) for _ in range(ROUNDS))
        cold = _wake(system, stream, without_snapshot=True)
        kept = system.store.snapshot(stream, LeadActor.snapshots.shape) or b""
        print(
            f"a lead with {MESSAGES:,} messages, {system.store.last_position():,} events: awake in"
            f" {warm * 1000:.0f} ms (wanted: under 200), {cold * 1000:,.0f} ms without its"
            f" snapshot of {len(kept) / 1e6:.1f} MB"
        )
        system.stop()


def _wake(system: runner.System, stream: str, *, without_snapshot: bool = False) -> float:
    """Seconds until an actor has read its lead's state."""
    parts = system.directory._parts  # noqa: SLF001  # what the directory makes its leads with
    assert parts is not None  # the system is prepared
    if without_snapshot:
        nothing = msgspec.structs.replace(parts.recording, snapshot=lambda _stream, _shape: None)
        parts = msgspec.structs.replace(parts, recording=nothing)
    actor = LeadActor(stream, parts)
    began = time.perf_counter()
    actor.load()
    return time.perf_counter() - began


def _one_lead_gets_them_all(system: runner.System) -> str:
    system.positions.begin("0.0", [0] * PARTITIONS)
    tenants = system.settings.tenants()
    stream = ""
    for number in range(MESSAGES):
        subject, body = load.message(number, 1)
        _, _, business, lead = subject.split(".")
        stream = lead_stream(business, lead)
        place = Place("0.0", 0, number + 1)
        system.positions.took(place, len(body))
        message = decode_message(body, business, lead, tenants)
        system.directory.deliver(Mail(stream, place, ReceiveMessage(message)))
        while system.positions.in_hand() > IN_HAND:
            time.sleep(0.001)
    whole.wait_until(lambda: not system.positions.in_hand())
    return stream
