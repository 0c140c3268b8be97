"""Replay speed: all views from an event store of a million events."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from actors.event_store import EventStore
from actors.executors import registry as executors
from actors.journal import Row, open_recorder
from bench import load
from domain import codec, lead
from domain.commands import ReceiveMessage
from domain.events import Place, Recorded
from domain.intents import registry as intents
from domain.lead import LeadState
from domain.messages import decode_message
from domain.playbook import Playbook
from domain.tenants import Tenants
from domain.tokens import lead_stream
from projections.rebuild import rebuild

EVENTS, LEADS = 1_000_000, 20_000
_BATCH = 20_000


def run() -> None:
    """Print events a second."""
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as name:
        folder = Path(name)
        print(f"making {EVENTS:,} events …", flush=True)
        made = _make(folder / "events.db")
        log = EventStore.open(folder / "events.db")
        began = time.perf_counter()
        rebuild(log, folder / "views.db", open_log=partial(EventStore.open, folder / "events.db"))
        seconds = time.perf_counter() - began
        log.close()
        print(
            f"rebuild of {made:,} events in {seconds:.1f} s: {made / seconds:,.0f} events/s (wanted: 60,000)"
        )


def _make(path: Path) -> int:
    """Events as the leads themselves would have recorded them."""
    recorder = open_recorder(path)
    rows: list[Row] = []
    count = 0
    for recorded in _events():
        rows.append((recorded.stream, recorded.version, *codec.encode(recorded)))
        count += 1
        if len(rows) == _BATCH or count == EVENTS:
            recorder.insert_rows(rows)
            rows = []
        if count == EVENTS:
            break
    recorder.datastore.close()
    return count


def _events() -> Iterator[Recorded]:
    tenants = Tenants.of({"bench": [load.BUSINESS]})
    specs = {name: executor.spec for name, executor in executors.discover().items()}
    playbook = Playbook(tenants, intents.discover(), specs, lambda _business, _action: ())
    states: dict[str, LeadState] = {}
    now = datetime(2026, 11, 2, 8, tzinfo=UTC)
    for number in range(EVENTS):
        subject, body = load.message(number, LEADS)
        _, _, business, token = subject.split(".")
        stream = lead_stream(business, token)
        state = states.setdefault(stream, LeadState(stream))
        now += timedelta(milliseconds=10)
        command = ReceiveMessage(decode_message(body, business, token, tenants))
        events = lead.decide(state, command, playbook, now=now, place=Place("0.0", 0, number + 1))
        while events:
            for event in events:
                recorded = Recorded(
                    stream, state.version + 1, event, f"bench-{number:x}-{state.version:x}", now
                )
                lead.evolve(state, recorded)
                yield recorded
            events = lead.follow(state, playbook, now)
