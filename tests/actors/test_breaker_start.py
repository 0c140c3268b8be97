"""A breaker that starts reads what its state follows from, however long its stream is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.breaker import BreakerActor
from actors.event_store import PART
from actors.journal import open_recorder
from domain import breaker, codec
from domain.breaker import Breaker
from domain.events import BreakerClosed, BreakerHalfOpened, BreakerOpened, Event, Recorded
from tests.support.actors_outside import T0, HeldTarget
from tests.support.actors_system import ActorSystem, Boot, Log
from tests.support.eventually import eventually

SALES = "notify_sales-target"
BREAKER = f"breaker:{SALES}"
OPENED = BreakerOpened(SALES, 5, 5, T0 + timedelta(seconds=20), 20_000_000, "503")
#: A start tries this one at once.
REFUSED = msgspec.structs.replace(OPENED, configuration=True)
HALF = BreakerHalfOpened(SALES)
CLOSED = BreakerClosed(SALES)
#: Long enough for a replay to be felt.
ROUNDS = 2_000


def recorded(folder: Path, *last: Event) -> Breaker:
    """A stream that opened, half-opened and closed many times, and then `last`; the breaker by all of it."""
    events = [OPENED, HALF, CLOSED] * ROUNDS + list(last)
    history = [Recorded(BREAKER, n, event, f"id-{n}", T0) for n, event in enumerate(events, start=1)]
    recorder = open_recorder(folder / "events.db")
    recorder.insert_rows([(r.stream, r.version, *codec.encode(r)) for r in history])
    recorder.datastore.close()
    state = Breaker(SALES)
    for event in events:
        state = breaker.evolve(state, event)
    return state


def read_by(actor: BreakerActor) -> list[int]:
    """The versions that a breaker reads when it starts; those that a look at the stream's end brings along."""
    read: list[int] = []
    parts = actor.parts

    def load(stream: str, **bounds: Any) -> Sequence[Recorded]:
        found = parts.load(stream, **bounds)
        read.extend(r.version for r in found)
        return found

    def backwards(stream: str) -> Iterator[Recorded]:
        for event in parts.backwards(stream):
            read.append(event.version)
            yield event

    actor.parts = msgspec.structs.replace(parts, load=load, backwards=backwards)
    actor.load()
    return read


@pytest.mark.parametrize(
    "last",
    [(), (OPENED,), (OPENED, HALF), (OPENED, HALF, OPENED, HALF)],
    ids=lambda last: f"{len(last)} more",
)
def test_a_breaker_starts_from_its_last_whole_transition(
    boot: Boot, tmp_path: Path, last: tuple[Event, ...]
) -> None:
    expected = recorded(tmp_path, *last)
    system: ActorSystem = boot(Log(), {"notify_sales": HeldTarget()})
    eventually(lambda: system.breakers[SALES].version() >= 3 * ROUNDS + len(last))
    actor = BreakerActor(
        system.targets[SALES], system.breakers[SALES].parts, system.calls, system.timers.arm, system._died
    )
    read = read_by(actor)
    assert actor._breaker == expected
    assert actor.version() == 3 * ROUNDS + len(last)
    assert len(read) <= 4 < PART


def test_a_breaker_that_starts_from_the_end_of_a_long_stream_goes_on_with_it(
    boot: Boot, tmp_path: Path
) -> None:
    """It was opened by a configuration: a start probes, and the call that went well is recorded behind the rest."""
    recorded(tmp_path, REFUSED)
    log = Log()
    system = boot(log, {"notify_sales": HeldTarget()})
    system.settle()
    for n in range(2):
        log.message("m", f"lead-{n}")
    system.read()
    system.settle()
    assert [type(r.event) for r in system.history(BREAKER)[3 * ROUNDS :]] == [
        BreakerOpened,
        BreakerHalfOpened,
        BreakerClosed,
    ]
    assert system.kinds("lead-1")[-1] == "MessageCompleted"
