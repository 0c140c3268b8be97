"""Memory: 100,000 leads woken one after the other, of which at most 20,000 live at a time.

The directory, the leads and the journal as they run, without NATS; in a process of its own, so that the
figure is its own.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import runner
from actors.protocol import Mail
from bench import load, whole
from domain.commands import ReceiveMessage
from domain.events import Place
from domain.messages import decode_message
from domain.tokens import lead_stream
from settings import PARTITIONS

LEADS, LIVING, IN_HAND = 100_000, 20_000, 4_000


def run() -> None:
    """Print peak memory of the process, and what a living lead costs."""
    context = multiprocessing.get_context("spawn")
    answers: Queue[Any] = context.Queue()
    process = context.Process(target=_wake_all, args=(answers,))
    process.start()
    before, after, living, seconds = answers.get(timeout=900)
    process.join()
    print(
        f"{LEADS:,} leads woken in {seconds:.0f} s, {living:,} living: {after:.0f} MB resident"
        f" (wanted: under 500), {(after - before) * 1024 / max(1, living):.1f} KiB a living lead"
    )


def _wake_all(answers: Queue[Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as name:
        more = {"leads.max_living": LIVING, "projector.mode": "thread", "projector.linger_ms": 60_000}
        settings = whole.settings_for("nats://127.0.0.1:1", Path(name), targets=False, more=more)
        system = runner.build(settings)
        system.prepare()
        system.positions.begin("0.0", [0] * PARTITIONS)
        before, began = _resident_mb(), time.monotonic()
        tenants = settings.tenants()
        for number in range(LEADS):
            subject, body = load.message(number, LEADS)
            _, _, business, lead = subject.split(".")
            message = decode_message(body, business, lead, tenants)
            place = Place("0.0", 0, number + 1)
            system.positions.took(place, len(body))
            system.directory.deliver(Mail(lead_stream(business, lead), place, ReceiveMessage(message)))
            while system.positions.in_hand() > IN_HAND:
                time.sleep(0.001)
        whole.wait_until(lambda: not system.positions.in_hand())
        living = int(system.directory.gauges()["leads_living"])
        answers.put((before, _resident_mb(), living, time.monotonic() - began))


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")
